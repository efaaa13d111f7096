"""Autodiff on any backend, and central differences to hold it against."""

import keras
import numpy as np


def autodiff(loss, arrays):
    """Gradients of the scalar `loss(*tensors)`, as NumPy arrays."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        tensors = [jax.numpy.asarray(a) for a in arrays]
        grads = jax.grad(loss, argnums=tuple(range(len(tensors))))(*tensors)
    elif backend == "tensorflow":
        import tensorflow as tf

        tensors = [tf.convert_to_tensor(a) for a in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = loss(*tensors)
        grads = tape.gradient(value, tensors)
    else:
        import torch

        tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
        grads = torch.autograd.grad(loss(*tensors), tensors)
    return [keras.ops.convert_to_numpy(g) for g in grads]


def gradient_penalty(loss, array):
    """`sum(dloss/dx ** 2)` and its gradient in `x`: gradients of gradients."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def penalty(x):
            return (jax.grad(loss)(x) ** 2).sum()

        value, slope = jax.value_and_grad(penalty)(jax.numpy.asarray(array))
    elif backend == "tensorflow":
        import tensorflow as tf

        x = tf.convert_to_tensor(array)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = loss(x)
            value = tf.reduce_sum(inner.gradient(y, x) ** 2)
        slope = outer.gradient(value, x)
    else:
        import torch

        x = torch.tensor(array, requires_grad=True)
        (first,) = torch.autograd.grad(loss(x), x, create_graph=True)
        value = (first**2).sum()
        (slope,) = torch.autograd.grad(value, x)
    return [keras.ops.convert_to_numpy(t) for t in (value, slope)]


def compile_penalty(loss, compiled):
    """`gradient_penalty` of `loss` as a graph, with XLA if `compiled`."""
    backend = keras.backend.backend()
    if backend == "jax" and compiled:
        import jax

        loss = jax.jit(loss)
    if backend != "tensorflow":
        return lambda array: gradient_penalty(loss, array)
    import tensorflow as tf

    @tf.function(jit_compile=compiled)
    def penalty(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = loss(x)
            value = tf.reduce_sum(inner.gradient(y, x) ** 2)
        return value, outer.gradient(value, x)

    return lambda array: [t.numpy() for t in penalty(tf.constant(array))]


def central_differences(loss, arrays, step=1e-5):
    """The same by moving every entry a little, with no autodiff at all."""
    # Hundreds of calls, each slow when not compiled.
    if keras.backend.backend() == "jax":
        import jax

        loss = jax.jit(loss)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        loss = tf.function(loss, autograph=False)
    found = []
    for i, array in enumerate(arrays):
        slope = np.zeros_like(array)
        for at in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[i][at] += sign * step
                tensors = [keras.ops.convert_to_tensor(a) for a in moved]
                values.append(float(keras.ops.convert_to_numpy(loss(*tensors))))
            slope[at] = (values[0] - values[1]) / (2 * step)
        found.append(slope)
    return found

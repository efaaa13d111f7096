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


def central_differences(loss, arrays, step=1e-5):
    """The same by moving every entry a little, with no autodiff at all."""
    if keras.backend.backend() == "jax":
        import jax

        loss = jax.jit(loss)  # Hundreds of calls, each slow when not compiled.
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

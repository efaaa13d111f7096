"""Fast calls of models and functions on TensorFlow: graphs."""

import contextlib

import tensorflow as tf


def compile_call(model):
    """A compiled inference call of `model`, its weights read at each call."""

    @tf.function
    def call(inputs):
        return model(inputs, training=False)

    return call


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    answers = model.outputs[: len(model.outputs) - count]
    first = len(answers)

    # One trace for chunks of any length.
    @tf.function(reduce_retracing=True)
    def call(samples, states):
        length = tf.shape(samples[0])[1]
        arrays = [
            tf.TensorArray(y.dtype, length) for y in model.outputs[:first]
        ]

        def body(t, states, arrays):
            sample = [x[:, t] for x in samples]
            outputs = tf.nest.flatten(model([*sample, *states], training=False))
            arrays = [
                array.write(t, y)
                for array, y in zip(arrays, outputs[:first], strict=True)
            ]
            return t + 1, outputs[first:], arrays

        _, states, arrays = tf.while_loop(
            lambda t, *_: t < length, body, (0, list(states), arrays)
        )
        outputs = []
        for array, y in zip(arrays, answers, strict=True):
            whole = array.stack()
            whole.set_shape((None, *y.shape))
            order = [1, 0, *range(2, len(y.shape) + 1)]
            outputs.append(tf.transpose(whole, order))
        return outputs, states

    return call


def compile_gradient(function):
    """Compiled `(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """

    @tf.function(reduce_retracing=True)
    def gradients(leaves, *rest):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            y, seen = function(leaves, *rest)
        zeros = tf.UnconnectedGradients.ZERO
        found = tape.gradient(y, leaves, unconnected_gradients=zeros)
        return found, seen

    return gradients


class OwnRandomness(contextlib.nullcontext):
    """What happens within leaves the backend's generator alone: it has none."""

"""Taps on TensorFlow: slices of one channel after the other."""

import tensorflow as tf

from keras_mgrade.ops.kernels.tensorflow import (
    graphs,
    taps_in_graphs,
    taps_in_xla,
)


def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    way = taps_in_xla if graphs.compiled() else taps_in_graphs
    sum_of_taps, tap_gradients = way.sum_of_taps, way.tap_gradients
    if graphs.trains():
        sum_of_taps = graphs.one_copy(sum_of_taps)
        tap_gradients = graphs.one_copy(tap_gradients)
    length = None if x.shape[1] is None else x.shape[1] - history
    delays = tf.transpose(delays)

    @tf.custom_gradient
    def forward(x, weights):
        y = sum_of_taps(x, weights, delays, history)
        # What is traced for another length may be used for this one.
        shape = x.shape.as_list()
        shape[way.TIME] = length
        y.set_shape(shape)

        def gradient(upstream):
            d_x, d_weights = tap_gradients(x, weights, delays, upstream)
            d_x.set_shape(x.shape)
            d_weights.set_shape(weights.shape)
            return d_x, d_weights

        return y, gradient

    # Tensors, not variables, which a custom gradient would have to know.
    x, weights = map(tf.convert_to_tensor, (x, weights))
    # Outside of it, so that what is kept for the gradient is in order already.
    y = forward(tf.transpose(x, way.ORDER), tf.transpose(weights))
    return tf.transpose(y, [way.ORDER.index(axis) for axis in range(3)])


def fourier_is_faster(taps, length):
    """Than a dense convolution, for kernels of so many taps.

    Measured on a processor. XLA's depthwise convolution is slow there; that
    of a graph is fast, but for long kernels on long sequences.
    """
    if graphs.compiled():
        return taps > 1
    return taps >= 16 and length >= 512

"""Taps on TensorFlow: slices in a loop over channels."""

import os

import tensorflow as tf

# Not part of the public interface, which has no slice that XLA may move.
from tensorflow.compiler.tf2xla.ops import gen_xla_ops as xla

from keras_mgrade.ops.kernels.tensorflow import graphs


def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    # XLA is fastest where a channel's steps follow one another; in a graph a
    # window of whole rows is no copy.
    time = 1 if graphs.compiled() else 0
    sum_of_taps, gradients = _sum_of_taps, _tap_gradients
    if graphs.trains():
        sum_of_taps, gradients = (
            graphs.one_copy(sum_of_taps),
            graphs.one_copy(gradients),
        )
    length = None if x.shape[1] is None else x.shape[1] - history
    delays = tf.transpose(delays)

    @tf.custom_gradient
    def forward(x, weights):
        y = sum_of_taps(x, weights, delays, history, time)
        # What is traced for another length may be used for this one.
        shape = x.shape.as_list()
        shape[1 + time] = length
        y.set_shape(shape)

        def gradient(upstream):
            d_x, d_weights = gradients(
                x, weights, delays, upstream, history, time
            )
            d_x.set_shape(x.shape)
            return d_x, d_weights

        return y, gradient

    # Tensors, not variables, which a custom gradient would have to know.
    x, weights = map(tf.convert_to_tensor, (x, weights))
    # Outside of it, so that what is kept for the gradient is in order already.
    y = forward(_channel_major(x, time), tf.transpose(weights))
    return _channel_last(y, time)


def _sum_of_taps(x, weights, delays, history, time):
    length = tf.shape(x)[1 + time] - history

    def one_channel(channel):
        x_c, weights_c, delays_c = channel
        starts = tf.unstack(history - delays_c)
        windows = _windows(x_c, starts, length, time)
        if time:
            return _weighted(weights_c, windows)
        y = tf.matmul(weights_c[tf.newaxis], _rows(windows))
        return tf.reshape(y, (length, -1))

    return tf.map_fn(
        one_channel,
        (x, weights, delays),
        fn_output_signature=x.dtype,
        parallel_iterations=_at_a_time(),
    )


def _tap_gradients(x, weights, delays, upstream, history, time):
    length = tf.shape(upstream)[1 + time]
    around = [[0, 0], [0, 0], [0, 0]]
    around[1 + time] = [history, history]
    # The input's gradient is the same sum run backwards in time.
    g = tf.pad(upstream, around)

    def one_channel(channel):
        x_c, g_c, weights_c, delays_c = channel
        back = _windows(g_c, tf.unstack(delays_c), history + length, time)
        if not time:
            rows = _rows(back)
            d_x = tf.matmul(weights_c[tf.newaxis], rows)
            d_weights = tf.linalg.matvec(rows, tf.reshape(x_c, (-1,)))
            return tf.reshape(d_x, tf.shape(x_c)), d_weights
        d_x = _weighted(weights_c, back)
        (g_c,) = _windows(g_c, [history], length, time)
        starts = tf.unstack(history - delays_c)
        return d_x, _products(g_c, _windows(x_c, starts, length, time))

    return tf.map_fn(
        one_channel,
        (x, g, weights, delays),
        fn_output_signature=(x.dtype, x.dtype),
        parallel_iterations=_at_a_time(),
    )


def _at_a_time():
    # As many channels as there are cores: more of them in flight only push
    # each other out of the cache. Eagerly they take turns anyway.
    return None if tf.executing_eagerly() else os.cpu_count()


def _channel_major(x, time):
    return tf.transpose(x, (2, 0, 1) if time else (2, 1, 0))


def _channel_last(x, time):
    return tf.transpose(x, (1, 2, 0) if time else (2, 1, 0))


def _windows(x, starts, length, time):
    """One window of `length` steps of a matrix for each start."""
    if time:
        return [_moving_window(x, start, length) for start in starts]
    return [tf.slice(x, [i, 0], [length, tf.shape(x)[1]]) for i in starts]


def _moving_window(x, start, length):
    """`x[:, start : start + length]` for XLA, where `start` may change.

    `tf.slice` would make a constant of `start`, and of all delays with it:
    every tap that moves would have the whole model compiled anew.
    """

    @tf.custom_gradient
    def window(x):
        at = tf.stack([0, start])
        size = tf.stack([tf.shape(x)[0], length])

        def gradient(upstream):
            zeros = tf.zeros_like(x)
            return xla.xla_dynamic_update_slice(zeros, upstream, at)

        return xla.xla_dynamic_slice(x, at, size), gradient

    return window(x)


def _rows(windows):
    """Windows as the rows of a matrix, of which a graph makes products.

    Sums of weighted windows would read and write a sum for every tap.
    """
    return tf.concat([tf.reshape(x, (1, -1)) for x in windows], axis=0)


def _weighted(weights, windows):
    """The same for XLA, which makes one loop of it."""
    y = weights[0] * windows[0]
    for j, window in enumerate(windows[1:], 1):
        y += weights[j] * window
    return y


def _products(g, windows):
    """The sum of `g * window` for each window.

    Not a plain sum: XLA must not change its order, so takes one number at a
    time on a processor. Columns can be summed side by side.
    """
    columns = tf.stack([tf.reduce_sum(g * x, axis=0) for x in windows])
    if graphs.on_cpu():
        # Two sums in a row XLA would make one of.
        return tf.linalg.matvec(columns, tf.ones_like(columns[0]))
    return tf.reduce_sum(columns, axis=1)


def fourier_is_faster(taps, length):
    """Than a dense convolution, for kernels of so many taps.

    Measured on a processor. XLA's depthwise convolution is slow there; that
    of a graph is fast, but for long kernels on long sequences.
    """
    if graphs.compiled():
        return taps > 1
    return taps >= 16 and length >= 512

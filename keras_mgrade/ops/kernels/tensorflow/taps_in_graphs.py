"""Taps in a TensorFlow graph: windows as the rows of a matrix.

Weights and delays are `(channels, taps)`.
"""

import os

import tensorflow as tf

# Channels, time, batch: a window of a channel is whole rows, which are no copy.
ORDER = (2, 1, 0)
TIME = 1


def sum_of_taps(x, weights, delays, history):
    """`y[c, t] = sum_j weights[c, j] * x[c, history + t - delays[c, j]]`."""
    length = tf.shape(x)[1] - history

    def one_channel(channel):
        x_c, weights_c, delays_c = channel
        rows = _windows(x_c, history - delays_c, length)
        y = tf.matmul(weights_c[tf.newaxis], rows)
        return tf.reshape(y, (length, -1))

    return _for_channels(one_channel, (x, weights, delays), x.dtype)


def tap_gradients(x, weights, delays, upstream):
    """The gradients of `x` and of `weights`."""
    whole = tf.shape(x)[1]
    history = whole - tf.shape(upstream)[1]
    # The input's gradient is the same sum run backwards in time; what its
    # windows have in common with the input is the gradient of their weights.
    g = tf.pad(upstream, [[0, 0], [history, history], [0, 0]])

    def one_channel(channel):
        x_c, g_c, weights_c, delays_c = channel
        rows = _windows(g_c, delays_c, whole)
        d_x = tf.matmul(weights_c[tf.newaxis], rows)
        d_weights = tf.linalg.matvec(rows, tf.reshape(x_c, (-1,)))
        return tf.reshape(d_x, tf.shape(x_c)), d_weights

    arrays = (x, g, weights, delays)
    return _for_channels(one_channel, arrays, (x.dtype, x.dtype))


def _windows(x, starts, length):
    """`x[start : start + length]` for each start, each as one row.

    Products of them are faster than sums, of which a graph would read and
    write one for every tap.
    """
    size = [length, tf.shape(x)[1]]
    windows = [tf.slice(x, [start, 0], size) for start in tf.unstack(starts)]
    return tf.concat([tf.reshape(w, (1, -1)) for w in windows], axis=0)


def _for_channels(function, arrays, dtypes):
    # As many channels as there are cores: more of them in flight only push
    # each other out of the cache. Eagerly they take turns anyway.
    at_a_time = None if tf.executing_eagerly() else os.cpu_count()
    return tf.map_fn(
        function,
        arrays,
        fn_output_signature=dtypes,
        parallel_iterations=at_a_time,
    )

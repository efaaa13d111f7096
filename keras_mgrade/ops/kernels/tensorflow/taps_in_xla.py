"""Taps for XLA: slices that move, summed in fused loops.

Weights and delays are `(channels, taps)`.
"""

import tensorflow as tf

# Channels, batch, time: XLA is fastest where steps follow one another.
ORDER = (2, 0, 1)
TIME = 2


def sum_of_taps(x, weights, delays, history):
    """`y[c, t] = sum_j weights[c, j] * x[c, history + t - delays[c, j]]`."""
    length = tf.shape(x)[2] - history

    def channel(c, starts):
        return (_sum(_windows(x, c, starts, length), weights[c]),)

    (y,) = _for_channels(channel, history - delays, [x.dtype])
    return y


def tap_gradients(x, weights, delays, upstream):
    """The gradients of `x` and of `weights`."""
    length, whole = tf.shape(upstream)[2], tf.shape(x)[2]
    history = whole - length
    g = tf.pad(upstream, [[0, 0], [0, 0], [history, history]])

    def channel(c, delays):
        # The input's gradient is the same sum run backwards in time.
        d_x = _sum(_windows(g, c, delays, whole), weights[c])
        windows = _windows(x, c, history - delays, length)
        return d_x, _products(upstream[c], windows)

    return _for_channels(channel, delays, [x.dtype, x.dtype])


def _windows(x, channel, starts, length):
    """`x[channel, :, start : start + length]` for each start."""
    size = tf.stack([1, tf.shape(x)[1], length])
    return [
        tf.slice(x, tf.stack([channel, 0, start]), size)[0]
        for start in tf.unstack(starts)
    ]


def _sum(windows, weights):
    y = weights[0] * windows[0]
    for j, window in enumerate(windows[1:], 1):
        y += weights[j] * window
    return y


def _products(g, windows):
    """The sum of `g * window` for each window.

    Not a plain sum: XLA must not change its order, so takes one number at a
    time on a processor. Columns can be summed side by side, and two sums in a
    row XLA would make one of.
    """
    columns = tf.stack([tf.reduce_sum(g * x, axis=0) for x in windows])
    return tf.linalg.matvec(columns, tf.ones_like(columns[0]))


def _for_channels(function, rows, dtypes):
    """Stacks what `function(c, rows[c])` gives.

    The rows go round as the loop does: of what stays the same in a loop XLA
    makes constants, where a slice begins at it, and every tap that moves would
    have the whole model compiled anew.
    """
    channels = tf.shape(rows)[0]
    parts = [tf.TensorArray(dtype, size=channels) for dtype in dtypes]

    def body(c, rows, parts):
        found = function(c, rows[0])
        parts = [p.write(c, y) for p, y in zip(parts, found, strict=True)]
        return c + 1, tf.concat([rows[1:], rows[:1]], axis=0), parts

    *_, parts = tf.while_loop(
        lambda c, *_: c < channels,
        body,
        (tf.constant(0), rows, parts),
        maximum_iterations=channels,
    )
    return [part.stack() for part in parts]

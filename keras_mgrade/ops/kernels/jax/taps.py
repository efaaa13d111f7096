"""Taps on JAX: slices of one channel after the other.

Compiled as a whole, once for each shape, as the recurrence is.
"""

import functools
import operator

import jax
from jax import lax
from jax import numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
@functools.partial(jax.jit, static_argnums=3)
def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    length = x.shape[1] - history

    def one_channel(channel):
        x_c, weights_c, delays_c = channel
        taps = _windows(x_c, history - delays_c, length)
        return sum(w * tap for w, tap in zip(weights_c, taps, strict=True))

    return _channel_last(
        lax.map(one_channel, (_channel_major(x), weights.T, delays.T))
    )


def _tapped_forward(x, weights, delays, history):
    return tapped_sum(x, weights, delays, history), (x, weights, delays)


@functools.partial(jax.jit, static_argnums=0)
def _tapped_backward(history, kept, upstream):
    x, weights, delays = kept
    length = x.shape[1] - history
    # The input's gradient is the same sum run backwards in time.
    padded = jnp.pad(
        _channel_major(upstream), ((0, 0), (0, 0), (history, history))
    )

    def one_channel(channel):
        x_c, g_c, weights_c, delays_c = channel
        taps = _windows(x_c, history - delays_c, length)
        g = lax.slice_in_dim(g_c, history, history + length, axis=1)
        d_weights = _products(g, taps)
        back = _windows(g_c, delays_c, history + length)
        d_x = sum(w * g for w, g in zip(weights_c, back, strict=True))
        return d_x, d_weights

    d_x, d_weights = lax.map(
        one_channel, (_channel_major(x), padded, weights.T, delays.T)
    )
    return _channel_last(d_x), d_weights.T, None


tapped_sum.defvjp(_tapped_forward, _tapped_backward)


def _windows(x, starts, length):
    """One window of `length` steps of `(batch, time)` for each start."""
    return [
        lax.dynamic_slice_in_dim(x, starts[j], length, axis=1)
        for j in range(starts.shape[0])
    ]


def _products(g, windows):
    """The sum of `g * window` for each window, in one pass over `g`."""
    zero = jnp.zeros((), g.dtype)
    rows = lax.reduce(
        tuple(g * window for window in windows),
        (zero,) * len(windows),
        lambda left, right: tuple(map(operator.add, left, right)),
        (1,),
    )
    return jnp.stack(rows).sum(axis=1)


def _channel_major(x):
    return jnp.transpose(x, (2, 0, 1))


def _channel_last(x):
    return jnp.transpose(x, (1, 2, 0))


def fourier_is_faster(taps, length):
    """Than a dense convolution, for kernels of so many taps.

    Measured on a processor, where XLA's depthwise convolution is slow.
    """
    return taps > 1

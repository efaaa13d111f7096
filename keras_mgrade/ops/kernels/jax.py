"""JAX kernels: compiled loops with hand-written gradients."""

import contextlib
import functools

import jax
from jax import lax
from jax import numpy as jnp

# XLA's depthwise convolution on a CPU is far slower than Fourier transforms.
DENSE_BY_FFT = True


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear_recurrence(a, b, initial_state, reverse):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""

    def step(h, t):
        h = a[:, t] * h + b[:, t]
        return h, h

    return _over_time(step, initial_state, b, reverse)


def _recurrence_forward(a, b, initial_state, reverse):
    states, last = linear_recurrence(a, b, initial_state, reverse)
    return (states, last), (a, states, initial_state)


def _recurrence_backward(reverse, kept, upstream):
    a, states, initial_state = kept
    d_states, d_last = upstream

    def step(carry, t):
        g = d_states[:, t] + carry
        return a[:, t] * g, g

    # The carry is a[t+1] * g[t+1]; after the last step it is the gradient
    # of the initial state.
    g, d_initial = _over_time(step, d_last, states, not reverse)
    start = jnp.expand_dims(initial_state, 1)
    if reverse:
        previous = jnp.concatenate([states[:, 1:], start], axis=1)
    else:
        previous = jnp.concatenate([start, states[:, :-1]], axis=1)
    return g * previous, g, d_initial


linear_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _over_time(step, carry, like, reverse):
    """Runs `step(carry, t) -> (carry, y)`: (all y shaped `like`, carry).

    A loop that indexes time in place: `lax.scan` would first copy every
    array into time-major order, which took as long as the loop itself.
    """
    length = like.shape[1]

    def body(i, loop):
        carry, filled = loop
        t = length - 1 - i if reverse else i
        carry, y = step(carry, t)
        return carry, lax.dynamic_update_index_in_dim(filled, y, t, axis=1)

    carry, filled = lax.fori_loop(
        0, length, body, (carry, jnp.zeros_like(like))
    )
    return filled, carry


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
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
        d_weights = jnp.stack([jnp.sum(g * tap) for tap in taps])
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


def _channel_major(x):
    return jnp.transpose(x, (2, 0, 1))


def _channel_last(x):
    return jnp.transpose(x, (1, 2, 0))


def compile_call(model):
    """A compiled inference call of `model`, its weights as arguments."""

    @jax.jit
    def call(trainable, non_trainable, inputs):
        outputs, _ = model.stateless_call(
            trainable, non_trainable, inputs, training=False
        )
        return outputs

    def compiled(inputs):
        return call(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            inputs,
        )

    return compiled


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""

    @jax.jit
    def call(trainable, non_trainable, samples, states):
        def step(states, sample):
            outputs, _ = model.stateless_call(
                trainable, non_trainable, [*sample, *states], training=False
            )
            outputs = jax.tree.leaves(outputs)
            first = len(outputs) - count
            return outputs[first:], outputs[:first]

        samples = [jnp.moveaxis(x, 1, 0) for x in samples]
        states, outputs = lax.scan(step, states, samples)
        return [jnp.moveaxis(y, 0, 1) for y in outputs], states

    def compiled(samples, states):
        return call(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            samples,
            states,
        )

    return compiled


def compile_gradient(function):
    """Compiled `(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """
    return jax.jit(jax.grad(function, has_aux=True))


class OwnRandomness(contextlib.nullcontext):
    """What happens within leaves the backend's generator alone: it has none."""

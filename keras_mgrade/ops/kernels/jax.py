"""JAX kernels: compiled loops with hand-written gradients."""

import contextlib
import functools

import jax
import keras
from jax import lax
from jax import numpy as jnp

# Everything here is compiled as a whole, once for each shape, in eager calls
# too: a loop outside of `jit` would be compiled anew at every call.


def linear_recurrence(a, b, initial_state, reverse, method):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""
    if method == "auto":
        # A loop of small kernels: the least traffic on a processor, nothing
        # but launches on an accelerator.
        on_cpu = jax.default_backend() == "cpu"
        method = "sequential" if on_cpu else "parallel"
    return _recurrence(a, b, initial_state, reverse, method == "parallel")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
@functools.partial(jax.jit, static_argnums=(3, 4))
def _recurrence(a, b, initial_state, reverse, parallel):
    if parallel:
        return _scan(a, b, initial_state, reverse)

    def step(h, t):
        h = _at(a, t) * h + _at(b, t)
        return h, h

    return _over_time(step, initial_state, b, reverse)


def _recurrence_forward(a, b, initial_state, reverse, parallel):
    states, last = _recurrence(a, b, initial_state, reverse, parallel)
    return (states, last), (a, states, initial_state)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _recurrence_backward(reverse, parallel, kept, upstream):
    a, states, initial_state = kept
    d_states, d_last = upstream

    def step(carry, t):
        g = _at(d_states, t) + carry
        return _at(a, t) * g, g

    if parallel:
        one = jnp.ones_like(initial_state)
        g, _ = _scan(
            _shifted(a, one, not reverse), d_states, d_last, not reverse
        )
        first = -1 if reverse else 0
        d_initial = a[:, first] * g[:, first]
    else:
        # The carry is a[t+1] * g[t+1]; after the last step it is the gradient
        # of the initial state.
        g, d_initial = _over_time(step, d_last, states, not reverse)
    return g * _shifted(states, initial_state, reverse), g, d_initial


_recurrence.defvjp(_recurrence_forward, _recurrence_backward)


def _shifted(x, start, reverse):
    """What stood one step before, `start` before the first one."""
    start = jnp.expand_dims(start, 1)
    if reverse:
        return jnp.concatenate([x[:, 1:], start], axis=1)
    return jnp.concatenate([start, x[:, :-1]], axis=1)


def _scan(a, b, initial_state, reverse):
    """All steps at once, in as many rounds as the length has digits."""

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    first, last = (-1, 0) if reverse else (0, -1)
    b = b.at[:, first].add(a[:, first] * initial_state)
    _, states = lax.associative_scan(join, (a, b), reverse=reverse, axis=1)
    return states, states[:, last]


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
        filled = lax.dynamic_update_index_in_dim(
            filled, y, t, axis=1, allow_negative_indices=False
        )
        return carry, filled

    carry, filled = lax.fori_loop(
        0, length, body, (carry, jnp.zeros_like(like))
    )
    return filled, carry


def _at(x, t):
    """One time step; `t` is never negative, which saves its test."""
    return lax.dynamic_index_in_dim(
        x, t, axis=1, keepdims=False, allow_negative_indices=False
    )


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


def fourier_cost():
    """How many taps of a dense convolution a Fourier transform's point costs.

    Measured on a processor, where XLA's depthwise convolution is slow.
    """
    return 0.08


def compile_call(model):
    """A compiled inference call of `model`, its weights as arguments."""
    # Looked up once: it takes longer than a small step.
    variables = model.variables

    @jax.jit
    def call(values, inputs):
        return _called_with(model, variables, values, inputs)

    def compiled(inputs):
        return call([v.value for v in variables], inputs)

    return compiled


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    variables = model.variables

    @jax.jit
    def call(values, samples, states):
        def step(states, sample):
            inputs = [*sample, *states]
            outputs = _called_with(model, variables, values, inputs)
            outputs = jax.tree.leaves(outputs)
            first = len(outputs) - count
            return outputs[first:], outputs[:first]

        samples = [jnp.moveaxis(x, 1, 0) for x in samples]
        states, outputs = lax.scan(step, states, samples)
        return [jnp.moveaxis(y, 0, 1) for y in outputs], states

    def compiled(samples, states):
        return call([v.value for v in variables], samples, states)

    return compiled


def _called_with(model, variables, values, inputs):
    mapping = list(zip(variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return model(inputs, training=False)


def compile_gradient(function):
    """Compiled `(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """
    return jax.jit(jax.grad(function, has_aux=True))


class OwnRandomness(contextlib.nullcontext):
    """What happens within leaves the backend's generator alone: it has none."""

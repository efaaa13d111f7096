"""The recurrence on JAX: a loop in place, or all steps at once.

It is compiled as a whole, once for each shape, in eager calls too: a loop
outside of `jit` would be compiled anew at every call.
"""

import functools

import jax
from jax import lax
from jax import numpy as jnp


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

"""The recurrence on PyTorch: few large operations in place."""

import math

import torch

# Up to here one plain loop is as fast as two loops over blocks.
SHORT = 32


def linear_recurrence(a, b, initial_state, reverse, method):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""
    sequential = method == "sequential"
    states = _Recurrence.apply(a, b, initial_state, reverse, sequential)
    return states, states[:, 0 if reverse else -1]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, initial_state, reverse, sequential):
        states = torch.empty_like(b, memory_format=torch.contiguous_format)
        _fill(states, a, b, initial_state, reverse, sequential)
        ctx.save_for_backward(a, states, initial_state)
        ctx.options = reverse, sequential
        return states

    @staticmethod
    def backward(ctx, d_states):
        # g[t] = dy[t] + a[t+1] g[t+1]; nothing but a and h is needed.
        a, states, initial_state = ctx.saved_tensors
        reverse, sequential = ctx.options
        first, last = (-1, 0) if reverse else (0, -1)
        # All steps but the first one, and all but the last one.
        later, earlier = slice(1, None), slice(None, -1)
        if reverse:
            later, earlier = earlier, later
        if torch.is_grad_enabled():
            # Gradients of gradients: the same with a graph of its own.
            one = torch.ones_like(initial_state).unsqueeze(1)
            start = initial_state.unsqueeze(1)
            a_next, before = (a[:, later], one), (start, states[:, earlier])
            if reverse:
                a_next, before = a_next[::-1], before[::-1]
            g = _Recurrence.apply(
                torch.cat(a_next, 1),
                d_states,
                torch.zeros_like(initial_state),
                not reverse,
                sequential,
            )
            d_a = g * torch.cat(before, 1)
            return d_a, g, a[:, first] * g[:, first], None, None
        g = torch.empty_like(states)
        g[:, last] = d_states[:, last]
        _fill(
            g[:, earlier],
            a[:, later],
            d_states[:, earlier],
            g[:, last],
            not reverse,
            sequential,
        )
        d_a = torch.empty_like(states)
        torch.mul(g[:, later], states[:, earlier], out=d_a[:, later])
        torch.mul(g[:, first], initial_state, out=d_a[:, first])
        return d_a, g, a[:, first] * g[:, first], None, None


def _fill(states, a, b, h, reverse, sequential):
    """Writes the recurrence: blocks side by side, then joined by a carry."""
    length = a.shape[1]
    if sequential or length <= SHORT:
        _loop(a.unbind(1), b.unbind(1), states.unbind(1), h, reverse)
        return
    # More blocks than steps in one: PyTorch takes several cores for what is
    # large, and is no slower where it is large already.
    block = 2 * math.isqrt(length) // 3
    blocks = length // block
    rest = length - blocks * block
    # What does not fill a block is done first (or, in reverse, last).
    whole, part = slice(rest, None), slice(0, rest)

    def split(x):
        return x[:, whole].unflatten(1, (blocks, block))

    def partial(h):
        parts = (x[:, part].unbind(1) for x in (a, b, states))
        return _loop(*parts, h, reverse) if rest else h

    h = h if reverse else partial(h)
    decay = split(a).prod(2)
    a_blocks, b_blocks = split(a).unbind(2), split(b).unbind(2)
    entering = _entering(a_blocks, b_blocks, decay, h, reverse)
    split_states = split(states).unbind(2)
    last = _loop(a_blocks, b_blocks, split_states, entering, reverse)
    if reverse:
        partial(last[:, 0])


def _loop(a, b, states, h, reverse):
    """Fills `states` (tuples of time steps, in time order) from `h` on."""
    order = reversed(range(len(a))) if reverse else range(len(a))
    for t in order:
        h = torch.addcmul(b[t], a[t], h, out=states[t])
    return h


def _entering(a, b, decay, h, reverse):
    """The state that enters each block, `(batch, blocks, channels)`."""
    first = -1 if reverse else 0
    ends = b[first].clone()
    inner = slice(None, -1) if reverse else slice(1, None)
    a, b = a[inner], b[inner]
    _loop(a, b, (ends,) * len(a), ends, reverse)
    # The recurrence of whole blocks, which all but the last one hand on.
    entering = torch.empty_like(ends)
    entering[:, first] = h
    decay, ends, rows = (x.unbind(1) for x in (decay, ends, entering))
    handing = slice(1, None) if reverse else slice(None, -1)
    _loop(decay[handing], ends[handing], rows[inner], h, reverse)
    return entering

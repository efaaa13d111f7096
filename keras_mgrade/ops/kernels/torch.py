"""PyTorch kernels: few large in-place operations, with own gradients."""

import math

import keras
import torch

# Up to here one plain loop is as fast as two loops over blocks.
SHORT = 32

DENSE_BY_FFT = False


def linear_recurrence(a, b, initial_state, reverse):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""
    states = _Recurrence.apply(a, b, initial_state, reverse)
    return states, states[:, 0 if reverse else -1]


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a, b, initial_state, reverse):
        states = _states(a, b, initial_state, reverse)
        ctx.save_for_backward(a, states, initial_state)
        ctx.reverse = reverse
        return states

    @staticmethod
    def backward(ctx, d_states):
        # g[t] = dy[t] + a[t+1] g[t+1]; nothing but a and h is needed.
        a, states, initial_state = ctx.saved_tensors
        a_next = torch.ones_like(a)
        if ctx.reverse:
            a_next[:, 1:] = a[:, :-1]
        else:
            a_next[:, :-1] = a[:, 1:]
        zero = torch.zeros_like(initial_state)
        if torch.is_grad_enabled():
            # Gradients of gradients: the same with a graph of its own.
            g = _Recurrence.apply(a_next, d_states, zero, not ctx.reverse)
            start, first = initial_state.unsqueeze(1), 0
            if ctx.reverse:
                before, first = torch.cat([states[:, 1:], start], 1), -1
            else:
                before = torch.cat([start, states[:, :-1]], 1)
            return g * before, g, a[:, first] * g[:, first], None
        g = _states(a_next, d_states, zero, not ctx.reverse)
        d_a = torch.empty_like(a)
        if ctx.reverse:
            torch.mul(g[:, :-1], states[:, 1:], out=d_a[:, :-1])
            torch.mul(g[:, -1], initial_state, out=d_a[:, -1])
            return d_a, g, a[:, -1] * g[:, -1], None
        torch.mul(g[:, 1:], states[:, :-1], out=d_a[:, 1:])
        torch.mul(g[:, 0], initial_state, out=d_a[:, 0])
        return d_a, g, a[:, 0] * g[:, 0], None


def _states(a, b, initial_state, reverse):
    """The plain recurrence: blocks side by side, then joined by a carry."""
    states = torch.empty_like(b, memory_format=torch.contiguous_format)
    length = a.shape[1]
    if length <= SHORT:
        _loop(
            a.unbind(1), b.unbind(1), states.unbind(1), initial_state, reverse
        )
        return states
    block = math.isqrt(length)
    blocks = length // block
    rest = length - blocks * block
    # What does not fill a block is done first (or, in reverse, last).
    whole, part = slice(rest, None), slice(0, rest)

    def split(x):
        return x[:, whole].unflatten(1, (blocks, block)).unbind(2)

    def partial(h):
        parts = (x[:, part].unbind(1) for x in (a, b, states))
        return _loop(*parts, h, reverse) if rest else h

    h = initial_state if reverse else partial(initial_state)
    a_blocks, b_blocks = split(a), split(b)
    entering = _entering(a_blocks, b_blocks, h, reverse)
    last = _loop(a_blocks, b_blocks, split(states), entering, reverse)
    if reverse:
        partial(last[:, 0])
    return states


def _loop(a, b, states, h, reverse):
    """Fills `states` (tuples of time steps, in time order) from `h` on."""
    order = reversed(range(len(a))) if reverse else range(len(a))
    for t in order:
        h = torch.addcmul(b[t], a[t], h, out=states[t])
    return h


def _entering(a, b, h, reverse):
    """The state that enters each block, `(batch, blocks, channels)`."""
    order = list(reversed(range(len(a))) if reverse else range(len(a)))
    decay, ends = a[order[0]].clone(), b[order[0]].clone()
    for t in order[1:]:
        decay *= a[t]
        torch.addcmul(b[t], a[t], ends, out=ends)
    entering = torch.empty_like(ends)
    blocks = range(ends.shape[1])
    for i in reversed(blocks) if reverse else blocks:
        entering[:, i] = h
        h = torch.addcmul(ends[:, i], decay[:, i], h)
    return entering


def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    return _TappedSum.apply(x, weights, delays, history)


class _TappedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, delays, history):
        ctx.history = history
        ctx.save_for_backward(x, weights, delays)
        length = x.shape[1] - history
        channels = x.permute(2, 0, 1).contiguous()
        y = channels.new_zeros((*channels.shape[:2], length))
        for c, _, delay, weight in _taps(weights, delays):
            start = history - delay
            y[c].add_(channels[c, :, start : start + length], alpha=weight)
        return y.permute(1, 2, 0)

    @staticmethod
    def backward(ctx, upstream):
        x, weights, delays = ctx.saved_tensors
        history = ctx.history
        if torch.is_grad_enabled():
            return *_differentiable(x, weights, delays, upstream), None, None
        length = x.shape[1] - history
        channels = x.permute(2, 0, 1).contiguous()
        g = upstream.permute(2, 0, 1).contiguous()
        d_x = torch.zeros_like(channels)
        d_weights = torch.empty_like(weights)
        for c, j, delay, weight in _taps(weights, delays):
            # The input's gradient is the same sum run backwards in time.
            window = slice(history - delay, history - delay + length)
            d_x[c, :, window].add_(g[c], alpha=weight)
            d_weights[j, c] = torch.sum(g[c] * channels[c, :, window])
        return d_x.permute(1, 2, 0), d_weights, None, None


def _differentiable(x, weights, delays, g):
    """Both gradients with a graph of their own, for gradients of gradients."""
    history = x.shape[1] - g.shape[1]
    # Flipped in time, the input's gradient is a tapped sum again.
    padded = torch.nn.functional.pad(g.flip(1), (0, 0, history, history))
    d_x = tapped_sum(padded, weights, delays, history).flip(1)
    steps = torch.arange(g.shape[1], device=x.device).view(-1, 1, 1)
    channels = torch.arange(x.shape[2], device=x.device)
    # (batch, time, taps, channels)
    windows = x[:, history + steps - delays, channels]
    return d_x, (g.unsqueeze(2) * windows).sum((0, 1))


def _taps(weights, delays):
    rows = zip(weights.tolist(), delays.tolist(), strict=True)
    for j, (row_weights, row_delays) in enumerate(rows):
        for c, weight in enumerate(row_weights):
            yield c, j, row_delays[c], weight


def compile_call(model):
    """An inference call of `model`; PyTorch runs it as it stands."""

    @torch.no_grad()
    def call(inputs):
        return model(inputs, training=False)

    return call


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    call = compile_call(model)
    first = len(model.outputs) - count

    def loop(samples, states):
        steps = []
        for sample in zip(*(x.unbind(1) for x in samples), strict=True):
            outputs = keras.tree.flatten(call([*sample, *states]))
            steps.append(outputs[:first])
            states = outputs[first:]
        outputs = [torch.stack(ys, 1) for ys in zip(*steps, strict=True)]
        return outputs, list(states)

    return loop


def compile_gradient(function):
    """`(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """

    def gradients(leaves, *rest):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        # Dropout advances PyTorch's own generator, shuffling draws from it.
        with torch.random.fork_rng():
            y, seen = function(leaves, *rest)
        found = torch.autograd.grad(y, leaves, allow_unused=True)
        found = [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, found, strict=True)
        ]
        return found, seen

    return gradients


class OwnRandomness:
    """What happens within draws from a generator of its own.

    A DataLoader that shuffles draws from PyTorch's, as dropout does.
    """

    def __init__(self):
        self._mine = None

    def __enter__(self):
        self._outer = torch.get_rng_state()
        if self._mine is not None:
            torch.set_rng_state(self._mine)

    def __exit__(self, *error):
        self._mine = torch.get_rng_state()
        torch.set_rng_state(self._outer)

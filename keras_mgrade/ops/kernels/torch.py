"""PyTorch kernels: few large in-place operations, with own gradients."""

import math

import keras
import torch

# Up to here one plain loop is as fast as two loops over blocks.
SHORT = 32

# Tapped sums are read row by row. A row of fewer numbers is not worth its
# index; more channels at once than a cache line holds would be read twice;
# as many indices are held at a time.
ROW = 16
GROUP = 16
LOOKUPS = 1 << 18


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

    h = h if reverse else partial(h)
    a_blocks, b_blocks = split(a), split(b)
    entering = _entering(a_blocks, b_blocks, h, reverse)
    last = _loop(a_blocks, b_blocks, split(states), entering, reverse)
    if reverse:
        partial(last[:, 0])


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
    batch, length, channels = x.shape
    length -= history
    # A few long sequences are read as many short ones, each with its past.
    pieces = min(-(-ROW // max(batch, 1)), length // (2 * history))
    if pieces < 2:
        return _TappedSum.apply(x, weights, delays, history)
    piece = -(-length // pieces)
    x = torch.nn.functional.pad(x, (0, 0, 0, pieces * piece - length))
    x = x.unfold(1, history + piece, piece).transpose(2, 3).flatten(0, 1)
    y = _TappedSum.apply(x, weights, delays, history)
    return y.reshape(batch, pieces * piece, channels)[:, :length]


class _TappedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, delays, history):
        ctx.history = history
        ctx.save_for_backward(x, weights, delays)
        y = x.new_empty(x.shape[0], x.shape[1] - history, x.shape[2])
        for group in _groups(weights):
            _read(
                y[..., group],
                _rows(x[..., group]),
                weights[:, group],
                history - delays[:, group],
            )
        return y

    @staticmethod
    def backward(ctx, upstream):
        x, weights, delays = ctx.saved_tensors
        history = ctx.history
        if torch.is_grad_enabled():
            return *_differentiable(x, weights, delays, upstream), None, None
        d_x, d_weights = torch.empty_like(x), torch.empty_like(weights)
        for group in _groups(weights):
            g = _rows(upstream[..., group], history)
            # The input's gradient is the same sum run backwards in time.
            _read(d_x[..., group], g, weights[:, group], delays[:, group])
            d_weights[:, group] = _products(
                g[:, history : history + upstream.shape[1]],
                _rows(x[..., group]),
                history - delays[:, group],
            )
        return d_x, d_weights, None, None


def _groups(weights):
    """Channels that share a cache line are brought into order together."""
    for start in range(0, weights.shape[1], GROUP):
        yield slice(start, start + GROUP)


def _rows(x, around=0):
    """`(channels, around + time + around, batch)`: a row is one step."""
    batch, length, channels = x.shape
    rows = x.new_empty(channels, around + length + around, batch)
    rows[:, :around] = rows[:, around + length :] = 0
    rows[:, around : around + length] = x.permute(2, 1, 0)
    return rows


def _read(y, rows, weights, offsets):
    """`y[:, t, c] = sum_j weights[j, c] * rows[c, t + offsets[j, c]]`.

    To PyTorch that is a bag of embeddings, one fused loop.
    """
    channels, steps, batch = rows.shape
    length, taps = y.shape[1], len(weights)
    chunk = min(length, max(1, LOOKUPS // weights.numel()))
    first = torch.arange(channels, device=y.device) * steps + offsets
    at = torch.arange(chunk, device=y.device).view(-1, 1, 1) + first.t()
    at, scale = at.reshape(-1, taps), weights.t().repeat(chunk, 1)
    for t in range(0, length, chunk):
        count = min(chunk, length - t) * channels
        y[:, t : t + chunk] = (
            torch.nn.functional.embedding_bag(
                at[:count] + t,
                rows.view(-1, batch),
                mode="sum",
                per_sample_weights=scale[:count],
            )
            .view(-1, channels, batch)
            .permute(2, 0, 1)
        )


def _products(g, rows, offsets):
    """`sum_t g[c, t] * rows[c, t + offsets[j, c]]` for each tap."""
    length, batch = g.shape[1:]
    sums = []
    for g_c, rows_c, starts in zip(
        g.flatten(1), rows.flatten(1), offsets.t().tolist(), strict=True
    ):
        for start in starts:
            window = rows_c[start * batch : (start + length) * batch]
            sums.append(torch.dot(g_c, window))
    return torch.stack(sums).view(len(g), -1).t()


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


def fourier_cost():
    """How many taps of a dense convolution a Fourier transform's point costs.

    Measured on a processor.
    """
    return 3.5


def compile_call(model):
    """An inference call of `model`; PyTorch runs it as it stands."""

    # Not `model(inputs)`, whose checks take longer than a small step.
    @torch.no_grad()
    def call(inputs):
        return model.call(inputs, training=False)

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

"""Taps on PyTorch: bags of embeddings, whose rows are time steps."""

import math

import torch

# A row of fewer numbers is not worth its index; as many indices are held at a
# time.
ROW = 16
LOOKUPS = 1 << 15


def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    batch, length, channels = x.shape
    length -= history
    if batch == 0:
        # Nothing, but of the right shape and with gradients; a bag of
        # embeddings wants at least one number in a row.
        return x[:, history:] * weights.sum(0)
    # A few long sequences are read as many short ones, each with its past.
    pieces = min(-(-ROW // batch), length // max(2 * history, 1))
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
        length = x.shape[1] - history
        return _read(_rows(x), weights, history - delays, length)

    @staticmethod
    def backward(ctx, upstream):
        x, weights, delays = ctx.saved_tensors
        history, length = ctx.history, upstream.shape[1]
        if torch.is_grad_enabled():
            return *_differentiable(x, weights, delays, upstream), None, None
        # The input's gradient is the same sum run backwards in time. Padded
        # before it is turned: batches that lie a power of two apart share
        # their places in the cache.
        around = (0, 0, history, history)
        g = _rows(torch.nn.functional.pad(upstream, around))
        d_x = _read(g, weights, delays, length + history)
        g = g[history : history + length]
        d_weights = _products(g, _rows(x), history - delays)
        return d_x, d_weights, None, None


def _rows(x):
    """`(time, channels, batch)`, where a row is a step of a channel."""
    return x.permute(1, 2, 0).contiguous()


def _read(rows, weights, offsets, length):
    """`y[:, t, c] = sum_j weights[j, c] * rows[t + offsets[j, c], c]`.

    To PyTorch that is a bag of embeddings, one fused loop.
    """
    _, channels, batch = rows.shape
    y = rows.new_empty(batch, length, channels)
    chunk = min(length, max(1, LOOKUPS // weights.numel()))
    first = offsets * channels + torch.arange(channels, device=y.device)
    step = torch.arange(chunk, device=y.device).view(-1, 1, 1) * channels
    at = (step + first.t().contiguous()).view(-1, len(weights))
    scale = weights.t().repeat(chunk, 1)
    for t in range(0, length, chunk):
        count = min(chunk, length - t)
        y[:, t : t + count] = (
            torch.nn.functional.embedding_bag(
                at[: count * channels],
                rows[t:].flatten(0, 1),
                mode="sum",
                per_sample_weights=scale[: count * channels],
            )
            .view(count, channels, batch)
            .permute(2, 0, 1)
        )
    return y


def _products(g, rows, offsets):
    """`sum_t g[t, c] * rows[t + offsets[j, c], c]` for each tap."""
    length, channels, batch = g.shape
    # A window of one channel in one piece, for the fastest of all products.
    # On an accelerator these are many small kernels.
    g, rows = (x.transpose(0, 1).flatten(1) for x in (g, rows))
    sums = [
        torch.dot(g_c, rows_c[start : start + length * batch])
        for g_c, rows_c, starts in zip(
            g, rows, (offsets.t() * batch).tolist(), strict=True
        )
        for start in starts
    ]
    return torch.stack(sums).view(channels, -1).t()


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


def fourier_is_faster(taps, length):
    """Than a dense convolution, for kernels of so many taps.

    Measured on a processor: the one takes time for every tap, the other for
    every point of a transform.
    """
    points = length + taps
    return taps * length > 3 * points * math.log2(points)

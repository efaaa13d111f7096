"""Weights rounded to eight bits so that their products hardly move.

To the nearest integer, every weight is off by up to half a step, and the
errors of a row add up as its inputs come. Here a weight that was rounded up is
made up for by the weights after it, as far as their inputs go together in the
calibration (Frantar et al., 2022, "GPTQ"); what is left in the mean goes to
the bias, where there is one. The file's format and its work stay the same.
"""

from collections.abc import Collection

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import fold
from keras_mgrade.export.moments import taps_of
from keras_mgrade.export.ranges import Statistics

LEVELS = 127
# Of the mean power of the inputs: keeps the solution finite where some of them
# never move.
DAMPING = 0.01


def round_weights(
    data: bytes, statistics: Statistics, one_scale: Collection[int] = ()
) -> bytes:
    """Put the kernels of products and of taps on their grid of eight bits.

    Args:
        data: Float32 model with unique names.
        statistics: Of its tensors.
        one_scale: Positions, in the list of operators, of products whose
            kernels have one scale and not one a row. Defaults to `()`.

    Returns:
        The float32 model with kernels that a quantiser takes as they are.
    """
    model = fb.load(data)
    graph = model.subgraphs[0]
    for number, op in enumerate(graph.operators):
        output = fb.text(graph.tensors[fb.outputs_of(op)[0]].name)
        if output not in statistics.moments:
            continue
        moments = statistics.moments[output]
        source = fb.inputs_of(op)[0]
        mean = statistics.means[fb.text(graph.tensors[source].name)]
        kernel, bias = fold.weights(model, op)
        if moments.ndim == 2:
            rounded = round_kernel(
                kernel.astype(np.float64), moments, number in one_scale
            )
            off = (kernel - rounded) @ mean
        else:
            rounded = round_taps(kernel.astype(np.float64), moments)
            channels = mean.reshape(kernel.shape[1] * kernel.shape[2], -1)
            several = kernel.shape[-1] // channels.shape[-1]
            channels = np.repeat(channels, several, axis=1)
            errors = (kernel - rounded).reshape(channels.shape)
            off = (errors * channels).sum(axis=0)
        # Nothing in, nothing out: a product without a bias keeps to that,
        # since what follows (a logarithm) may look at silence closely.
        if np.any(bias):
            bias = bias + off
        fold.set_weights(model, op, source, rounded, bias)
    return fb.dump(model)


def round_kernel(
    kernel: np.ndarray, moments: np.ndarray, one_scale: bool = False
) -> np.ndarray:
    """A kernel whose values are whole multiples of a step.

    Args:
        kernel: `(outputs, inputs)`.
        moments: Mean of `x x^T` over the inputs, `(inputs, inputs)`.
        one_scale: Whether all rows have one step. Defaults to `False`.

    Returns:
        The kernel; the largest value of each row (of all of them) is kept, so
        that the step can be read from it.
    """
    largest = np.abs(kernel).max(axis=1)
    if one_scale:
        largest = np.full_like(largest, largest.max())
    damping = DAMPING * max(float(np.mean(np.diag(moments))), 1e-12)
    moments = moments + damping * np.eye(len(moments))
    power = np.diag(moments)
    return np.stack(
        [
            _round_row(row, top / LEVELS, moments, power)
            if top > 0
            else np.zeros_like(row)
            for row, top in zip(kernel, largest, strict=True)
        ]
    )


def round_taps(kernel: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """The same for a convolution channel by channel.

    A slow signal is nearly the same at all taps: what counts is their sum.

    Args:
        kernel: `(1, height, width, channels)`.
        moments: `(channels, taps, taps)`, of the values at the taps.

    Returns:
        The kernel; each channel has its own step, and no new taps.
    """
    order, counts = taps_of(kernel)
    rows = kernel.reshape(-1, kernel.shape[-1]).T
    rounded = np.zeros_like(rows)
    for channel, (places, count) in enumerate(zip(order, counts, strict=True)):
        if count:
            used = places[:count]
            rounded[channel, used] = round_kernel(
                rows[channel, used][None], moments[channel, :count, :count]
            )[0]
    return rounded.T.reshape(kernel.shape)


def _round_row(row, step, moments, power):
    # The largest first: it is exact, and stays so.
    first = int(np.argmax(np.abs(row)))
    order = np.argsort(-power, kind="stable")
    order = np.concatenate([[first], order[order != first]])
    inverse = np.linalg.inv(moments[np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T
    left, rounded = row[order].copy(), np.empty_like(row)
    for place, column in enumerate(order):
        whole = np.clip(np.round(left[place] / step), -LEVELS, LEVELS)
        rounded[column] = whole * step
        error = (left[place] - rounded[column]) / factor[place, place]
        left[place:] -= error * factor[place, place:]
    return rounded

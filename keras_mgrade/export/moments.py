"""What goes together in that which weights are multiplied with.

A mean of `x x^T` over a stream, for each operator with weights: for a matrix
product over its inputs, for a convolution channel by channel over the values
at the taps of each channel.
"""

from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import fold

TAPS = "DEPTHWISE_CONV_2D"
# Multiplications a step that are still quick; kernels beyond are wide and
# smooth, and gain little.
LARGEST = 1_000_000


class Moments:
    """Of one operator; adds up what the operator reads.

    Args:
        order: `(channels, taps)`: where the taps of each channel lie in its
            kernel; `None` for a matrix product.
        inputs: Values that the operator reads, or reads for each channel.
    """

    def __init__(self, order: np.ndarray | None, inputs: int):
        self._order = order
        shape = (inputs,) if order is None else order.shape
        self._total = np.zeros((*shape, shape[-1]))
        self._steps = 0

    def add(self, x: np.ndarray) -> None:
        """One step: the tensor that the operator reads."""
        x = x.astype(np.float64)
        if self._order is None:
            x = np.ravel(x)
        else:
            channels = x.reshape(-1, x.shape[-1]).T
            several = len(self._order) // len(channels)
            channels = np.repeat(channels, several, axis=0)
            x = np.take_along_axis(channels, self._order, axis=1)
        self._total += x[..., :, None] * x[..., None, :]
        self._steps += 1

    def mean(self) -> np.ndarray:
        return self._total / self._steps


def watch(model: Any) -> dict[str, tuple[int, Moments]]:
    """For each operator that has moments what it reads and where they go.

    Args:
        model: Float32 model with unique names.

    Returns:
        From the name of the operator's output to the index of the tensor that
        it reads, and its `Moments`. Operators that read one tensor in one way
        share them.
    """
    graph = model.subgraphs[0]
    watched: dict[str, tuple[int, Moments]] = {}
    shared: dict[int, Moments] = {}
    for op in graph.operators:
        source, *constants = fb.inputs_of(op)
        name = fb.operator_name(model, op)
        if name not in (fold.PRODUCT, TAPS):
            continue
        if not all(fb.is_constant(model, i) for i in constants):
            continue
        shape = fb.shape_of(graph.tensors[source])
        found = None
        if name == fold.PRODUCT:
            size = int(np.prod(shape))
            found = shared.setdefault(source, Moments(None, size))
        else:
            kernel, _ = fold.weights(model, op)
            order, _ = taps_of(kernel)
            # One step of it is a product of each channel with its kernel.
            whole = tuple(kernel.shape[1:3]) == tuple(shape[1:3])
            if whole and order.size * order.shape[1] <= LARGEST:
                found = Moments(order, order.shape[1])
        if found is not None:
            output = graph.tensors[fb.outputs_of(op)[0]]
            watched[fb.text(output.name)] = source, found
    return watched


def taps_of(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a kernel (1, height, width, channels) has weights.

    Returns:
        `(channels, taps)`, places of weights first, and how many of each
        channel are weights.
    """
    rows = kernel.reshape(-1, kernel.shape[-1]).T
    counts = np.count_nonzero(rows, axis=1)
    order = np.argsort(rows == 0, axis=1, kind="stable")
    return order[:, : max(1, counts.max())], counts

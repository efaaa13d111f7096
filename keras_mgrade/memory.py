"""What a model costs on a device: parameters, states, work, in one table."""

import collections
import dataclasses
import math
from typing import Any

import keras

from keras_mgrade import streaming
from keras_mgrade.layers.keras_steps import step_of

# Bytes a value takes: matrices, vectors (biases and normalisation, 32-bit in
# every precision), and states by their role.
_BYTES = {
    "float32": dict(
        matrix=4, vector=4, recurrent=4, delay_line=4, accumulator=4
    ),
    "mixed": dict(matrix=1, vector=4, recurrent=4, delay_line=1, accumulator=4),
    "int8": dict(matrix=1, vector=4, recurrent=1, delay_line=1, accumulator=4),
}


@dataclasses.dataclass(frozen=True)
class LayerMemory:
    """One layer's share of the memory and of the work of a step.

    Attributes:
        name: The layer's path.
        parameters: Weights, statistics of a normalisation included.
        state: Values of recurrent states and accumulators.
        delay_line: Values of the delay line, `max_delay` a channel.
        delay_line_in_use: The same with every channel cut to the longest
            delay that it reads.
        multiply_adds: Multiply-adds of one step.
        bytes: `{"float32": ..., "mixed": ..., "int8": ...}`: parameters,
            state and delay line in bytes. Matrices, delays and delay lines
            take one byte in `mixed` and `int8`, vectors four; a recurrent
            state takes four in `mixed` and one in `int8`.
    """

    name: str
    parameters: int = 0
    state: int = 0
    delay_line: int = 0
    delay_line_in_use: int = 0
    multiply_adds: int = 0
    bytes: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(_BYTES, 0)
    )

    def __add__(self, other: "LayerMemory") -> "LayerMemory":
        sums = {
            field.name: getattr(self, field.name) + getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.type is int
        }
        sums["bytes"] = {
            precision: size + other.bytes[precision]
            for precision, size in self.bytes.items()
        }
        return LayerMemory(self.name, **sums)


@dataclasses.dataclass(frozen=True)
class MemoryReport:
    """What `memory_report` returns; prints as a table.

    Attributes:
        layers: One `LayerMemory` a layer that has weights or states.
        total: Their sum.
    """

    layers: tuple[LayerMemory, ...]
    total: LayerMemory

    @property
    def footprint(self) -> int:
        """The paper's footprint: parameters + state + delay line, values."""
        total = self.total
        return total.parameters + total.state + total.delay_line

    def __str__(self) -> str:
        heads = ["layer", "parameters", "state", "delay line", "in use"]
        heads += ["MAC/step", *(f"{name} B" for name in _BYTES)]
        rows = [heads]
        for layer in (*self.layers, self.total):
            values = dataclasses.astuple(layer)
            numbers = [*values[1:-1], *layer.bytes.values()]
            rows.append([layer.name, *(f"{value:,}" for value in numbers)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            row[0].ljust(widths[0])
            + "".join(
                cell.rjust(width + 2)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        lines[1:1], lines[-1:-1] = [rule], [rule]
        lines.append(
            "footprint (parameters + state + delay line): "
            f"{self.footprint:,} values"
        )
        return "\n".join(lines)


def memory_report(model: keras.Model) -> MemoryReport:
    """Counts parameters, states, delay lines and multiply-adds of a step.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.MinGRU(4),
    ...     keras.layers.Dense(2),
    ... ])
    >>> report = keras_mgrade.memory_report(model)
    >>> report.total.parameters, report.total.state, report.footprint
    (42, 4, 46)

    Args:
        model: A model that `streaming_model` accepts.

    Returns:
        A `MemoryReport`: `print` shows it as a table; its attributes are the
        numbers. They are the paper's counts: taps are weights and delays. A
        `.tflite` file holds the materialised kernel instead, and a delay line
        as long as the longest delay in all channels; what a file takes is in
        the result of `export.to_tflite`. Normalisations count one
        multiply-add a value for scale and offset and one for each statistic
        they take; activations and sums count none.
    """
    return stream_report(streaming.streaming_model(model))


def stream_report(stream: keras.Model) -> MemoryReport:
    """`memory_report` of a model that is a stream already."""
    nodes = [n for nodes in stream._nodes_by_depth.values() for n in nodes]
    calls = collections.Counter(id(node.operation) for node in nodes)
    rows = []
    for step in stream.operations:
        if isinstance(step, streaming.Step):
            row = _layer_memory(step, calls[id(step)])
            if row.parameters or row.state or row.delay_line:
                rows.append(row)
        elif isinstance(step, keras.layers.Layer) and step.weights:
            # After time is gone a layer stands in the stream as it is.
            rows.append(_weights(step.name, step, calls[id(step)]))
    total = sum(rows, start=LayerMemory("total"))
    return MemoryReport(tuple(rows), total)


def _weights(name, layer, calls):
    weights = [w for w in layer.weights if w.name != "seed_generator_state"]
    sizes = {"matrix": 0, "vector": 0}
    for weight in weights:
        kind = "matrix" if len(weight.shape) > 1 else "vector"
        sizes[kind] += math.prod(weight.shape)
    return LayerMemory(
        name,
        parameters=sum(sizes.values()),
        multiply_adds=calls * _multiply_adds(layer),
        bytes={
            precision: sum(size * width[kind] for kind, size in sizes.items())
            for precision, width in _BYTES.items()
        },
    )


def _layer_memory(step, calls):
    layer = step.layer
    row = _weights(step.name.replace("__", "/"), layer, calls)
    for _, shape, role in step.state_specs:
        size = calls * math.prod(shape)
        in_use = size
        if hasattr(layer, "longest_delays"):
            in_use = calls * int(layer.longest_delays().sum())
        line = role == "delay_line"
        row += LayerMemory(
            row.name,
            state=0 if line else size,
            delay_line=size if line else 0,
            delay_line_in_use=in_use if line else 0,
            bytes={
                precision: size * width[role]
                for precision, width in _BYTES.items()
            },
        )
    return row


_STATISTICS = {
    keras.layers.LayerNormalization: 2,
    keras.layers.RMSNormalization: 1,
}


def _multiply_adds(layer: Any) -> int:
    counted = getattr(step_of(layer) or layer, "multiply_adds", None)
    if counted is not None:
        return counted
    if isinstance(layer, (keras.layers.Dense, keras.layers.EinsumDense)):
        return math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.BatchNormalization):
        return math.prod(layer.moving_mean.shape)
    for kind, statistics in _STATISTICS.items():
        if isinstance(layer, kind) and layer.weights:
            return (statistics + 1) * math.prod(layer.weights[0].shape)
    return 0

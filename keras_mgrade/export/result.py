"""What an export made: the file, its tensors, and the proof."""

import collections
import dataclasses
import pathlib
from typing import Any

from keras_mgrade.export.interface import StateLayout, TensorInfo
from keras_mgrade.export.prove import Deviation
from keras_mgrade.export.rings import Rings


@dataclasses.dataclass(frozen=True)
class TFLiteModel:
    """A `.tflite` file and what was measured on it.

    Attributes:
        path: Path of the file.
        precision: Of `"float32"`, `"mixed"`, `"int8"` and `"int16x8"`.
        bytes: Size of the file, in bytes.
        inputs: The inputs in the file's order, x and then the states: name,
            shape, dtype, scale, zero_point.
        outputs: The outputs in the file's order, answers and then the new
            states. A state has the same name in both.
        states: How each state of the Keras stream lies in the file.
        operators: Names of the operators in the order they are run.
        arena_bytes: Memory that TFLite Micro needs, in bytes, recorded on
            the machine that converted; `None` if it was not run there.
        arena_note: Why it was not run.
        deviations: For each runtime how far its outputs lay from those of the
            float Keras stream.
        content: Bytes of the file by what they are for.
        gates: For each recurrent state with gates the mean of its slowest
            gate over the calibration; its reciprocal is a time constant in
            steps.
        step_us: Median time of a step in LiteRT on the machine that
            converted, in microseconds.
        state_io: `"explicit"` or `"internal"`.
        warnings: What to watch for.
    """

    path: pathlib.Path
    precision: str
    bytes: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    states: tuple[StateLayout, ...]
    operators: tuple[str, ...]
    arena_bytes: int | None
    arena_note: str
    deviations: tuple[Deviation, ...]
    content: dict[str, int]
    gates: dict[str, float]
    step_us: float
    state_io: str = "explicit"
    warnings: tuple[str, ...] = ()

    @property
    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, the most frequent first."""
        return dict(collections.Counter(self.operators).most_common())

    @property
    def state_bytes(self) -> int:
        """Memory that a program keeps between two steps, in bytes."""
        held = {t.name: t.bytes for t in self.inputs}
        total = 0
        for state in self.states:
            if state.delays is not None:
                kind = next(t for t in self.inputs if t.name == state.name)
                total += Rings(state.delays, kind.dtype).bytes
            else:
                total += held.get(state.name, 0)
        return total

    def __str__(self) -> str:
        arena = self.arena_note or f"{self.arena_bytes:,} bytes"
        counts = [f"{n} x {c}" for n, c in self.operator_counts.items()]
        lines = [
            f"{self.path} ({self.precision})",
            f"  file    {self.bytes:,} bytes",
            f"  arena   {arena}",
            f"  states  {self.state_bytes:,} bytes",
            f"  time    {self.step_us:.1f} us a step in LiteRT here",
            *(f"    {k}: {n:,} bytes" for k, n in self.content.items()),
            *_table("inputs", self.inputs),
            *_table("outputs", self.outputs),
            "  states in the file",
            *(f"    {_layout(state)}" for state in self.states),
            "  operators",
            *(f"    {count}" for count in counts),
            "  deviation from the Keras stream",
            *(f"    {_deviation(d)}" for d in self.deviations),
            *(f"  warning: {text}" for text in self.warnings),
        ]
        return "\n".join(lines)


def _table(title: str, tensors: tuple[TensorInfo, ...]) -> list[str]:
    rows = [("name", "shape", "dtype", "scale", "zero_point")]
    for t in tensors:
        scale = "-" if t.scale is None else f"{t.scale:.9g}"
        zero = "-" if t.zero_point is None else str(t.zero_point)
        rows.append((t.name, str(t.shape), t.dtype, scale, zero))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))
        for row in rows
    ]
    return [f"  {title}", *(f"    {line.rstrip()}" for line in lines)]


def _layout(state: StateLayout) -> str:
    text = f"{state.name} ({state.role}): Keras {state.keras_shape}"
    if state.delays is not None:
        rows, held = len(state.delays), Rings(state.delays, "int8")
        return (
            f"{text}, held by the program: {held.lengths.sum():,} values in a "
            f"ring for each channel, read at {rows} taps as {state.shape}"
        )
    if state.steps is None:
        return f"{text}, unchanged"
    return (
        f"{text}, in the file its last {state.steps} steps as {state.shape}, "
        "oldest first"
    )


def _deviation(d: Deviation) -> str:
    if d.maximum is None or d.rms is None:
        return f"{d.runtime}: {d.note}"
    return (
        f"{d.runtime}: max {d.maximum:.2g} of the largest output, "
        f"rms {d.rms:.2g} of the output's rms, over {d.steps:,} steps "
        f"({d.first_rms:.2g} at the beginning, {d.last_rms:.2g} at the end)"
    )


def to_json(result: TFLiteModel) -> dict[str, Any]:
    """A result as plain lists, numbers and texts."""
    return {**dataclasses.asdict(result), "path": str(result.path)}


def from_json(values: dict[str, Any]) -> TFLiteModel:
    """A result from what `to_json` gave, after a trip through a file."""
    values = dict(values)
    for field, kind in (
        ("inputs", TensorInfo),
        ("outputs", TensorInfo),
        ("states", StateLayout),
        ("deviations", Deviation),
    ):
        values[field] = tuple(
            kind(**{k: _hashable(v) for k, v in entry.items()})
            for entry in values[field]
        )
    for field in ("operators", "warnings"):
        values[field] = tuple(values[field])
    values["path"] = pathlib.Path(values["path"])
    return TFLiteModel(**values)


def _hashable(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(v, list) for v in value):
        return tuple(value)
    return value

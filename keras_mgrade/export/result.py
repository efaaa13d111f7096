"""What an export made: the file, its tensors, and the proof."""

import collections
import dataclasses
import os
import pathlib
from typing import Any

from keras_mgrade.export.interface import StateLayout, TensorInfo
from keras_mgrade.export.prove import Deviation
from keras_mgrade.export.rings import Rings


@dataclasses.dataclass(frozen=True)
class TFLiteFile:
    """A `.tflite` file and what can be seen on it.

    Attributes:
        path: Path of the file.
        bytes: Size of the file, in bytes.
        sha256: Its checksum.
        inputs: The inputs in the file's order, x and then the states: name,
            shape, dtype, scale, zero_point.
        outputs: The outputs in the file's order, answers and then the new
            states. A state has the same name in both.
        operators: Names of the operators in the order they are run.
        arena_bytes: Memory that TFLite Micro keeps in use, in bytes, recorded
            on the machine that looked; `None` if it was not run there.
        arena_needed: How large an arena is certainly enough for its setup.
        arena_note: Why it was not run.
        deviations: How far runtimes' outputs lay from one another, and from
            those of the float Keras stream where it was at hand.
        content: Bytes of the file by what they are for.
        step_us: Median time of a step in LiteRT on the machine that looked,
            in microseconds.
    """

    path: pathlib.Path
    bytes: int
    sha256: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    operators: tuple[str, ...]
    arena_bytes: int | None
    arena_needed: int | None
    arena_note: str
    deviations: tuple[Deviation, ...]
    content: dict[str, int]
    step_us: float

    @property
    def operator_counts(self) -> dict[str, int]:
        """How often each operator occurs, the most frequent first."""
        return dict(collections.Counter(self.operators).most_common())

    def _parts(self) -> dict[str, list[str]]:
        """The lines of the table by what they are about."""
        arena = self.arena_note or (
            f"{self.arena_bytes:,} bytes in use, {self.arena_needed:,} are "
            "enough for the setup"
        )
        counts = [f"{n} x {c}" for n, c in self.operator_counts.items()]
        return {
            "title": [str(self.path)],
            "sizes": [
                f"  file    {self.bytes:,} bytes",
                *(f"    {k}: {n:,} bytes" for k, n in self.content.items()),
                f"  arena   {arena}",
                f"  time    {self.step_us:.1f} us a step in LiteRT here",
            ],
            "tensors": [
                *_table("inputs", self.inputs),
                *_table("outputs", self.outputs),
            ],
            "operators": ["  operators", *(f"    {c}" for c in counts)],
            "deviations": [
                "  deviation",
                *(f"    {_deviation(d)}" for d in self.deviations),
            ],
        }

    def __str__(self) -> str:
        return "\n".join(sum(self._parts().values(), []))


@dataclasses.dataclass(frozen=True)
class TFLiteModel(TFLiteFile):
    """A `.tflite` file and what was proved of it beside its Keras model.

    Attributes:
        precision: Of `"float32"`, `"mixed"`, `"int8"` and `"int16x8"`.
        states: How each state of the Keras stream lies in the file.
        gates: For each recurrent state with gates the mean of its slowest
            gate over the calibration; its reciprocal is a time constant in
            steps. Empty where float32 alone was asked for.
        state_io: `"explicit"` or `"internal"`.
        warnings: What to watch for.
        sample: For each input the first steps of the stream that the file
            was proved on.
    """

    precision: str
    states: tuple[StateLayout, ...]
    gates: dict[str, float]
    state_io: str = "explicit"
    warnings: tuple[str, ...] = ()
    sample: list[list[Any]] = dataclasses.field(
        default_factory=list, repr=False, compare=False
    )

    def save_bundle(self, folder: str | os.PathLike) -> None:
        """Write what the author of a firmware needs into a folder.

        The file as a C array, a header with its tensors, operators and arena,
        golden vectors with a `self_test()` in C, ring buffers for delay lines
        and a README. Files of a bundle that is there already are replaced.

        Args:
            folder: Where to; made if it does not exist.

        Raises:
            ValueError: If the file is no longer the one that was proved.
        """
        from keras_mgrade.export import bundle

        if not self.sample:
            raise ValueError(
                "A bundle is for microcontrollers, and the file of a whole "
                "window for phones: export without `window`. Received: "
                f"path={str(self.path)!r}"
            )
        bundle.save_bundle(self, folder)

    @property
    def state_bytes(self) -> int:
        """Memory that a program keeps between two steps, in bytes."""
        inputs = {t.name: t for t in self.inputs}
        total = 0
        for state in self.states:
            tensor = inputs.get(state.name)
            if tensor is not None and state.delays is not None:
                total += Rings(state.delays, tensor.dtype).bytes
            elif tensor is not None:
                total += tensor.bytes
        return total

    def _parts(self) -> dict[str, list[str]]:
        parts = super()._parts()
        parts["title"] = [f"{self.path} ({self.precision})"]
        parts["sizes"].append(f"  states  {self.state_bytes:,} bytes")
        if self.states:
            parts["operators"][:0] = [
                "  states in the file",
                *(f"    {_layout(state)}" for state in self.states),
            ]
        parts["deviations"][0] = "  deviation from the Keras stream"
        parts["warnings"] = [f"  warning: {text}" for text in self.warnings]
        return parts


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


def to_json(result: TFLiteFile) -> dict[str, Any]:
    """A result as plain lists, numbers and texts."""
    return {**dataclasses.asdict(result), "path": str(result.path)}


def from_json(values: dict[str, Any]) -> TFLiteModel:
    """A result from what `to_json` gave, after a trip through a file."""
    values = _common(values)
    values["states"] = tuple(
        StateLayout(**{k: _hashable(v) for k, v in entry.items()})
        for entry in values["states"]
    )
    values["warnings"] = tuple(values["warnings"])
    return TFLiteModel(**values)


def file_from_json(values: dict[str, Any]) -> TFLiteFile:
    """The same for a file alone."""
    return TFLiteFile(**_common(values))


def _common(values: dict[str, Any]) -> dict[str, Any]:
    values = dict(values)
    for field, kind in (
        ("inputs", TensorInfo),
        ("outputs", TensorInfo),
        ("deviations", Deviation),
    ):
        values[field] = tuple(
            kind(**{k: _hashable(v) for k, v in entry.items()})
            for entry in values[field]
        )
    values["operators"] = tuple(values["operators"])
    values["path"] = pathlib.Path(values["path"])
    return values


def _hashable(value: Any) -> Any:
    if isinstance(value, list) and not any(isinstance(v, list) for v in value):
        return tuple(value)
    return value

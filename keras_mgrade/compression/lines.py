"""Delay lines: a sequence and its past, read at delays of each channel."""

import dataclasses
from typing import Any

import numpy as np
from keras import ops

from keras_mgrade.compression.program import Program, State


@dataclasses.dataclass
class Window:
    """What a convolution reads at each step: past values of a sequence.

    Attributes:
        x: The sequence and, in front of it, its past,
            `(batch, longest + time, channels)`.
        delays: How far back each row of the window lies, in steps,
            `(rows, channels)`.
        longest: How many past steps `x` has.
    """

    x: Any
    delays: np.ndarray
    longest: int

    def rows(self, rows: slice) -> "Window":
        return dataclasses.replace(self, delays=self.delays[rows])

    def read(self, row: int) -> Any:
        """One row at all steps, where all channels have one delay."""
        start = self.longest - int(self.delays[row, 0])
        steps = self.x.shape[1]
        time = (ops.shape(self.x)[1] if steps is None else steps) - self.longest
        return self.x[:, start : start + time]

    def flat(self) -> Any:
        """All rows at all steps, `(batch, time, rows * channels)`."""
        rows = [self.read(row) for row in range(len(self.delays))]
        return ops.concatenate(rows, axis=-1)


@dataclasses.dataclass
class Line:
    """A delay line of the file.

    Attributes:
        delays: How far back each row lies, without the newest value,
            `(rows, channels)`, in steps.
        newest: Number of the tensor that holds the newest value.
        after: Number of the tensor that the line comes out by.
    """

    delays: np.ndarray
    newest: int
    after: int

    @property
    def longest(self) -> int:
        return max(1, int(self.delays.max()))

    @property
    def channels(self) -> int:
        return self.delays.shape[1]


def find_lines(
    program: Program, delays: dict[str, list[list[int]]]
) -> dict[int, Line]:
    """The lines of a file by the numbers of the tensors they go in by.

    Args:
        program: The operators.
        delays: Those of the lines that the program around the file holds.
    """
    lines = {}
    for state in program.states:
        if state.role == "delay_line":
            newest = _joined_with(program, state)
            rows, channels = program.tensors[state.before].shape[1::2]
            if state.name in delays:
                table = np.asarray(delays[state.name], int)
            else:
                table = np.arange(rows, 0, -1)[:, None].repeat(channels, 1)
            lines[state.before] = Line(table, newest, state.after)
    return lines


def _joined_with(program: Program, state: State) -> int:
    """The newest value, which stands behind the line in a window."""
    for op in program.operators:
        if op.name == "CONCATENATION" and op.inputs[0] == state.before:
            return op.inputs[1]
    raise ValueError(
        f"The delay line {state.name!r} is not read as a window. "
        f"Received: {[op.name for op in program.operators]}"
    )

"""The states of a running file: what goes in where, and what comes out."""

from typing import Any

import numpy as np

from keras_mgrade.export.interface import TensorInfo
from keras_mgrade.export.rings import Rings


class Kept:
    """A state that goes in as it came out.

    Args:
        before: The input of the file.
        after: The output of the file.
    """

    def __init__(self, before: TensorInfo, after: TensorInfo):
        pair = [
            (t.shape, t.dtype, t.scale, t.zero_point) for t in (before, after)
        ]
        if pair[0] != pair[1]:
            raise ValueError(
                "Expected a state to come out in the shape, type and scale in "
                "which it goes in. Export the file again. Received: "
                f"{before} and {after}"
            )
        self.before, self.after = before, after
        self.reset()

    def reset(self) -> None:
        """Back to the start of a stream."""
        # A quantised zero is the zero point.
        zero = self.before.zero_point or 0
        self._value = np.full(self.before.shape, zero, self.before.dtype)

    def read(self) -> np.ndarray:
        """What goes in at the next step."""
        return self._value

    def write(self, value: np.ndarray) -> None:
        """What came out at this step."""
        self._value = value


class Line(Rings):
    """A delay line that the program holds.

    Args:
        before: The input of the file, the values at the taps.
        after: The output of the file, the newest value.
        delays: Delay of each tap and channel, in steps.
    """

    def __init__(self, before: TensorInfo, after: TensorInfo, delays: Any):
        delays = np.asarray(delays)
        wanted = (before.shape[1], before.shape[-1])
        fits = delays.shape == wanted and delays.dtype.kind == "i"
        if not fits or delays.min() < 0 or after.shape[-1] != wanted[1]:
            raise ValueError(
                f"Expected the delays of {before.name!r} to be {wanted} whole "
                "numbers. Export the file again. Received: shape="
                f"{delays.shape}"
            )
        self.before, self.after = before, after
        super().__init__(delays, before.dtype, before.zero_point or 0)


def make_state(before: TensorInfo, after: TensorInfo, delays: Any) -> Any:
    """What holds a state between two steps, with `read` and `write`."""
    if delays is None:
        return Kept(before, after)
    return Line(before, after, delays)

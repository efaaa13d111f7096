"""Ring buffers for delay lines that the program holds, not the file.

Each channel's ring is as long as its own longest delay. The bundle has the
same in C (`rings.c`), and a test compiles it and compares every byte.
"""

import numpy as np


class Rings:
    """One delay line: read at its taps, then pushed, step by step.

    Args:
        delays: Delay of each tap and channel, `(taps, channels)`, in steps;
            0 is no tap, which reads zero.
        dtype: Type of the values.
        zero: What stands for zero, the zero point. Defaults to `0`.
    """

    def __init__(self, delays: np.ndarray, dtype: str, zero: int = 0):
        self.delays = np.asarray(delays, int)
        self.lengths = self.delays.max(axis=0)
        self._first = np.cumsum(self.lengths) - self.lengths
        self._dtype, self._zero = np.dtype(dtype), zero
        self.reset()

    @property
    def bytes(self) -> int:
        """Memory of the values, and of each channel's position."""
        heads = self._heads.astype(np.uint16)
        return self._values.nbytes + heads.nbytes

    def reset(self) -> None:
        """Back to the start of a stream: nothing but zeros."""
        size = int(self.lengths.sum())
        self._values = np.full(size, self._zero, self._dtype)
        self._heads = np.zeros(len(self.lengths), int)

    def read(self) -> np.ndarray:
        """The values at the taps, `(1, taps, 1, channels)`."""
        length = np.maximum(self.lengths, 1)
        places = self._first + (self._heads - self.delays) % length
        # Past the end only where there is no tap.
        places = np.minimum(places, max(len(self._values) - 1, 0))
        read = self.delays > 0
        zeros = np.full(self.delays.shape, self._zero, self._dtype)
        if len(self._values):
            zeros[read] = self._values[places[read]]
        return zeros[None, :, None]

    def write(self, values: np.ndarray) -> None:
        """The newest value of each channel, after the step that used it."""
        held = self.lengths > 0
        places = (self._first + self._heads)[held]
        self._values[places] = np.ravel(values)[held]
        self._heads[held] = (self._heads[held] + 1) % self.lengths[held]

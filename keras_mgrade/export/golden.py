"""Golden vectors: what a file must give on the board, and how nearly."""

import dataclasses

import numpy as np

from keras_mgrade.export.interface import StateLayout, TensorInfo
from keras_mgrade.export.runners import StepRunner

# Vectors lie in flash beside the model: not more of them than this, in bytes.
LARGEST = 16_384


@dataclasses.dataclass(frozen=True)
class Golden:
    """Some steps from the start of a stream, in the file's own types.

    Attributes:
        inputs: For each input `(steps, ...)`.
        outputs: For each answer the same.
        states: Each kept state after the last step, by name.
        tolerances: How far each answer may lie off, in its own units.
        state_tolerances: The same for each kept state.
    """

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    states: dict[str, np.ndarray]
    tolerances: list[float]
    state_tolerances: list[float]

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return len(self.inputs[0])


def golden_steps(
    layouts: tuple[StateLayout, ...], tensors: tuple[TensorInfo, ...]
) -> int:
    """How many steps show every tap of the longest delay line, if they fit."""
    longest = 0
    for state in layouts:
        if state.delays is not None:
            longest = max(longest, *(max(row) for row in state.delays))
        elif state.steps is not None:
            longest = max(longest, state.steps)
    states = {state.name for state in layouts}
    each = sum(t.bytes for t in tensors if t.name not in states)
    return max(1, min(longest + 16, LARGEST // max(each, 1)))


def golden(
    runner: StepRunner, other: StepRunner | None, samples: list[np.ndarray]
) -> Golden:
    """Run the first steps of a stream and note what comes.

    Args:
        runner: TFLite Micro, or LiteRT where that does not run.
        other: Another runtime, whose deviation says what other kernels may
            do; `None` if there is none.
        samples: For each input `(steps, features)`.

    Returns:
        The vectors, and tolerances of twice what the runtimes differ by, one
        step of an integer at least.
    """
    inputs, outputs = runner.record(samples)
    states = runner.kept_states()
    pairs = [(outputs, outputs), (list(states.values()),) * 2]
    if other is not None:
        _, others = other.record(samples)
        pairs = [
            (outputs, others),
            (list(states.values()), list(other.kept_states().values())),
        ]
    tolerances = [
        [_tolerance(a, b) for a, b in zip(*pair, strict=True)] for pair in pairs
    ]
    return Golden(inputs, outputs, states, *tolerances)


def _tolerance(one: np.ndarray, other: np.ndarray) -> float:
    difference = np.abs(one.astype(np.float64) - other).max(initial=0)
    if one.dtype.kind == "f":
        # Sums in another order; functions that differ in the last bits.
        least = 1e-4 * max(float(np.abs(one).max(initial=0)), 1e-6)
    else:
        least = 1.0
    return float(max(2 * difference, least))

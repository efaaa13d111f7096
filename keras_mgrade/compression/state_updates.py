"""A state's update as a linear recurrence, read from its operators.

`after = factor * before + summand`, where factor and summand do not depend on
the state: then all steps are computed at once.
"""

from collections.abc import Callable
from typing import Any

from keras_mgrade.compression.program import (
    CONVERSIONS,
    Operator,
    Program,
    State,
)

Pair = tuple[Any, Any]


class StateUpdate:
    """The operators between a state's input and its output.

    Args:
        program: The operators of the file.
        state: The state.
        writers: The operator that writes each tensor.

    Attributes:
        rounds: Whether the file keeps integers between them.
    """

    def __init__(self, program: Program, state: State, writers: dict[int, int]):
        self._program, self._state, self._writers = program, state, writers
        self._dependent = _depends_on(program, state.before)
        self.rounds = False

    def coefficients(self, value: Callable[[int], Any]) -> Pair:
        """`(factor, summand)` of the update.

        Rounding between its operators is left out: it depends on the state.

        Args:
            value: Of a tensor that does not depend on the state.

        Raises:
            ValueError: If the update is not linear in the state.
        """
        found: dict[int, Pair] = {self._state.before: (1.0, 0.0)}

        def pair(index: int) -> Pair:
            if index not in self._dependent:
                return 0.0, value(index)
            if index not in found:
                op = self._program.operators[self._writers[index]]
                read = [pair(i) for i in op.inputs if i >= 0]
                found[index] = self._apply(op, read)
                point = self._program.tensors[index].point
                self.rounds = self.rounds or point is not None
            return found[index]

        return pair(self._state.after)

    def _apply(self, op: Operator, pairs: list[Pair]) -> Pair:
        if op.name in CONVERSIONS:
            return pairs[0]
        fused = op.options.get("fusedActivationFunction", 0)
        if op.name in ("ADD", "SUB", "MUL") and not fused:
            (a, b), (c, d) = pairs
            if op.name == "ADD":
                return a + c, b + d
            if op.name == "SUB":
                return a - c, b - d
            if _is_zero(a):
                return b * c, b * d
            if _is_zero(c):
                return d * a, d * b
        raise ValueError(
            "Quantisation-aware training computes all steps of a sequence at "
            f"once, and the state {self._state.name!r} cannot be: its update "
            "is not linear in it. Take a MinGRU in the place of a GRU, LSTM "
            f"or SimpleRNN. Received: a state that is read by {op.name}"
        )


def _depends_on(program: Program, index: int) -> set[int]:
    """Tensors that are computed from one, and that one."""
    found = {index}
    for op in program.operators:
        if found.intersection(op.inputs):
            found.update(op.outputs)
    return found


def _is_zero(value):
    return isinstance(value, float) and value == 0.0

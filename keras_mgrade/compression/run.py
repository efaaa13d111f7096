"""One pass over a chunk of steps through the operators of a file."""

from typing import Any

import numpy as np
from keras import ops

from keras_mgrade.compression import elementwise, state_updates
from keras_mgrade.compression.lines import Line, Window
from keras_mgrade.ops.linear_recurrence import linear_recurrence


class Run:
    """The values of a file's tensors over a chunk, as they are asked for.

    Args:
        layer: The `QuantizedSteps` with the operators, weights and ranges.
        training: Whether ranges follow what comes.
        chunk: Batch and time.

    Attributes:
        values: What is known, by the numbers of the tensors.
        before: States in front of the chunk, by the numbers of the tensors
            that they go in by.
    """

    def __init__(self, layer: Any, training: bool, chunk: Any):
        self.layer, self.program = layer, layer.program
        self.training = training
        self.chunk = chunk  # Batch and time.
        self.values: dict[int, Any] = {}
        self.before: dict[int, Any] = {}
        self.lines: dict[int, Line] = layer.lines
        self._histories: dict[int, Any] = {}
        self._solving: set[int] = set()

    def value(self, index: int) -> Any:
        """A tensor at all steps, `(batch, time, ...)`."""
        if index not in self.values:
            self.values[index] = self._computed(index)
        return self.values[index]

    def rounded(self, index: int, x: Any) -> Any:
        """A value as the integers of its tensor give it."""
        point = self.program.tensors[index].point
        if point is None:
            return x
        return self.layer.points[point](x, training=self.training)

    def _step(self, index):
        """How far the values of a tensor lie apart; `None` in float."""
        point = self.program.tensors[index].point
        return None if point is None else self.layer.points[point].step()

    def _computed(self, index):
        tensor = self.program.tensors[index]
        if tensor.value is not None:
            vector = self.layer.vectors.get(str(index))
            if vector is not None:
                return ops.convert_to_tensor(vector)
            return ops.convert_to_tensor(tensor.value)
        for state in self.program.states:
            if state.before == index:
                return self._entering(state)
        number = self.layer.writers[index]
        op = self.program.operators[number]
        if number in self.layer.uses:
            kernel, bias = self.layer.uses[number]
            # Read first: the step is that of a range that has followed.
            x, step = self._read(op), self._step(op.inputs[0])
            y = self.layer.products[kernel].apply(x, bias, self.training, step)
            y = elementwise.activate(y, op.options)
        else:
            y = self._plain(op, index)
        if isinstance(y, Window):
            return y
        y = ops.reshape(y, (*ops.shape(y)[:2], *tensor.row))
        return y if op.name in _MOVES else self.rounded(index, y)

    def _read(self, op):
        """What a product reads: a window, or rows of features."""
        x = self.value(op.inputs[0])
        if op.name == "FULLY_CONNECTED":
            if isinstance(x, Window):
                x = x.flat()
            x = ops.reshape(x, (*ops.shape(x)[:2], -1))
        return x

    def _plain(self, op, index):
        rank = len(self.program.tensors[op.inputs[0]].shape)
        name, options = op.name, op.options
        if name in elementwise.BINARY:
            left, right = (self.value(i) for i in op.inputs)
            y = elementwise.BINARY[name](*_beside(left, right))
            return elementwise.activate(y, options)
        if name == "CONCATENATION":
            if op.inputs[0] in self.lines:
                return self._window(self.lines[op.inputs[0]])
            parts = [self.value(i) for i in op.inputs]
            return ops.concatenate(parts, axis=_last(options["axis"], rank))
        x = self.value(op.inputs[0])
        if name in elementwise.UNARY:
            return elementwise.UNARY[name](x)
        if name in elementwise.RESHAPES:
            return x
        if name == "LEAKY_RELU":
            return ops.leaky_relu(x, negative_slope=options["alpha"])
        if name in elementwise.REDUCTIONS:
            axes = np.ravel(self.program.tensors[op.inputs[1]].value)
            return elementwise.REDUCTIONS[name](
                x, axis=tuple(_last(a, rank) for a in axes), keepdims=True
            )
        if name == "STRIDED_SLICE":
            return self._sliced(op, x)
        raise ValueError(
            "Quantisation-aware training knows no such operator. Build the "
            "model from Dense layers, convolutions, normalisations and those "
            f"of this package. Received: operator={name}"
        )

    def _sliced(self, op, x):
        begin, end, stride = (
            self.program.tensors[i].value for i in op.inputs[1:]
        )
        shape = self.program.tensors[op.inputs[0]].shape
        cuts = []
        for axis, size in enumerate(shape):
            bit = 1 << axis
            first = None if op.options["beginMask"] & bit else int(begin[axis])
            last = None if op.options["endMask"] & bit else int(end[axis])
            if op.options["shrinkAxisMask"] & bit:
                last = first + 1 if first != -1 else size
            cuts.append(slice(first, last, int(stride[axis])))
        if isinstance(x, Window):
            return x.rows(cuts[1])
        return x[(slice(None), slice(None), *cuts[1:])]

    def _window(self, line):
        """A line with its newest value, over all steps."""
        return Window(
            self._history(line),
            np.concatenate([line.delays, np.zeros_like(line.delays[:1])]),
            line.longest,
        )

    def _history(self, line):
        """The values of a line's channels, from its past on."""
        if line.after not in self._histories:
            newest = self.value(line.newest)
            newest = ops.reshape(newest, (*ops.shape(newest)[:2], -1))
            past = next(
                self.before[i] for i, a in self.lines.items() if a is line
            )
            self._histories[line.after] = ops.concatenate(
                [past, newest], axis=1
            )
        return self._histories[line.after]

    def _entering(self, state):
        """A recurrent state in front of each step."""
        if state.name in self._solving:
            raise ValueError(
                "Quantisation-aware training computes all steps of a sequence "
                "at once, and states that wait for one another cannot be. "
                "Take a MinGRU in the place of an LSTM. "
                f"Received: state={state.name!r}"
            )
        self._solving.add(state.name)
        update = state_updates.StateUpdate(
            self.program, state, self.layer.writers
        )
        pair = update.coefficients(self.value)
        self._solving.remove(state.name)
        first = self.before[state.before]
        row = ops.shape(first)[1:]
        zeros = ops.zeros((*self.chunk, *row))
        factor, summand = (
            ops.reshape(value + zeros, (*self.chunk, -1)) for value in pair
        )
        flat = ops.reshape(first, (self.chunk[0], -1))
        h, _ = linear_recurrence(factor, summand, initial_state=flat)
        if not update.rounds:
            self.values[state.after] = ops.reshape(h, (*self.chunk, *row))
        entering = ops.concatenate([flat[:, None], h[:, :-1]], axis=1)
        return ops.reshape(entering, (*self.chunk, *row))

    def last(self, state):
        """A state behind the last step."""
        if state.before in self.lines:
            line = self.lines[state.before]
            return self._history(line)[:, -line.longest :]
        return self.value(state.after)[:, -1]


_MOVES = ("DEQUANTIZE", "CONCATENATION", "STRIDED_SLICE", *elementwise.RESHAPES)


def _beside(left, right):
    constants = [len(v.shape) < 2 for v in (left, right)]
    return (left, right) if any(constants) else elementwise.aligned(left, right)


def _last(axis: int, rank: int) -> int:
    """An axis of the file counted from the last one."""
    return int(axis) - rank if axis >= 0 else int(axis)

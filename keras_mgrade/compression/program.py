"""The operators of a quantised file, with its weights as they were in float.

What `QuantizedSteps` computes: read from two files of one model, the quantised
one and the float one that it was made from.
"""

import dataclasses
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.scales import FIXED, MOVES

CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
PRODUCTS = ("FULLY_CONNECTED", "DEPTHWISE_CONV_2D", "CONV_2D")
# Besides what only moves data: their kernels want one scale on both sides.
_ONE_SCALE = {*MOVES, "MAXIMUM", "MINIMUM", "AVERAGE_POOL_2D", "REDUCE_MAX"}
_LEVELS = {"int8": (-128, 127), "int16": (-32767, 32767)}


@dataclasses.dataclass
class Tensor:
    """A tensor of the file.

    Attributes:
        shape: In the file.
        kind: Element type in the file.
        scale: Of the integers, one or one a channel; `None` in float.
        zero_point: The integer that means zero.
        value: What it holds if it is constant: weights of products as in
            the float file, which train; others as the integers have them.
        point: Number of the range that it shares; `None` if it has none.
    """

    shape: tuple[int, ...]
    kind: str
    scale: np.ndarray | None
    zero_point: int
    value: np.ndarray | None = None
    point: int | None = None

    @property
    def row(self) -> tuple[int, ...]:
        """Its shape for one step, without the batch."""
        return self.shape[1:] if len(self.shape) > 1 else self.shape

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest value it can hold."""
        low, high = _LEVELS[self.kind]
        scale = float(self.scale[0])
        return (
            (low - self.zero_point) * scale,
            (high - self.zero_point) * scale,
        )


@dataclasses.dataclass
class Operator:
    """An operator: its name, what it reads and writes, its options.

    Attributes:
        sources: The numbers that what it reads has in the float file, where
            a kernel that several operators read is one tensor still.
    """

    name: str
    inputs: list[int]
    outputs: list[int]
    options: dict[str, Any]
    sources: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class State:
    """A state: its name, its role, the tensors it goes in and comes out by."""

    name: str
    role: str
    before: int
    after: int


class Program:
    """The operators of a quantised step model.

    Args:
        quantised: Bytes of the quantised file, states as inputs and outputs.
        plain: Bytes of the float file of the same model.
        roles: The role of each state by its name.

    Attributes:
        tensors: The tensors.
        operators: The operators in the order they are run.
        samples: Numbers of the tensors that samples come in by.
        answers: Those that answers go out by.
        states: The states in the file's order.
        points: For each range of activations one of its tensors.
        fixed: The ranges that an operator's kernel dictates, or a state has.
    """

    def __init__(self, quantised: bytes, plain: bytes, roles: dict[str, str]):
        model = fb.load(quantised)
        self.tensors = [_tensor(t) for t in model.subgraphs[0].tensors]
        self.operators = _operators(model)
        interface = read_interface(model)
        after = {t.name: t.index for t in interface.outputs}
        self.samples = [
            t.index for t in interface.inputs if t.name not in after
        ]
        self.states = [
            State(t.name, roles[t.name], t.index, after[t.name])
            for t in interface.inputs
            if t.name in after
        ]
        inner = {state.name for state in self.states}
        self.answers = [
            t.index for t in interface.outputs if t.name not in inner
        ]
        self._read_constants(model, fb.load(plain))
        self.points: list[Tensor] = []
        self.fixed: set[int] = set()
        self._share_ranges()

    def _read_constants(self, model, plain) -> None:
        """Constants, those that train as they were before."""
        before = [
            op
            for op in plain.subgraphs[0].operators
            if fb.operator_name(plain, op) not in CONVERSIONS
        ]
        computing = [op for op in self.operators if op.name not in CONVERSIONS]
        names = [fb.operator_name(plain, op) for op in before]
        if names != [op.name for op in computing]:
            raise RuntimeError(
                "The quantised file has other operators than the float one. "
                f"Received: {[op.name for op in computing]} and {names}"
            )
        for op, old in zip(computing, before, strict=True):
            op.sources = [int(i) for i in old.inputs]
            weights = op.inputs[1:] if op.name in PRODUCTS else ()
            for index, source in zip(op.inputs, old.inputs, strict=True):
                if index < 0 or not fb.is_constant(model, index):
                    continue
                tensor = self.tensors[index]
                if tensor.scale is None or index in weights:
                    tensor.value = fb.constant(plain, int(source))
                else:
                    whole = fb.constant(model, index).astype("float64")
                    steps = (whole - tensor.zero_point) * tensor.scale
                    tensor.value = steps.astype("float32")

    def _share_ranges(self) -> None:
        """Find which integer tensors have one range for all of them."""
        group = {
            i: i
            for i, t in enumerate(self.tensors)
            if t.scale is not None and t.value is None
        }

        def root(index):
            while group[index] != index:
                index = group[index]
            return index

        joined = [
            [i for i in (*op.inputs, *op.outputs) if i in group]
            for op in self.operators
            if op.name in _ONE_SCALE
        ]
        joined += [
            [i for i in (state.before, state.after) if i in group]
            for state in self.states
        ]
        for members in joined:
            for index in members[1:]:
                group[root(index)] = root(members[0])
        numbers: dict[int, int] = {}
        for index in group:
            number = numbers.setdefault(root(index), len(numbers))
            self.tensors[index].point = number
            if number == len(self.points):
                self.points.append(self.tensors[index])
        for op in self.operators:
            if op.name in FIXED:
                self._fix(op.outputs[0])
        for state in self.states:
            # What a state tends to lies beyond what a batch shows of it.
            if state.role == "recurrent":
                self._fix(state.after)

    def _fix(self, index: int) -> None:
        if self.tensors[index].point is not None:
            self.fixed.add(self.tensors[index].point)


def _tensor(tensor) -> Tensor:
    quantization = tensor.quantization
    scale, zero = None, 0
    if quantization is not None and quantization.scale is not None:
        scale = np.asarray(quantization.scale, np.float64)
        if quantization.zeroPoint is not None and len(quantization.zeroPoint):
            zero = int(quantization.zeroPoint[0])
    return Tensor(fb.shape_of(tensor), fb.dtype_name(tensor), scale, zero)


def _operators(model) -> list[Operator]:
    return [
        Operator(
            fb.operator_name(model, op),
            [int(i) for i in op.inputs],
            fb.outputs_of(op),
            dict(vars(op.builtinOptions)) if op.builtinOptions else {},
        )
        for op in model.subgraphs[0].operators
    ]

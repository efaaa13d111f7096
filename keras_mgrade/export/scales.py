"""Which tensors of a step model share a scale, and over which range."""

from collections.abc import Iterable

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import gates
from keras_mgrade.export.interface import Interface, read_interface
from keras_mgrade.export.ranges import Ranges

# Operators that move data without computing: what they read and write must
# share one scale. The numbers are the slots of their data inputs.
MOVES: dict[str, tuple[int, ...] | None] = {
    "CONCATENATION": None,
    "PACK": None,
    "RESHAPE": (0,),
    "EXPAND_DIMS": (0,),
    "SQUEEZE": (0,),
    "SLICE": (0,),
    "STRIDED_SLICE": (0,),
    "SPLIT": (1,),
    "SPLIT_V": (0,),
    "UNPACK": (0,),
    "TRANSPOSE": (0,),
    "GATHER": (0,),
    "GATHER_ND": (0,),
    "PAD": (0,),
    "MAX_POOL_2D": (0,),
}


def reachable(
    model, interface: Interface, ranges: Ranges, roles: dict[str, str]
) -> Ranges:
    """Ranges of recurrent states widened to where they may converge."""
    wider = dict(ranges)
    names = [fb.text(t.name) for t in model.subgraphs[0].tensors]
    for _, after, _, candidate in gates.updates(model, interface, roles):
        pairs = [wider[names[i]] for i in (after, candidate)]
        wider[names[after]] = _union(pairs)
    return wider


def _union(pairs):
    return min(low for low, _ in pairs), max(high for _, high in pairs)


# Operators whose results have one scale in all files, and the bits of its
# reciprocal in int8; in int16 there are fifteen, about zero.
FIXED = {"TANH": 7, "LOGISTIC": 8, "SOFTMAX": 8}


def _fixed(model, bits: int) -> dict[int, tuple[float, float]]:
    """Ranges of the tensors whose scale is not for us to choose."""
    ranges = {}
    for op in model.subgraphs[0].operators:
        name = fb.operator_name(model, op)
        if name not in FIXED:
            continue
        top = 1 - 2.0 ** -(15 if bits == 16 else FIXED[name])
        low = -top if bits == 16 else -1.0 if name == "TANH" else 0.0
        ranges[fb.outputs_of(op)[0]] = low, top
    return ranges


def tied(model, interface: Interface, ranges: Ranges, bits: int) -> Ranges:
    """Ranges with one value for all tensors that share data with a state."""
    fixed = _fixed(model, bits)
    shared = dict(ranges)
    outputs = {t.name: t.index for t in interface.outputs}
    tensors = model.subgraphs[0].tensors
    for tensor in interface.inputs:
        if tensor.name not in outputs:
            continue
        group = _sharing(model, {tensor.index, outputs[tensor.name]})
        names = [fb.text(tensors[i].name) for i in group]
        pairs = [shared[n] for n in names if n in shared]
        chosen = [fixed[i] for i in group if i in fixed]
        common = chosen[0] if chosen else _union(pairs)
        shared.update(dict.fromkeys(names, common))
    return shared


def _sharing(model, start: set[int]) -> set[int]:
    """Tensors joined to the given ones by operators that only move data."""
    group, grown = set(start), True
    while grown:
        grown = False
        for op in model.subgraphs[0].operators:
            joined = _moved(model, op)
            if joined & group and not joined <= group:
                group |= joined
                grown = True
    return group


def _moved(model, op) -> set[int]:
    """Data tensors of an operator that moves data, else nothing."""
    name = fb.operator_name(model, op)
    if name not in MOVES:
        return set()
    slots = MOVES[name]
    read = [int(i) for i in op.inputs]
    moved = read if slots is None else [read[k] for k in slots]
    return set(moved) | set(fb.outputs_of(op))


def check_states(model, lines: Iterable[str] = ()) -> None:
    """Raise unless every state comes out exactly as it goes in.

    (But for the shape of `lines`, delay lines that the program holds.)

    A program copies states from output to input without converting them. A
    scale that differs by 0.04 % is a feedback gain and ruins a slow state.
    """
    interface = read_interface(model)
    outputs = {t.name: t for t in interface.outputs}
    tensors = model.subgraphs[0].tensors
    for before in interface.inputs:
        after = outputs.get(before.name)
        if after is None:
            continue
        fields = ["dtype", "scale", "zero_point"]
        if before.name not in lines:
            fields.insert(0, "shape")
        for field in fields:
            if getattr(before, field) != getattr(after, field):
                raise RuntimeError(
                    f"Expected the state {before.name!r} to have the same "
                    f"{field} going in and coming out. Received: "
                    f"{getattr(before, field)} and {getattr(after, field)}"
                )
        wanted = fb.quantization_of(tensors[before.index])
        for index in _sharing(model, {before.index}):
            if fb.quantization_of(tensors[index]) != wanted:
                raise RuntimeError(
                    "Expected all that moves the data of the state "
                    f"{before.name!r} to share its scale, so that its range "
                    f"covers the state. Received: {wanted} and "
                    f"{fb.quantization_of(tensors[index])}"
                )

"""Mixed precision: int8 everywhere but in the recurrences and norms."""

import contextlib
import io
import re

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import regions, tidy
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


def quantize_mixed(
    data: bytes,
    ranges: Ranges,
    roles: dict[str, str],
    sample: dict[str, np.ndarray],
) -> bytes:
    """Quantise a float32 step model to mixed precision.

    Weights and activations, delay lines among them, become int8. Recurrent
    and accumulator states, the operators that update them and normalisations
    stay in float32.

    Args:
        data: Float32 model with canonical order and unique names.
        ranges: Range of every tensor, from `stream_ranges`.
        roles: Role of each state by name, from `state_specs`.
        sample: One set of inputs by name.

    Returns:
        The quantised file.

    Raises:
        RuntimeError: If a state would come out in another scale than it goes
            in.
    """
    model = fb.load(data)
    interface = read_interface(model)
    ranges = _tied(model, interface, ranges)
    kept = regions.output_tensors(model, regions.float_operators(model, roles))
    model = fb.load(_apply_quantizer(data, ranges, kept, sample))
    strip_boundary(model)
    drop_identities(model)
    tidy.drop_unread(model)
    tidy.canonical_order(
        model,
        [t.name for t in interface.inputs],
        [t.name for t in interface.outputs],
    )
    tidy.rename_tensors(model)
    tidy.compact(model)
    check_states(model)
    return fb.dump(model)


def _tied(model, interface: Interface, ranges: Ranges) -> Ranges:
    """Ranges with one value for all tensors that share data with a state."""
    tied = dict(ranges)
    outputs = {t.name: t.index for t in interface.outputs}
    tensors = model.subgraphs[0].tensors
    for tensor in interface.inputs:
        if tensor.name not in outputs:
            continue
        group = _sharing(model, {tensor.index, outputs[tensor.name]})
        names = [fb.text(tensors[i].name) for i in group]
        pairs = [tied[n] for n in names if n in tied]
        common = min(p[0] for p in pairs), max(p[1] for p in pairs)
        tied.update(dict.fromkeys(names, common))
    return tied


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


def _apply_quantizer(
    data: bytes,
    ranges: Ranges,
    kept: list[str],
    sample: dict[str, np.ndarray],
) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer

    # It shows progress bars and sizes.
    with contextlib.redirect_stdout(io.StringIO()):
        tool = quantizer.Quantizer(bytearray(data))
        every = qtyping.TFLOperationName.ALL_SUPPORTED
        tool.add_static_config(
            ".*", every, activation_num_bits=8, weight_num_bits=8
        )
        for name in kept:
            tool.update_quantization_recipe(
                # The names of an operator's outputs are searched in a list
                # joined by semicolons.
                f"(^|;){re.escape(name)}(;|$)",
                every,
                algorithm_key="no_quantize",
            )
        # All inputs are one operator there: they stay float here and the
        # conversions next to them are stripped afterwards.
        for border in ("INPUT", "OUTPUT"):
            tool.update_quantization_recipe(
                ".*",
                qtyping.TFLOperationName(border),
                algorithm_key="no_quantize",
            )
        result = tool.calibrate({fb.SIGNATURE: [sample]}, num_threads=1)
        for name, found in result.items():
            if name in ranges and "min" in found:
                low, high = ranges[name]
                found["min"] = np.full_like(np.asarray(found["min"]), low)
                found["max"] = np.full_like(np.asarray(found["max"]), high)
        return bytes(tool.quantize(result).quantized_model)


def strip_boundary(model) -> None:
    """Remove conversions at the inputs and outputs.

    The file then takes and gives what its operators read and write, int8
    where they are int8, and the program around it owns the conversion.
    """
    graph, signature = model.subgraphs[0], fb.signature(model)
    # Arrays of a file that was read are views of it.
    graph.inputs = np.array(graph.inputs, np.int32)
    graph.outputs = np.array(graph.outputs, np.int32)
    for entry in signature.inputs:
        readers = [
            op
            for op in graph.operators
            if entry.tensorIndex in fb.inputs_of(op)
        ]
        while len(readers) == 1 and _converts(model, readers[0]):
            inner = fb.outputs_of(readers[0])[0]
            if any(e.tensorIndex == inner for e in signature.outputs):
                break
            graph.operators.remove(readers[0])
            _replace(graph.inputs, entry.tensorIndex, inner)
            entry.tensorIndex = inner
            readers = [
                op for op in graph.operators if inner in fb.inputs_of(op)
            ]
    producers = {i: op for op in graph.operators for i in fb.outputs_of(op)}
    for entry in signature.outputs:
        op = producers.get(entry.tensorIndex)
        while op is not None and _converts(model, op):
            inner = fb.inputs_of(op)[0]
            if inner not in producers:
                break
            _replace(graph.outputs, entry.tensorIndex, inner)
            entry.tensorIndex = inner
            op = producers[inner]


def drop_identities(model) -> None:
    """Read past a QUANTIZE between two equal encodings.

    The quantiser puts one in front of every CONCATENATION, needed or not.
    """
    graph = model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    same: dict[int, int] = {}
    for op in graph.operators:
        op.inputs = np.array([same.get(int(i), i) for i in op.inputs], np.int32)
        if fb.operator_name(model, op) != "QUANTIZE":
            continue
        (before,), (after,) = fb.inputs_of(op), fb.outputs_of(op)
        pair = graph.tensors[before], graph.tensors[after]
        encodings = [(t.type, fb.quantization_of(t)) for t in pair]
        if encodings[0] == encodings[1] and after not in outputs:
            same[after] = before


def _converts(model, op) -> bool:
    return fb.operator_name(model, op) in ("QUANTIZE", "DEQUANTIZE")


def _replace(indices: np.ndarray, old: int, new: int) -> None:
    indices[indices == old] = new


def check_states(model) -> None:
    """Raise unless every state comes out exactly as it goes in.

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
        for field in ("shape", "dtype", "scale", "zero_point"):
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

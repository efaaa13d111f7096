"""From a float32 step model to a quantised one."""

import contextlib
import io
import re
from collections.abc import Iterable

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import regions, tidy
from keras_mgrade.export.interface import Interface, read_interface
from keras_mgrade.export.ranges import Ranges, Statistics

# A hard gate in eight bits has steps of 1/256 and is off by up to half of one.
# Below this mean it gets sixteen, and so does a state of eight bits warn.
SLOW_GATE = 0.02

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


def quantize(
    data: bytes,
    precision: str,
    statistics: Statistics,
    roles: dict[str, str],
    sample: dict[str, np.ndarray],
    state_dtype: str = "float32",
    lines: Iterable[str] = (),
) -> bytes:
    """Quantise a float32 step model.

    Weights become int8, and so do activations in `"mixed"` and `"int8"`,
    delay lines among them; in `"int16x8"` they become int16. What `regions`
    sets apart gets other bits or stays in float32.

    Args:
        data: Float32 model with canonical order and unique names.
        precision: `"mixed"`, `"int8"` or `"int16x8"`.
        statistics: Of every tensor, from `stream_statistics`.
        roles: Role of each state by name, from `state_specs`.
        sample: One set of inputs by name.
        state_dtype: What recurrent states are in mixed precision. Defaults
            to `"float32"`.
        lines: Names of the delay lines that the program holds.

    Returns:
        The quantised file.

    Raises:
        ValueError: If an operator has no form in the precision.
        RuntimeError: If a state would come out in another scale than it goes
            in.
    """
    model = fb.load(data)
    interface = read_interface(model)
    bits = 16 if precision == "int16x8" else 8
    ranges = _reachable(model, interface, statistics.ranges, roles)
    ranges = _tied(model, interface, ranges, bits)
    apart = regions.apart(model, roles, precision, state_dtype)
    if precision == "mixed":
        slow = _slow_products(model, interface, statistics, roles)
        apart = dict.fromkeys(slow, 16) | apart
    rules = {
        fb.text(model.subgraphs[0].tensors[index].name): bits
        for number, bits in sorted(apart.items())
        for index in fb.outputs_of(model.subgraphs[0].operators[number])
    }
    model = fb.load(_apply_quantizer(data, ranges, bits, rules, sample))
    read_integers(model)
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
    check_states(model, lines)
    if not apart:
        check_no_float(model, precision)
    return fb.dump(model)


def _reachable(
    model, interface: Interface, ranges: Ranges, roles: dict[str, str]
) -> Ranges:
    """Ranges of recurrent states widened to where they may converge."""
    wider = dict(ranges)
    names = [fb.text(t.name) for t in model.subgraphs[0].tensors]
    for _, after, _, candidate in _updates(model, interface, roles):
        pairs = [wider[names[i]] for i in (after, candidate)]
        wider[names[after]] = _union(pairs)
    return wider


def _updates(model, interface: Interface, roles: dict[str, str]):
    """`(state, its output, gate, candidate)` of each gated state."""
    graph = regions.Graph(model)
    outputs = {t.name: t.index for t in interface.outputs}
    for tensor in interface.inputs:
        if roles.get(tensor.name) == "recurrent":
            after = outputs[tensor.name]
            for pair in regions.updates(graph, tensor.index, after):
                yield tensor.name, after, *pair


def slowest_gates(
    data: bytes, statistics: Statistics, roles: dict[str, str]
) -> dict[str, float]:
    """The smallest mean gate of each recurrent state that has gates.

    Args:
        data: Float32 model with canonical order and unique names.
        statistics: Of its tensors, over a real stream.
        roles: Role of each state by name.

    Returns:
        From the name of a state to the mean over time of the gate of its
        slowest unit, whose reciprocal is a time constant in steps.
    """
    model = fb.load(data)
    interface = read_interface(model)
    tensors = model.subgraphs[0].tensors
    return {
        state: float(statistics.means[fb.text(tensors[gate].name)].min())
        for state, _, gate, _ in _updates(model, interface, roles)
    }


def _slow_products(
    model, interface: Interface, statistics: Statistics, roles: dict[str, str]
) -> set[int]:
    """Products that are hard gates and too slow for eight bits."""
    graph, slow = regions.Graph(model), set()
    tensors = model.subgraphs[0].tensors
    for _, _, gate, _ in _updates(model, interface, roles):
        number = regions.product_of_gate(graph, gate)
        mean = statistics.means[fb.text(tensors[gate].name)].min()
        if number is not None and mean < SLOW_GATE:
            slow.add(number)
    return slow


def _union(pairs):
    return min(low for low, _ in pairs), max(high for _, high in pairs)


# Operators whose results have one scale in all files, and the bits of its
# reciprocal in int8; in int16 there are fifteen, about zero.
_FIXED = {"TANH": 7, "LOGISTIC": 8, "SOFTMAX": 8}


def _fixed(model, bits: int) -> dict[int, tuple[float, float]]:
    """Ranges of the tensors whose scale is not for us to choose."""
    ranges = {}
    for op in model.subgraphs[0].operators:
        name = fb.operator_name(model, op)
        if name not in _FIXED:
            continue
        top = 1 - 2.0 ** -(15 if bits == 16 else _FIXED[name])
        low = -top if bits == 16 else -1.0 if name == "TANH" else 0.0
        ranges[fb.outputs_of(op)[0]] = low, top
    return ranges


def _tied(model, interface: Interface, ranges: Ranges, bits: int) -> Ranges:
    """Ranges with one value for all tensors that share data with a state."""
    fixed = _fixed(model, bits)
    tied = dict(ranges)
    outputs = {t.name: t.index for t in interface.outputs}
    tensors = model.subgraphs[0].tensors
    for tensor in interface.inputs:
        if tensor.name not in outputs:
            continue
        group = _sharing(model, {tensor.index, outputs[tensor.name]})
        names = [fb.text(tensors[i].name) for i in group]
        pairs = [tied[n] for n in names if n in tied]
        chosen = [fixed[i] for i in group if i in fixed]
        common = chosen[0] if chosen else _union(pairs)
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
    bits: int,
    rules: dict[str, int | None],
    sample: dict[str, np.ndarray],
) -> bytes:
    from ai_edge_quantizer import qtyping, quantizer

    # It shows progress bars and sizes.
    with contextlib.redirect_stdout(io.StringIO()):
        tool = quantizer.Quantizer(bytearray(data))
        every = qtyping.TFLOperationName.ALL_SUPPORTED

        def rule(names: str, bits: int) -> None:
            tool.add_static_config(names, every, bits, 8)
            if bits == 16:
                # The kernels for Cortex-M take one scale for all rows.
                tool.add_static_config(
                    names,
                    qtyping.TFLOperationName.FULLY_CONNECTED,
                    bits,
                    8,
                    qtyping.QuantGranularity.TENSORWISE,
                )

        rule(".*", bits)
        for name, own in rules.items():
            # The names of an operator's outputs are searched in a list joined
            # by semicolons.
            names = f"(^|;){re.escape(name)}(;|$)"
            if own is not None:
                rule(names, own)
                continue
            tool.update_quantization_recipe(
                names, every, algorithm_key="no_quantize"
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


def quantize_weights(data: bytes) -> bytes:
    """Weights of products in int8, all else in float32.

    The runtimes of phones quantise what goes into such a product as it comes;
    TFLite Micro has no such kernels.
    """
    from ai_edge_quantizer import qtyping, quantizer

    with contextlib.redirect_stdout(io.StringIO()):
        tool = quantizer.Quantizer(bytearray(data))
        for name in ("FULLY_CONNECTED", "CONV_2D", "DEPTHWISE_CONV_2D"):
            tool.add_dynamic_config(".*", qtyping.TFLOperationName(name), 8)
        return bytes(tool.quantize().quantized_model)


def read_integers(model) -> None:
    """Let integer operators read the integers behind a DEQUANTIZE.

    The quantiser gives an operator the float copy that it made for an output
    of the graph, where both read one tensor.
    """
    graph = model.subgraphs[0]
    kinds = [fb.dtype_name(tensor) for tensor in graph.tensors]
    before = {
        fb.outputs_of(op)[0]: fb.inputs_of(op)[0]
        for op in graph.operators
        if fb.operator_name(model, op) == "DEQUANTIZE"
    }
    for op in graph.operators:
        if _converts(model, op) or kinds[fb.outputs_of(op)[0]] == "float32":
            continue
        op.inputs = np.array(
            [before.get(int(i), i) for i in op.inputs], np.int32
        )


def strip_boundary(model) -> None:
    """Remove conversions at the inputs and outputs.

    The file then takes and gives what its operators read and write, int8
    where they are int8, and the program around it owns the conversion. A
    state keeps one in front if it would go in as another type than it comes
    out (only products read it, and float operators write it).
    """
    graph, signature = model.subgraphs[0], fb.signature(model)
    producers = {i: op for op in graph.operators for i in fb.outputs_of(op)}
    for entry in signature.outputs:
        op = producers.get(entry.tensorIndex)
        while op is not None and _converts(model, op):
            inner = fb.inputs_of(op)[0]
            if inner not in producers:
                break
            entry.tensorIndex = inner
            op = producers[inner]
    after = {fb.text(e.name): e.tensorIndex for e in signature.outputs}
    for entry in signature.inputs:
        chain = _conversions(model, entry.tensorIndex)
        ends = [fb.outputs_of(op)[0] for op in chain]
        kinds = [graph.tensors[i].type for i in ends]
        wanted = after.get(fb.text(entry.name))
        if wanted is not None:
            kind = graph.tensors[wanted].type
            if kind == graph.tensors[entry.tensorIndex].type:
                continue
            if kind not in kinds:
                # The conversion stays, from what comes out of the state.
                before = graph.tensors[entry.tensorIndex]
                before.type = kind
                before.quantization = graph.tensors[wanted].quantization
                continue
            last = kinds.index(kind)
            chain, ends = chain[: last + 1], ends[: last + 1]
        if chain:
            for op in chain:
                graph.operators.remove(op)
            entry.tensorIndex = ends[-1]
    # The quantiser does not always keep the two in step.
    for kind in ("inputs", "outputs"):
        indices = [e.tensorIndex for e in getattr(signature, kind)]
        setattr(graph, kind, np.array(indices, np.int32))


def _conversions(model, index: int) -> list:
    """Conversions one after the other that alone read a tensor."""
    graph, signature = model.subgraphs[0], fb.signature(model)
    outputs = {entry.tensorIndex for entry in signature.outputs}
    chain = []
    while True:
        readers = [op for op in graph.operators if index in fb.inputs_of(op)]
        if len(readers) != 1 or not _converts(model, readers[0]):
            return chain
        (op,) = readers
        index = fb.outputs_of(op)[0]
        if index in outputs:
            return chain
        chain.append(op)


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


def check_no_float(model, precision: str) -> None:
    """Raise if a file that should have integers only computes in float."""
    tensors = model.subgraphs[0].tensors
    for op in model.subgraphs[0].operators:
        names = [fb.dtype_name(tensors[i]) for i in fb.outputs_of(op)]
        if "float32" in names and not _converts(model, op):
            name = fb.operator_name(model, op)
            raise ValueError(
                f"Expected operators that compute in {precision}, but the "
                f"quantizer left {name} in float32. Use precision='mixed' or "
                f"another operator. Received: precision={precision!r}, "
                f"operator={name}"
            )


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

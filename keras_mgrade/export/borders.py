"""Conversions between float and integers: only where they are needed."""

import numpy as np

from keras_mgrade.export import flatbuffer as fb


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
        if converts(model, op) or kinds[fb.outputs_of(op)[0]] == "float32":
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
        while op is not None and converts(model, op):
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
        if len(readers) != 1 or not converts(model, readers[0]):
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


def converts(model, op) -> bool:
    return fb.operator_name(model, op) in ("QUANTIZE", "DEQUANTIZE")

"""Passes over a converted model that change its form, never its numbers."""

import collections
import re
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb

NEXT = "__next"


def canonical_order(model, inputs: list[str], outputs: list[str]) -> None:
    """Put graph inputs and outputs into the declared order.

    The converter scrambles both, and TFLite Micro addresses tensors by their
    position only. The signature keeps the names, so the order is taken from
    there.

    Args:
        model: Model object, changed in place.
        inputs: Signature names of the inputs in the wanted order.
        outputs: The same for the outputs.
    """
    graph, signature = model.subgraphs[0], fb.signature(model)
    for kind, names in (("inputs", inputs), ("outputs", outputs)):
        entries = {fb.text(e.name): e for e in getattr(signature, kind)}
        if set(entries) != set(names):
            raise RuntimeError(
                f"The converter changed the signature's {kind}: expected "
                f"{sorted(names)}. Received: {sorted(entries)}"
            )
        ordered = [entries[name] for name in names]
        setattr(signature, kind, ordered)
        indices = np.array([e.tensorIndex for e in ordered], np.int32)
        setattr(graph, kind, indices)


def rename_tensors(model) -> None:
    """Give every tensor a short and unique name.

    Inputs and outputs are called as in the signature (a state's output gets
    `__next` appended, since two tensors may not share a name), all others
    after the operator that writes or reads them.
    """
    graph, signature = model.subgraphs[0], fb.signature(model)
    names: dict[int, str] = {}
    for entry in signature.inputs:
        names[entry.tensorIndex] = fb.text(entry.name)
    inputs = set(names.values())
    for entry in signature.outputs:
        name = fb.text(entry.name)
        name += NEXT if name in inputs else ""
        names.setdefault(entry.tensorIndex, name)
    for position, op in enumerate(graph.operators):
        kind = fb.operator_name(model, op).lower()
        stem = f"{position}_{re.sub('[^a-z0-9_]', '_', kind)}"
        for slot, index in enumerate(fb.outputs_of(op)):
            names.setdefault(index, f"{stem}_{slot}" if slot else stem)
        for slot, index in enumerate(fb.inputs_of(op)):
            names.setdefault(index, f"{stem}_operand_{slot}")
    for index, tensor in enumerate(graph.tensors):
        tensor.name = names.get(index, f"unused_{index}").encode()


def share_duplicates(model) -> None:
    """Compute a matrix product once where the converter wrote it twice.

    A product that is read both with and without ReLU (as the activation
    `relu(u) + sigmoid(min(u, 0))` does) is duplicated by the converter, with
    the ReLU fused into one of the copies. One product and one RELU cost half.
    """
    s = fb.schema()
    graph = model.subgraphs[0]
    relu, none = s.ActivationFunctionType.RELU, s.ActivationFunctionType.NONE
    groups = collections.defaultdict(list)
    for op in graph.operators:
        if fb.operator_name(model, op) == "FULLY_CONNECTED":
            groups[tuple(int(i) for i in op.inputs)].append(op)
    for group in groups.values():
        plain = [o for o in group if _activation(o) == none]
        fused = [o for o in group if _activation(o) == relu]
        if not plain:
            continue
        for op in fused:
            op.opcodeIndex = operator_code(model, "RELU")
            op.inputs = np.array(fb.outputs_of(plain[0]), np.int32)
            op.builtinOptionsType = s.BuiltinOptions.NONE
            op.builtinOptions = None
        # Operators are listed in the order they are run: the product must
        # come before its first reader.
        place = min(graph.operators.index(op) for op in group)
        graph.operators.remove(plain[0])
        graph.operators.insert(place, plain[0])


def _activation(op) -> int:
    return op.builtinOptions.fusedActivationFunction


def operator_code(model, name: str) -> int:
    """Index of a built-in operator's code, added to the model if missing."""
    s = fb.schema()
    for index, code in enumerate(model.operatorCodes):
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if number == getattr(s.BuiltinOperator, name):
            return index
    code = s.OperatorCodeT()
    code.builtinCode = getattr(s.BuiltinOperator, name)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def drop_reshapes(model) -> None:
    """Let elementwise operators read past a RESHAPE that changes nothing.

    The converter drops the batch dimension in front of some additions, only
    for broadcasting to bring it back: a copy of the tensor for no purpose.
    """
    graph = model.subgraphs[0]
    producers = {i: op for op in graph.operators for i in fb.outputs_of(op)}
    for op in graph.operators:
        if fb.operator_name(model, op) not in ("ADD", "SUB", "MUL"):
            continue
        target = fb.shape_of(graph.tensors[fb.outputs_of(op)[0]])
        # Arrays of a file that was read are views of it.
        op.inputs = np.array(op.inputs, np.int32)
        for slot, index in enumerate(op.inputs):
            producer = producers.get(int(index))
            if producer is None:
                continue
            if fb.operator_name(model, producer) != "RESHAPE":
                continue
            source = int(producer.inputs[0])
            if fb.shape_of(graph.tensors[source]) == target:
                op.inputs[slot] = source
    drop_unread(model)


def drop_unread(model) -> None:
    """Remove operators whose outputs nobody reads."""
    graph = model.subgraphs[0]
    # Backwards, so that a chain of them goes in one pass.
    read = {int(i) for i in graph.outputs}
    for op in reversed(list(graph.operators)):
        if read.isdisjoint(fb.outputs_of(op)):
            graph.operators.remove(op)
        else:
            read.update(fb.inputs_of(op))


def slim(data: bytes, notes: dict[str, Any] | None = None) -> bytes:
    """The same file with nothing in it that only people read.

    A tenth of a small model: names of inner tensors, empty quantisation
    tables, one empty buffer for each tensor. Flash is scarce on a device.

    Args:
        data: The file.
        notes: What a runner of this package has to know. Defaults to `None`.

    Returns:
        The file.
    """
    model = fb.load(data)
    for graph in model.subgraphs:
        borders = {int(i) for i in [*graph.inputs, *graph.outputs]}
        for index, tensor in enumerate(graph.tensors):
            if index not in borders:
                tensor.name = None
            if fb.quantization_of(tensor) is None:
                tensor.quantization = None
            if not fb.is_constant(model, index, graph):
                tensor.buffer = 0
    compact(model)
    if notes:
        fb.set_notes(model, notes)
    return fb.dump(model)


def compact(model) -> None:
    """Drop unreferenced tensors, buffers, operator codes and metadata.

    Tensors that no operator touches would still take arena memory in TFLite
    Micro.
    """
    signature = fb.signature(model)
    for graph in model.subgraphs:
        place = _compact_tensors(graph)
        if graph is model.subgraphs[0]:
            for entry in [*signature.inputs, *signature.outputs]:
                entry.tensorIndex = place[entry.tensorIndex]
    model.metadata = None
    model.signatureDefs = [signature]
    tensors = [t for graph in model.subgraphs for t in graph.tensors]
    operators = [op for graph in model.subgraphs for op in graph.operators]
    # Buffer 0 is the empty one by convention.
    kept = sorted({0, *(t.buffer for t in tensors)})
    place = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[i] for i in kept]
    for tensor in tensors:
        tensor.buffer = place[tensor.buffer]
    kept = sorted({op.opcodeIndex for op in operators})
    place = {old: new for new, old in enumerate(kept)}
    model.operatorCodes = [model.operatorCodes[i] for i in kept]
    for op in operators:
        op.opcodeIndex = place[op.opcodeIndex]


def _compact_tensors(graph) -> dict[int, int]:
    """Drop a graph's unused tensors; the new places of the others."""
    used = {int(i) for i in [*graph.inputs, *graph.outputs]}
    for op in graph.operators:
        used.update(fb.inputs_of(op), fb.outputs_of(op))
    kept = [i for i in range(len(graph.tensors)) if i in used]
    place = {old: new for new, old in enumerate(kept)} | {-1: -1}
    graph.tensors = [graph.tensors[i] for i in kept]
    for holder in [graph, *graph.operators]:
        for field in ("inputs", "outputs"):
            indices = [place[int(i)] for i in getattr(holder, field)]
            setattr(holder, field, np.array(indices, np.int32))
    return place

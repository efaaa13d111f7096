"""States inside of the file: resource variables in place of inputs."""

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import tidy
from keras_mgrade.export.interface import read_interface


def internalise(data: bytes) -> bytes:
    """Turn the states of a file into variables that it keeps itself.

    Each state is read from its variable at the beginning of a step and
    assigned at the end; a second graph, which the first call runs, fills the
    variables with zeros. The numbers are those of the file it was made from.

    Args:
        data: A step model whose states come out as they go in.

    Returns:
        The file, whose inputs are the samples and whose outputs the answers.
    """
    s = fb.schema()
    model = fb.load(data)
    graph, signature = model.subgraphs[0], fb.signature(model)
    interface = read_interface(model)
    outputs = {t.name: t.index for t in interface.outputs}
    pairs = [
        (t.name, t.index, outputs[t.name])
        for t in interface.inputs
        if t.name in outputs
    ]
    if not pairs:
        return data  # Nothing to keep.
    start = s.SubGraphT()
    start.name, start.tensors, start.operators = b"start", [], []
    start.inputs = start.outputs = np.array([], np.int32)
    reads, assigns = [], []
    for name, before, after in pairs:
        variable = _handle(model, graph, name, reads)
        reads.append(
            _operator(
                model,
                "READ_VARIABLE",
                [variable],
                [before],
                s.ReadVariableOptionsT(),
            )
        )
        assigns.append(_assign(model, variable, after))
        variable = _handle(model, start, name, start.operators)
        zeros = _zeros(model, start, graph.tensors[before])
        start.operators.append(_assign(model, variable, zeros))
    once = s.CallOnceOptionsT()
    once.initSubgraphIndex = len(model.subgraphs)
    model.subgraphs.append(start)
    first = _operator(model, "CALL_ONCE", [], [], once)
    graph.operators = [first, *reads, *graph.operators, *assigns]
    names = {name for name, _, _ in pairs}
    for kind in ("inputs", "outputs"):
        kept = [
            e for e in getattr(signature, kind) if fb.text(e.name) not in names
        ]
        setattr(signature, kind, kept)
        indices = np.array([e.tensorIndex for e in kept], np.int32)
        setattr(graph, kind, indices)
    return fb.dump(model)


def _operator(model, name, inputs, outputs, options=None):
    s = fb.schema()
    made = s.OperatorT()
    made.opcodeIndex = tidy.operator_code(model, name)
    made.inputs = np.array(inputs, np.int32)
    made.outputs = np.array(outputs, np.int32)
    if options is not None:
        kind = type(options).__name__.removesuffix("T")
        made.builtinOptionsType = getattr(s.BuiltinOptions, kind)
        made.builtinOptions = options
    return made


def _handle(model, graph, name, operators):
    """A tensor that stands for a variable in a graph."""
    s = fb.schema()
    tensor, options = s.TensorT(), s.VarHandleOptionsT()
    tensor.type, tensor.shape = s.TensorType.RESOURCE, np.array([], np.int32)
    tensor.buffer, tensor.hasRank = 0, True
    options.container, options.sharedName = "", name
    graph.tensors.append(tensor)
    index = len(graph.tensors) - 1
    operators.append(_operator(model, "VAR_HANDLE", [], [index], options))
    return index


def _assign(model, variable, value):
    options = fb.schema().AssignVariableOptionsT()
    return _operator(model, "ASSIGN_VARIABLE", [variable, value], [], options)


def _zeros(model, graph, like):
    """A constant of zeros in the type and scale of a tensor."""
    s = fb.schema()
    quantization = fb.quantization_of(like)
    zero = quantization[1] if quantization else 0
    value = np.full(fb.shape_of(like), zero, fb.dtype_name(like))
    buffer, tensor = s.BufferT(), s.TensorT()
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.type, tensor.shape = like.type, like.shape
    tensor.quantization, tensor.hasRank = like.quantization, True
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1

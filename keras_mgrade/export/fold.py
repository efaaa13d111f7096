"""Passes that fold constants into matrix products of a converted model.

They change which operators a file has, and its numbers by float rounding
only. The converter does most of such folding itself; these are the cases it
leaves, in front of a product and behind one.
"""

import copy
from collections.abc import Callable

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import tidy

PRODUCT = "FULLY_CONNECTED"


def fold_affine(model) -> None:
    """Fold scales and shifts in front of matrix products into them.

    A batch normalisation whose result only matrix products read becomes part
    of their kernels and biases: `W (s * x + t) + b = (W s) x + (b + W t)`.
    """
    while _fold_one(model):
        pass


def _fold_one(model) -> bool:
    graph = model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    for op in graph.operators:
        affine = _affine(model, op)
        target = fb.outputs_of(op)[0]
        if affine is None or target in outputs:
            continue
        readers = [o for o in graph.operators if target in fb.inputs_of(o)]
        foldable = [_reads_first(model, o, target) for o in readers]
        if not readers or not all(foldable):
            continue
        source, scale, shift = affine
        for reader in readers:
            kernel, bias = weights(model, reader)
            bias = bias + kernel @ shift
            set_weights(model, reader, source, kernel * scale, bias)
        graph.operators.remove(op)
        return True
    return False


def _reads_first(model, op, index: int) -> bool:
    """Whether an operator is a product with constants of that tensor only."""
    return (
        fb.operator_name(model, op) == PRODUCT
        and fb.inputs_of(op)[0] == index
        and index not in fb.inputs_of(op)[1:]
        and all(fb.is_constant(model, i) for i in fb.inputs_of(op)[1:])
    )


def fold_bias(model) -> None:
    """Add constants behind matrix products to their biases.

    With what is fused into the sum: of a gate `hard_sigmoid(W x + b)` the
    converter makes a product, `relu6(. + 3)` and a scale, of which a product
    with a fused RELU6 is left and the scale.
    """
    graph = model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    for op in list(graph.operators):
        if fb.operator_name(model, op) != PRODUCT:
            continue
        target = fb.outputs_of(op)[0]
        readers = [o for o in graph.operators if target in fb.inputs_of(o)]
        if target in outputs or len(readers) != 1:
            continue
        constants = fb.inputs_of(op)[1:]
        if not all(fb.is_constant(model, i) for i in constants):
            continue
        (after,) = readers
        if op.builtinOptions.fusedActivationFunction:
            continue
        shift = _shift(model, after)
        if shift is None:
            continue
        kernel, bias = weights(model, op)
        set_weights(model, op, fb.inputs_of(op)[0], kernel, bias + shift)
        options = copy.copy(op.builtinOptions)
        options.fusedActivationFunction = (
            after.builtinOptions.fusedActivationFunction
        )
        op.builtinOptions = options
        op.outputs = after.outputs
        graph.operators.remove(after)


def _shift(model, op) -> np.ndarray | None:
    """What an operator adds to each channel, if that is all it does."""
    if fb.operator_name(model, op) not in ("ADD", "SUB"):
        return None
    affine = _affine(model, op, fused=True)
    if affine is None or np.any(affine[1] != 1):
        return None
    return affine[2]


def _affine(
    model, op, fused=False
) -> tuple[int, np.ndarray, np.ndarray] | None:
    """(input, scale, shift) of an operator `scale * input + shift`.

    One with an activation fused into it only where that is asked for.
    """
    name = fb.operator_name(model, op)
    if name not in ("MUL", "ADD", "SUB", "DIV"):
        return None
    if op.builtinOptions.fusedActivationFunction and not fused:
        return None
    tensors = model.subgraphs[0].tensors
    left, right = fb.inputs_of(op)
    constants = [fb.is_constant(model, i) for i in (left, right)]
    if sum(constants) != 1 or (constants[0] and name == "DIV"):
        return None
    source, fixed = (right, left) if constants[0] else (left, right)
    shape = fb.shape_of(tensors[source])
    value = fb.constant(model, fixed)
    if fb.shape_of(tensors[fb.outputs_of(op)[0]]) != shape or not shape:
        return None
    if np.prod(shape) != shape[-1]:
        return None  # More than one row of channels.
    if value.size not in (1, shape[-1]) or value.dtype != np.float32:
        return None
    value = np.broadcast_to(value.reshape(-1), shape[-1:])
    one, zero = np.ones_like(value), np.zeros_like(value)
    forms: dict[str, Callable] = {
        "MUL": lambda: (value, zero),
        "DIV": lambda: (1 / value, zero),
        "ADD": lambda: (one, value),
        "SUB": lambda: (-one, value) if constants[0] else (one, -value),
    }
    return (source, *forms[name]())


def split_products(model) -> None:
    """Write one product for each slice of a product's result.

    The projection of a recurrence makes gate and candidate at once and slices
    them apart. Two products of half the size cost the same, need no slicing,
    and each has a scale of its own in int8.
    """
    graph = model.subgraphs[0]
    outputs = {int(i) for i in graph.outputs}
    for op in list(graph.operators):
        if fb.operator_name(model, op) != PRODUCT:
            continue
        source, target = fb.inputs_of(op)[0], fb.outputs_of(op)[0]
        readers = [o for o in graph.operators if target in fb.inputs_of(o)]
        slices = [_column_slices(model, o, target) for o in readers]
        if target in outputs or not readers or None in slices:
            continue
        if op.builtinOptions.fusedActivationFunction:
            continue
        kernel, bias = weights(model, op)
        for reader, columns in zip(readers, slices, strict=True):
            place = graph.operators.index(reader)
            for index, (start, stop) in (columns or {}).items():
                product = _copy(op, index)
                set_weights(
                    model, product, source, kernel[start:stop], bias[start:stop]
                )
                graph.operators.insert(place, product)
            graph.operators.remove(reader)
        graph.operators.remove(op)


def _copy(op, output: int):
    product = fb.schema().OperatorT()
    product.opcodeIndex = op.opcodeIndex
    product.builtinOptionsType = op.builtinOptionsType
    product.builtinOptions = op.builtinOptions
    product.outputs = np.array([output], np.int32)
    return product


def _column_slices(model, op, target: int) -> dict[int, tuple] | None:
    """{output: (start, stop)} of an operator that slices the columns."""
    tensors = model.subgraphs[0].tensors
    shape = fb.shape_of(tensors[target])
    name, read = fb.operator_name(model, op), fb.inputs_of(op)
    if len(shape) != 2:
        return None
    if name == "SPLIT" and read[1] == target:
        axis = int(fb.constant(model, read[0]).reshape(-1)[0]) % 2
        widths = [fb.shape_of(tensors[i])[1] for i in fb.outputs_of(op)]
        stops = np.cumsum(widths)
        if axis == 1:
            return {
                index: (int(stop) - width, int(stop))
                for index, width, stop in zip(
                    fb.outputs_of(op), widths, stops, strict=True
                )
            }
    if name in ("SLICE", "STRIDED_SLICE") and read[0] == target:
        if not all(fb.is_constant(model, i) for i in read[1:]):
            return None
        output = fb.outputs_of(op)[0]
        kept = fb.shape_of(tensors[output])
        begin = fb.constant(model, read[1])
        steps = fb.constant(model, read[3]) if len(read) > 3 else [1, 1]
        masked = name == "STRIDED_SLICE" and op.builtinOptions.beginMask & 2
        start = 0 if masked else int(begin[1]) % shape[1]
        if len(kept) == 2 and kept[0] == shape[0] and list(steps) == [1, 1]:
            return {output: (start, start + kept[1])}
    return None


def weights(model, op) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a product, or of a convolution channel by channel.

    That is (outputs, inputs), or (1, height, width, outputs).
    """
    read = fb.inputs_of(op)
    kernel = fb.constant(model, read[1])
    if len(read) > 2:
        return kernel, fb.constant(model, read[2])
    axis = 0 if fb.operator_name(model, op) == PRODUCT else -1
    return kernel, np.zeros(kernel.shape[axis], np.float32)


def set_weights(model, op, source: int, kernel, bias) -> None:
    """Let an operator read `source` with this kernel and bias."""
    slots = [source, _add_constant(model, kernel)]
    # A product has no bias in the file if it is zero; a convolution must.
    optional = fb.operator_name(model, op) == PRODUCT
    kept = np.any(bias) or not optional
    slots.append(_add_constant(model, bias) if kept else -1)
    op.inputs = np.array(slots, np.int32)


def _add_constant(model, value: np.ndarray) -> int:
    s, graph = fb.schema(), model.subgraphs[0]
    buffer = s.BufferT()
    value = np.ascontiguousarray(value, np.float32)
    buffer.data = np.frombuffer(value.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = s.TensorT()
    tensor.name = f"constant_{len(graph.tensors)}".encode()
    tensor.type = s.TensorType.FLOAT32
    tensor.shape = np.array(value.shape, np.int32)
    tensor.buffer = len(model.buffers) - 1
    tensor.hasRank = True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def tidy_float(data: bytes, inputs: list[str], outputs: list[str]) -> bytes:
    """Bring a converted float32 model into its final form.

    Args:
        data: The converter's file.
        inputs: Names of the inputs in their declared order.
        outputs: Names of the outputs in their declared order.

    Returns:
        The file with canonical order, unique names and nothing superfluous.
    """
    model = fb.load(data)
    tidy.canonical_order(model, inputs, outputs)
    tidy.share_duplicates(model)
    tidy.drop_reshapes(model)
    fold_affine(model)
    split_products(model)
    fold_bias(model)
    tidy.compact(model)
    tidy.rename_tensors(model)
    return fb.dump(model)

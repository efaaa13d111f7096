"""Read, check and write `.tflite` files as plain Python objects.

Everything here works on the object form of the flatbuffer schema
(`schema_py_generated`, part of `ai_edge_litert`), so that a pass over a model
is ordinary list and attribute handling and needs no interpreter.
"""

import functools
import json
import struct
from typing import Any

import numpy as np

IDENTIFIER = b"TFL3"

SIGNATURE = "serving_default"

NOTES = "keras_mgrade"


@functools.cache
def schema():
    """The generated schema module, imported when first needed."""
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@functools.cache
def names(enum: str) -> dict[int, str]:
    members = vars(getattr(schema(), enum))
    return {v: k for k, v in members.items() if isinstance(v, int)}


def dtype_name(tensor) -> str:
    """The element type of a tensor in lower case, `"float32"` or `"int8"`."""
    return names("TensorType")[tensor.type].lower()


def operator_name(model, op) -> str:
    """The operator's name in the schema, for example `"FULLY_CONNECTED"`."""
    code = model.operatorCodes[op.opcodeIndex]
    # Old files keep the number in the 8-bit field, new ones in the 32-bit one.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    name = names("BuiltinOperator")[number]
    if name == "CUSTOM":
        return f"CUSTOM {text(code.customCode)}"
    return name


def operator_names(model) -> list[str]:
    """The operators of the main graph in the order they are run."""
    return [operator_name(model, op) for op in model.subgraphs[0].operators]


def text(value: bytes | str | None) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def inputs_of(op) -> list[int]:
    """Tensor indices an operator reads, without its empty (-1) slots."""
    return [int(i) for i in op.inputs if i >= 0]


def outputs_of(op) -> list[int]:
    return [int(i) for i in op.outputs]


def shape_of(tensor) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(n) for n in tensor.shape)


def is_constant(model, index: int, graph=None) -> bool:
    """Whether a tensor, of the main graph by default, holds its values."""
    tensor = (graph or model.subgraphs[0]).tensors[index]
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def constant(model, index: int) -> np.ndarray:
    """The values of a constant tensor."""
    tensor = model.subgraphs[0].tensors[index]
    data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
    values = np.frombuffer(data.tobytes(), np.dtype(dtype_name(tensor)))
    return values.reshape(shape_of(tensor))


def quantization_of(tensor) -> tuple[float, int] | None:
    """(scale, zero point) of a per-tensor quantised tensor, or `None`."""
    q = tensor.quantization
    if q is None or q.scale is None or len(q.scale) == 0:
        return None
    return float(q.scale[0]), int(q.zeroPoint[0])


def load(data: bytes, source: str = "data"):
    """Unpack a `.tflite` file, refusing whatever an interpreter could crash on.

    LiteRT and TFLite Micro follow offsets of a broken file into foreign
    memory, so the file is read here first, where that is an exception.

    Args:
        data: Content of the file.
        source: Where it came from, for the error message.

    Returns:
        The model as a `ModelT` object.

    Raises:
        ValueError: If the data is not a complete TFLite flatbuffer.
    """
    data = bytes(data)
    if len(data) < 16 or data[4:8] != IDENTIFIER:
        raise ValueError(
            "Expected a TFLite flatbuffer (bytes 4 to 8 are 'TFL3'). Check "
            "that the file is a .tflite file and was copied completely. "
            f"Received: {source}, {len(data)} bytes, starting with "
            f"{data[:8]!r}"
        )
    s = schema()
    try:
        model = s.ModelT.InitFromObj(s.Model.GetRootAs(data, 0))
        _take_in(model, data)
        _check_references(model)
    except (
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise ValueError(
            "Expected a complete TFLite flatbuffer, but its content points "
            f"outside of the file ({error}). It was cut short or changed: "
            f"export it again. Received: {source}, {len(data)} bytes"
        ) from error
    return model


def _take_in(model, data: bytes) -> None:
    """Put values that lie behind the flatbuffer into it, as small files do.

    The quantiser writes those of larger models there (256 kB), where they are
    not seen with the rest.
    """
    for buffer in model.buffers:
        # 0 and 1 stand for none.
        if buffer.offset <= 1:
            continue
        end = buffer.offset + buffer.size
        if end > len(data):
            raise IndexError(f"values at {buffer.offset} to {end}")
        # Not a copy: many may claim the same bytes.
        buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0


def _check_references(model) -> None:
    """Raise unless all indices and constant sizes of the model fit."""
    if not model.subgraphs or not model.buffers:
        raise ValueError("no graph")
    for graph in model.subgraphs:
        count = len(graph.tensors)
        groups: list[Any] = [graph.inputs, graph.outputs]
        for op in graph.operators or []:
            _require(0 <= op.opcodeIndex < len(model.operatorCodes), "opcode")
            groups += [op.inputs, op.outputs]
        for group in groups:
            for index in [] if group is None else group:
                _require(-1 <= index < count, f"tensor {index} of {count}")
        for tensor in graph.tensors:
            _require(0 <= tensor.buffer < len(model.buffers), "buffer")
            data = model.buffers[tensor.buffer].data
            kind = dtype_name(tensor)
            if data is not None and len(data) and kind in _FIXED_SIZE:
                size = int(np.prod(shape_of(tensor))) * np.dtype(kind).itemsize
                _require(len(data) == size, f"{len(data)} of {size} bytes")


_FIXED_SIZE = ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def dump(model) -> bytes:
    """Pack a model object into the bytes of a `.tflite` file.

    Equal vectors are written once: the zero points of every channel of every
    product, of eight bytes each, would be a fifth of a small model.
    """
    builder = _sharing_builder()(1 << 16)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


@functools.cache
def _sharing_builder():
    import flatbuffers

    class SharingBuilder(flatbuffers.Builder):
        def __init__(self, size):
            super().__init__(size)
            self._vectors = {}

        def CreateNumpyVector(self, x):
            # What is read is aligned to 16 bytes as data, and only there.
            key = x.dtype.str, x.tobytes()
            if x.dtype == np.uint8:
                return super().CreateNumpyVector(x)
            if key not in self._vectors:
                self._vectors[key] = super().CreateNumpyVector(x)
            return self._vectors[key]

    return SharingBuilder


def notes(model) -> dict[str, Any]:
    """What this package noted in a file, empty if nothing.

    Raises:
        ValueError: If it cannot be read.
    """
    for entry in model.metadata or []:
        if text(entry.name) == NOTES:
            data = np.asarray(model.buffers[entry.buffer].data, np.uint8)
            found = json.loads(data.tobytes())
            _require(isinstance(found, dict), "notes")
            return found
    return {}


def set_notes(model, values: dict[str, Any]) -> None:
    """Note something in a file, of which runtimes take no notice."""
    s = schema()
    buffer, entry = s.BufferT(), s.MetadataT()
    content = json.dumps(values, separators=(",", ":")).encode()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = NOTES.encode(), len(model.buffers) - 1
    model.metadata = [entry]


def signature(model, source: str = "data"):
    """The signature of the main graph: names of its inputs and outputs.

    Raises:
        ValueError: If the file carries none.
    """
    for candidate in model.signatureDefs or []:
        if candidate.subgraphIndex == 0:
            return candidate
    raise ValueError(
        "Expected a file with a signature, which names the inputs, outputs "
        "and states. Make it with `keras_mgrade.export.to_tflite`. "
        f"Received: {source}"
    )

"""The file of trained `QuantizedSteps`: the same operators, other numbers."""

from typing import Any

import numpy as np
from keras import ops

from keras_mgrade.compression.fake_quantize import SMALLEST
from keras_mgrade.compression.quantized_steps import QuantizedSteps, unpack
from keras_mgrade.export import flatbuffer as fb


def file_of(layer: QuantizedSteps) -> bytes:
    """The quantised file with the weights and ranges of a trained layer."""
    model = fb.load(unpack(layer.get_config()["quantised"]))
    tensors = model.subgraphs[0].tensors
    for index, tensor in enumerate(layer.program.tensors):
        if tensor.point is None:
            continue
        point = layer.points[tensor.point]
        low, high = (
            float(ops.convert_to_numpy(v))
            for v in (point.minimum, point.maximum)
        )
        # Where all that came was zero, the calibration's range stays.
        if high - low > SMALLEST:
            scale, zero = _encoding(low, high, tensor.kind)
            _encode(tensors[index], [scale], zero)
    for key, product in layer.products.items():
        uses = [
            (layer.program.operators[number], bias)
            for number, (kernel, bias) in layer.uses.items()
            if kernel == key
        ]
        _write_product(model, product, uses)
    for index, vector in layer.vectors.items():
        _write(model, int(index), ops.convert_to_numpy(vector), "float32")
    return fb.dump(model)


def _encoding(low: float, high: float, kind: str) -> tuple[float, int]:
    """Scale and zero point of a range, nudged so that zero is an integer."""
    if kind == "int16":
        return (high - low) / 65534, 0
    scale = (high - low) / 255
    zero = -128 + int(np.clip(np.floor(0.5 - low / scale), 0, 255))
    return scale, zero


def _encode(tensor: Any, scales: Any, zero: int = 0) -> None:
    q = tensor.quantization
    q.scale = np.asarray(scales, np.float32)
    q.zeroPoint = np.full(len(q.scale), zero, np.int64)


def _write_product(model: Any, product: Any, uses: Any) -> None:
    """A kernel and its biases.

    Args:
        model: The file.
        product: The trained layer.
        uses: `(operator, number of its bias or None)` of those that share it.
    """
    tensors = model.subgraphs[0].tensors
    kernel = ops.convert_to_numpy(product.kernel).astype(np.float64)
    uses = [
        (op, ops.convert_to_numpy(product.biases[bias]).astype(np.float64))
        if bias is not None
        else (op, None)
        for op, bias in uses
    ]
    if product.rounding is None:
        for op, bias in uses:
            _write(model, op.inputs[1], product.to_file(kernel), "float32")
            if bias is not None:
                _write(model, op.inputs[2], bias, "float32")
        return
    spec = product.rounding.quantizer
    high = ops.convert_to_numpy(product.rounding.maximum).astype(np.float64)
    most = 2 ** (spec.num_bits - 1) - 1
    scales = np.atleast_1d(np.maximum(high, SMALLEST) / most)
    for op, bias in uses:
        if bias is None:
            continue
        limit = np.iinfo(fb.dtype_name(tensors[op.inputs[2]])).max / 2
        # A channel of zeros has a range of nothing, and a bias all the same.
        least = np.abs(bias) / (_scale_in(tensors, op) * limit)
        scales = np.maximum(scales, least if len(scales) > 1 else least.max())
    whole = np.clip(np.floor(kernel / scales + 0.5), -most, most)
    for op, bias in uses:
        _write(model, op.inputs[1], product.to_file(whole), "int8")
        _encode(tensors[op.inputs[1]], scales)
        if bias is not None:
            place, steps = op.inputs[2], scales * _scale_in(tensors, op)
            kind = fb.dtype_name(tensors[place])
            _write(model, place, np.round(bias / steps), kind)
            _encode(tensors[place], steps)


def _scale_in(tensors: Any, op: Any) -> float:
    """Of what an operator multiplies with its kernel."""
    return float(tensors[op.inputs[0]].quantization.scale[0])


def _write(model: Any, index: int, values: np.ndarray, kind: str) -> None:
    """Give a constant tensor its values, in a buffer of its own."""
    tensor = model.subgraphs[0].tensors[index]
    data = np.ascontiguousarray(values.astype(kind))
    buffer = fb.schema().BufferT()
    buffer.data = np.frombuffer(data.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1

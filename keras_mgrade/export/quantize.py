"""From a float32 step model to a quantised one."""

import contextlib
import io
import re
from collections.abc import Iterable

import numpy as np

from keras_mgrade.export import borders, gates, regions, rounding, scales, tidy
from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.ranges import Ranges, Statistics


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
    ranges = scales.reachable(model, interface, statistics.ranges, roles)
    ranges = scales.tied(model, interface, ranges, bits)
    apart = regions.apart(model, roles, precision, state_dtype)
    if precision == "mixed":
        slow = gates.slow_products(model, interface, statistics, roles)
        apart = dict.fromkeys(slow, 16) | apart
    rules = {
        fb.text(model.subgraphs[0].tensors[index].name): bits
        for number, bits in sorted(apart.items())
        for index in fb.outputs_of(model.subgraphs[0].operators[number])
    }
    every = range(len(model.subgraphs[0].operators))
    data = rounding.round_weights(
        data,
        statistics,
        # Whatever has 16 bits: see `_apply_quantizer`.
        [n for n in every if apart.get(n, bits) == 16],
    )
    model = fb.load(_apply_quantizer(data, ranges, bits, rules, sample))
    borders.read_integers(model)
    borders.strip_boundary(model)
    borders.drop_identities(model)
    tidy.drop_unread(model)
    tidy.canonical_order(
        model,
        [t.name for t in interface.inputs],
        [t.name for t in interface.outputs],
    )
    tidy.rename_tensors(model)
    tidy.compact(model)
    scales.check_states(model, lines)
    if not apart:
        check_no_float(model, precision)
    return fb.dump(model)


def check_no_float(model, precision: str) -> None:
    """Raise if a file that should have integers only computes in float."""
    tensors = model.subgraphs[0].tensors
    for op in model.subgraphs[0].operators:
        names = [fb.dtype_name(tensors[i]) for i in fb.outputs_of(op)]
        if "float32" in names and not borders.converts(model, op):
            name = fb.operator_name(model, op)
            raise ValueError(
                f"Expected operators that compute in {precision}, but the "
                f"quantizer left {name} in float32. Use precision='mixed' or "
                f"another operator. Received: precision={precision!r}, "
                f"operator={name}"
            )


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

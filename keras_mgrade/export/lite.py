"""From the device form of a step model to the bytes of `.tflite` files."""

import dataclasses
import re
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import fold, operators, tidy
from keras_mgrade.export.gates import slowest_gates, unsettled
from keras_mgrade.export.interface import StateLayout
from keras_mgrade.export.internal import internalise
from keras_mgrade.export.options import Options
from keras_mgrade.export.quantize import quantize, quantize_weights
from keras_mgrade.export.ranges import Statistics, stream_statistics, wider

# How often a stream too short for its states is run from where they tend to.
SETTLING = 3


@dataclasses.dataclass(frozen=True)
class Converted:
    """What came of a conversion.

    Attributes:
        files: The files' contents by precision.
        gates: The mean of the slowest gate of each recurrent state that has
            gates, over the calibration; empty where all is float32.
    """

    files: dict[str, bytes]
    gates: dict[str, float]


def convert(
    model: Any,
    layouts: list[StateLayout],
    columns: list[np.ndarray],
    options: Options,
) -> Converted:
    """Convert a device form in several precisions.

    Args:
        model: Device form, inputs (x..., states...) and outputs likewise.
        layouts: Its states, from `device_form`.
        columns: Calibration, one array (steps, features) for each input.
        options: What was asked for.

    Returns:
        The files and what the calibration showed.

    Raises:
        ValueError: If the model needs operators that TFLite Micro lacks; the
            file of a window is for phones, and may have any built-in one.
    """
    inputs, outputs = _names(model, layouts)
    raw = _run_converter(model, inputs, outputs)
    if options.window is None:
        # Before tensors are renamed: the converter's names tell the place.
        operators.check_operators(fb.load(raw))
    data = fold.tidy_float(raw, inputs, outputs)
    if options.window is not None:
        return Converted(_of_window(data, options), {})
    roles = {state.name: state.role for state in layouts}
    lines = {s.name: s.delays for s in layouts if s.delays is not None}
    files, gates = {}, {}
    if options.precisions != ("float32",):
        statistics = _settled_statistics(data, columns, lines, roles)
        gates = slowest_gates(data, statistics, roles)
    for precision in options.precisions:
        made = data
        if precision != "float32":
            sample = {
                name: np.zeros(tensor.shape, tensor.dtype)
                for name, tensor in zip(inputs, model.inputs, strict=True)
            }
            made = quantize(
                data,
                precision,
                statistics,
                roles,
                sample,
                options.state_dtype,
                lines,
            )
        operators.check_operators(fb.load(made))
        if options.state_io == "internal":
            made = internalise(made)
        files[precision] = tidy.slim(made, {"lines": lines} if lines else {})
    return Converted(files, gates)


def _settled_statistics(data, columns, lines, roles) -> Statistics:
    """Over the stream, and over what slow states come to after it.

    A state that is slower than the calibration is not where it tends to, nor
    is what reads it: the stream runs once more from there on, and again, since
    a candidate may depend on the state (GRU).
    """
    found = latest = stream_statistics(data, columns, lines)
    for _ in range(SETTLING):
        starts = unsettled(data, latest, roles, len(columns[0]))
        if not starts:
            break
        latest = stream_statistics(data, columns, lines, starts)
        found = wider(found, latest)
    return found


def _of_window(data: bytes, options: Options) -> dict[str, bytes]:
    files = {}
    for precision in options.precisions:
        made = data if precision == "float32" else quantize_weights(data)
        files[precision] = tidy.slim(made, {"window": options.window})
    return files


def _names(
    model: Any, layouts: list[StateLayout]
) -> tuple[list[str], list[str]]:
    """Names of the inputs and outputs in the file, unique C identifiers."""
    states = [state.name for state in layouts]
    samples = model.inputs[: len(model.inputs) - len(states)]
    answers = len(model.outputs) - len(states)
    names, taken = [], set(states)
    for position, tensor in enumerate(samples):
        name = re.sub(r"\W", "_", tensor.name, flags=re.ASCII)
        # What Keras calls an input that the user did not name.
        if re.fullmatch(r"(keras_tensor|input_layer)(_\d+)?", name):
            name = "input" if len(samples) == 1 else f"input_{position}"
        names.append(_unused(name, taken))
    outputs = ["output"] if answers == 1 else []
    outputs = outputs or [f"output_{i}" for i in range(answers)]
    outputs = [_unused(name, taken) for name in outputs]
    return [*names, *states], [*outputs, *states]


def _unused(name: str, taken: set[str]) -> str:
    # The converter does not name what begins with an underscore.
    name = name if name[0].isalpha() else f"input_{name}"
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _run_converter(model: Any, inputs: list[str], outputs: list[str]) -> bytes:
    """TensorFlow's converter on a graph with frozen weights."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    signature = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(inputs, model.inputs, strict=True)
    ]
    step = tf.function(
        lambda *values: tf.nest.flatten(model(list(values))),
        input_signature=signature,
        autograph=False,
    )
    # Left to itself the converter keeps the weights of Keras layers as
    # uninitialised variables, without a word.
    frozen = convert_variables_to_constants_v2(step.get_concrete_function())
    frozen = _without_gradients(frozen)
    named = tf.function(
        lambda *values: dict(zip(outputs, frozen(*values), strict=True)),
        input_signature=signature,
        autograph=False,
    )
    # With an object to belong to, the function gets a signature in the file.
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [named.get_concrete_function()], tf.Module()
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except tf.errors.OpError as error:
        raise RuntimeError(f"The converter failed: {error}") from error
    except Exception as error:
        # Its own error class is private to it.
        missing = re.findall(r"tf\.(\w+)' op is neither", str(error))
        if not missing:
            raise
        operators.refuse(
            sorted(set(missing)),
            [operators.WAYS_OUT[m] for m in missing if m in operators.WAYS_OUT],
            "are built into TFLite",
        )
        raise


def _without_gradients(function: Any) -> Any:
    """A frozen function without the gradients of its parts.

    Some activations have a gradient of their own. It cannot be saved, and the
    converter then drops the signature, without a word.
    """
    import tensorflow as tf

    graph = function.graph.as_graph_def()
    nodes = [
        *graph.node,
        *(n for f in graph.library.function for n in f.node_def),
    ]
    for node in nodes:
        node.attr.pop("_gradient_op_type", None)
    return tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(graph, name=""), []
    ).prune(
        [tensor.name for tensor in function.inputs],
        [tensor.name for tensor in function.outputs],
    )

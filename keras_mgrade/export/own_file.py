"""Models that bring their file along: trained as what it computes.

`compression.quantization_aware` makes them. Nothing is left to convert: the
file gets the weights and ranges that were trained, and is proved.
"""

import os
import pathlib
from typing import Any

import numpy as np

from keras_mgrade.export import (
    container,
    describe,
    operators,
    prove,
    scales,
    tidy,
)
from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.internal import internalise
from keras_mgrade.export.options import Options
from keras_mgrade.export.result import TFLiteModel

# The layer as Keras's files name it.
REGISTERED = "keras_mgrade>QuantizedSteps"


def comes_with(model: Any) -> bool:
    """Whether a model, or that in a `.keras` file, brings its file along."""
    if isinstance(model, (str, os.PathLike)):
        config = container.read_config(pathlib.Path(model))
        return _mentions(config, REGISTERED)
    parts = getattr(model, "_flatten_layers", tuple)()
    return any(hasattr(part, "tflite_bytes") for part in parts)


def _mentions(value: Any, text: str) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return any(_mentions(item, text) for item in value)
    return value == text


def layer_of(model: Any) -> Any:
    """The layer that has the file, of a model or of its stream; or `None`.

    Raises:
        ValueError: If there are other layers beside it.
    """
    every = [
        getattr(layer, "layer", layer)
        for layer in getattr(model, "layers", None) or []
    ]
    # Those name answers, and compute nothing.
    silent = ("InputLayer", "Identity")
    layers = [layer for layer in every if type(layer).__name__ not in silent]
    found = [layer for layer in layers if hasattr(layer, "tflite_bytes")]
    if found and len(layers) > 1:
        raise ValueError(
            "Expected a model from `quantization_aware` to stand alone: what "
            "lies around it is not in its file. Quantise the whole model. "
            f"Received: layers={[layer.name for layer in layers]}"
        )
    return found[0] if found else None


def check(layer: Any, options: Options) -> None:
    """Raise unless the file that is asked for is the layer's."""
    asked = {
        "precision": list(options.precisions),
        "state_dtype": options.state_dtype,
        "delay_line": options.delay_line,
        "window": options.window,
    }
    made = {**layer.options, "window": None}
    made["precision"] = [made["precision"]]
    wrong = [name for name in asked if asked[name] != made[name]]
    if wrong:
        raise ValueError(
            "Expected the options that the model was made quantisation-aware "
            f"with, {layer.options}. Received: "
            + ", ".join(f"{name}={asked[name]!r}" for name in wrong)
        )


def write(
    layer: Any,
    stream: Any,
    columns: list[np.ndarray] | None,
    options: Options,
    path: pathlib.Path,
) -> TFLiteModel:
    """Write the layer's file and prove it beside the layer, step by step.

    Args:
        layer: From `layer_of`.
        stream: The step model of its model.
        columns: What it is proved on, (steps, features) for each input;
            `None` takes noise over the ranges of the inputs.
        options: What was asked for.
        path: Where the file goes.
    """
    check(layer, options)
    layouts = layer.state_layouts()
    lines = {s.name: s.delays for s in layouts if s.delays is not None}
    data = layer.tflite_bytes()
    model = fb.load(data)
    operators.check_operators(model)
    scales.check_states(model, lines)
    if options.state_io == "internal":
        data = internalise(data)
    path.write_bytes(tidy.slim(data, {"lines": lines} if lines else {}))
    if columns is None:
        columns = layer.noise(options.proof_steps)
    proved_on = prove.proof_columns(columns, options.proof_steps)
    reference = prove.keras_outputs(stream, len(columns))(proved_on)
    precision = options.precisions[0]
    proof = prove.prove(
        path, precision, proved_on, reference, options.refuse_deviation
    )
    return describe.describe(
        path, precision, layouts, proof, {}, options, proved_on
    )

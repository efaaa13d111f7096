"""`quantization_aware`: from a trained model to one that trains as its file."""

import dataclasses
import pathlib
import tempfile
from typing import Any

import keras
import numpy as np

from keras_mgrade import streaming, validation
from keras_mgrade.compression.quantized_steps import QuantizedSteps, pack
from keras_mgrade.compression.quantizers import Quantizer, read

WEIGHTS = Quantizer(
    "LastValueQuantizer", per_axis=True, symmetric=True, narrow_range=True
)
ACTIVATIONS = Quantizer("MovingAverageQuantizer")
# Of the two files that are made for their operators and ranges only.
PROOF_STEPS = 200


def quantization_aware(
    model: Any,
    calibration: Any,
    precision: str = "mixed",
    state_dtype: str = "float32",
    delay_line: str = "graph",
    weight_quantizer: Any = None,
    activation_quantizer: Any = None,
) -> keras.Model:
    """Makes a model that rounds in training as its file does on the device.

    The model is exported, and what comes back computes what the file does,
    operator by operator, in Keras: normalisations and delays folded into the
    weights beside them, every tensor that the file keeps in integers rounded
    to what these can stand for, ranges from the calibration. It trains on any
    backend, on whole sequences at once; compile it, fit it for a tenth of the
    epochs at a tenth of the learning rate, and export it without calibration:

    ```python
    small = keras_mgrade.compression.quantization_aware(model, x[:64])
    small.compile("adam", loss)
    small.fit(x, y, epochs=2)
    keras_mgrade.export.to_tflite(small, "small.tflite")
    ```

    How a state's rounding is modelled: over a sequence the recurrence runs
    without it, and each step's own rounding is applied behind it; errors that
    build up from step to step are not seen in training. One step at a time
    (`streaming_model`) every state is rounded as the device rounds it.

    Delays stay where they are, dropout and regularizers are left behind, and
    batch normalisation keeps its statistics. Weights that are zero stay so
    with `Pruning()` among the callbacks.

    Args:
        model: A trained model that `export.to_tflite` takes, whose states are
            those of MinGRU, MGrade, DelayConv1D, TemporalPooling and causal
            convolutions. It may not have an Embedding.
        calibration: As for `export.to_tflite`.
        precision: `"mixed"`, `"int8"` or `"int16x8"`. Defaults to `"mixed"`.
        state_dtype: As for `export.to_tflite`. Defaults to `"float32"`.
        delay_line: As for `export.to_tflite`. Defaults to `"graph"`.
        weight_quantizer: One of `tfmot.quantization.keras.quantizers`,
            symmetric and narrow, with 2 to 8 bits: how weights are rounded.
            Of fewer bits than 8 the file stores the same bytes, which
            compress better. Defaults to `None`: `LastValueQuantizer`, 8
            bits, one range a channel where the file has them.
        activation_quantizer: One of them, not symmetric, with 8 bits: how
            ranges of int8 tensors follow the training; those of int16 follow
            in the same way. Defaults to `None`: `MovingAverageQuantizer`.

    Returns:
        A functional model with the inputs and outputs of `model` and one
        layer, `QuantizedSteps`.

    Raises:
        ValueError: If the model cannot be exported, or has a state that
            depends on its past other than linearly (GRU, LSTM), or a
            quantizer rounds otherwise than the device.
    """
    from keras_mgrade.export import to_tflite

    validation.one_of("precision", precision, ("mixed", "int8", "int16x8"))
    weights, activations = _quantizers(weight_quantizer, activation_quantizer)
    _, axes = streaming.stream_and_axes(model)
    if not all(axes.inputs):
        shapes = {x.name: tuple(x.shape) for x in model.inputs}
        raise ValueError(
            "`model` must read sequences only, for it to train on all steps "
            "at once: give an input without time to it as one that says the "
            f"same at every step. Received: model.inputs={shapes}"
        )
    options = {
        "precision": precision,
        "state_dtype": state_dtype,
        "delay_line": delay_line,
    }
    with tempfile.TemporaryDirectory(prefix="keras_mgrade_") as folder:
        path = pathlib.Path(folder)

        def export(name, precision, **others):
            return to_tflite(
                model,
                path / name,
                precision,
                calibration,
                delay_line=delay_line,
                proof_steps=PROOF_STEPS,
                **others,
            )

        if state_dtype == "float32":
            # From one start of the converter.
            files = export("{precision}.tflite", ["float32", precision])
        else:
            files = {
                "float32": export("float32.tflite", "float32"),
                precision: export(
                    "other.tflite", precision, state_dtype=state_dtype
                ),
            }
        made = files[precision]
        layer = QuantizedSteps(
            pack(made.path.read_bytes()),
            pack(files["float32"].path.read_bytes()),
            [dataclasses.asdict(state) for state in made.states],
            options,
            axes.answers,
            weights,
            activations,
            name="quantized",
        )
    inputs = [
        keras.Input(t.shape[1:], dtype=t.dtype, name=t.name)
        for t in model.inputs
    ]
    # What it cannot compute is told here, not in the first training step.
    layer([np.zeros((1, 2, *t.shape[2:]), t.dtype) for t in inputs])
    outputs = layer(inputs if len(inputs) > 1 else inputs[0])
    return keras.Model(inputs, outputs, name=f"{model.name}_quantized")


def _quantizers(weights: Any, activations: Any) -> tuple[Quantizer, Quantizer]:
    """Those given, or the usual ones, if the device rounds like that."""
    weights = read("weight_quantizer", weights or WEIGHTS)
    if not (weights.symmetric and weights.narrow_range):
        raise ValueError(
            "`weight_quantizer` must be symmetric and narrow: weights in a "
            "file have no zero point. "
            f"Received: weight_quantizer={weights}"
        )
    if weights.num_bits > 8:
        raise ValueError(
            "`weight_quantizer` must have at most 8 bits, as weights in a "
            f"file do. Received: weight_quantizer={weights}"
        )
    activations = read("activation_quantizer", activations or ACTIVATIONS)
    if activations.num_bits != 8 or activations.per_axis:
        raise ValueError(
            "`activation_quantizer` must have 8 bits and one range for all "
            "channels, as int8 tensors in a file do. "
            f"Received: activation_quantizer={activations}"
        )
    if activations.symmetric or activations.narrow_range:
        raise ValueError(
            "`activation_quantizer` must use all integers, from the lowest "
            "value to the highest: not symmetric, not narrow. "
            f"Received: activation_quantizer={activations}"
        )
    return weights, activations

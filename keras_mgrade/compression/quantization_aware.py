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
from keras_mgrade.graph_walk import graph_of

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

    The file's answers are the model's: in LiteRT but for values half way
    between two integers, that may take one each (int8 files one step at a
    time, for the reason above). TFLite Micro rounds every product twice where
    LiteRT rounds once, so the two differ on the same file; `deviations` of
    the result say how far both lie from the model and from one another.

    Delays stay where they are; dropout, regularizers and `stateful` are left
    behind; batch normalisation keeps its statistics. Weights that are zero
    stay so with `Pruning()` among the callbacks, shared values with
    `Clustering`.

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
        A functional model with the inputs and outputs of `model`, by their
        names, and one layer that computes, `QuantizedSteps`.

    Raises:
        ValueError: If the model cannot be exported, or has a state that
            depends on its past other than linearly (GRU, LSTM), or a
            quantizer rounds otherwise than the device.
    """
    from keras_mgrade.export import convert
    from keras_mgrade.export import options as option

    validation.one_of("precision", precision, ("mixed", "int8", "int16x8"))
    weights, activations = _quantizers(weight_quantizer, activation_quantizer)
    _check_layers(model)
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

        def export(precisions, **others):
            wanted = option.check(
                precisions,
                delay_line=delay_line,
                proof_steps=PROOF_STEPS,
                # Training is what mends it.
                refuse_deviation=False,
                **others,
            )
            target = path / "{precision}.tflite"
            return convert.convert(model, target, calibration, wanted)

        if state_dtype == "float32":
            # From one start of the converter.
            files = export(["float32", precision])
        else:
            files = {
                **export("float32"),
                **export(precision, state_dtype=state_dtype),
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
    # Not by `__call__`, which would dress up the message.
    layer.build([t.shape for t in inputs])
    layer.call([np.zeros((1, 2, *t.shape[2:]), t.dtype) for t in inputs])
    answers = layer(inputs if len(inputs) > 1 else inputs[0])
    graph = graph_of(model)
    if len(model.outputs) > 1:
        answers = _named(answers, model.output_names)
    return keras.Model(
        keras.tree.pack_sequence_as(graph.input, inputs),
        keras.tree.pack_sequence_as(graph.output, keras.tree.flatten(answers)),
        name=f"{model.name}_quantized",
    )


def _named(answers: list[Any], names: list[str]) -> list[Any]:
    """Answers by the names that losses and metrics know them by."""
    named, taken = [], set()
    for answer, name in zip(answers, names, strict=True):
        # One layer may give several answers.
        while name in taken:
            name += "_again"
        taken.add(name)
        named.append(keras.layers.Identity(name=name)(answer))
    return named


def _check_layers(model: Any) -> None:
    """Refuses what is known not to train, before anything is converted."""
    from keras_mgrade.export import own_file

    if own_file.comes_with(model):
        raise ValueError(
            "`model` is quantisation-aware already: fit it on, or start from "
            "the model that it was made of. "
            f"Received: model={model!r}"
        )
    parts = model._flatten_layers() if isinstance(model, keras.Layer) else ()
    for part in parts:
        if isinstance(part, keras.layers.Embedding):
            raise ValueError(
                "`model` may not have an Embedding: which row it looks up has "
                "no gradient. Train it first, and quantise what reads its "
                f"rows. Received: layer={part.name!r}"
            )


def _quantizers(weights: Any, activations: Any) -> tuple[Quantizer, Quantizer]:
    """Those given, or the usual ones, if the device rounds like that."""
    weights = WEIGHTS if weights is None else weights
    weights = read("weight_quantizer", weights)
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
    activations = ACTIVATIONS if activations is None else activations
    activations = read("activation_quantizer", activations)
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

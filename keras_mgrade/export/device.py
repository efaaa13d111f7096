"""The device form of a step model: the same numbers in TFLite's shapes.

A copy of the stream in which some steps are written the way the converter and
the device's kernels want them. It runs on the TensorFlow backend, in the
process that converts.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import streaming
from keras_mgrade.export.interface import StateLayout
from keras_mgrade.export.lines import LineStep, line_step


class _ChannelStep(streaming.Step):
    """A form over `(batch, channels)`, with and without time around it."""

    def call(self, inputs, timeless=False):
        return super().call(inputs)


class NormStep(_ChannelStep):
    """Layer or RMS normalisation over the channels.

    Keras's own layers become operators with no int8 form (NEG, SQUARE); these
    are MEAN, SUB, MUL, ADD and RSQRT.
    """

    def run(self, x_t, states):
        layer = self.layer
        centred = isinstance(layer, keras.layers.LayerNormalization)
        if centred:
            x_t = x_t - ops.mean(x_t, axis=-1, keepdims=True)
        power = ops.mean(x_t * x_t, axis=-1, keepdims=True)
        y_t = x_t * ops.rsqrt(power + layer.epsilon)
        if not centred or layer.scale:
            y_t = y_t * (layer.gamma if centred else layer.scale)
        if centred and layer.center:
            y_t = y_t + layer.beta
        return y_t, []


class EmbeddingStep(_ChannelStep):
    """A row of the table, without Keras's care for negative numbers."""

    def run(self, x_t, states):
        import tensorflow as tf

        return tf.gather(self.layer.embeddings, tf.cast(x_t, "int32")), []


class ConcatenateStep(_ChannelStep):
    """Channels side by side, without a detour over a time axis."""

    def run(self, x_t, states):
        return ops.concatenate(x_t, axis=-1), []


class AffineStep(_ChannelStep):
    """`scale * x + shift` with constants, which fold into their neighbours."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        super().__init__(layer, **kwargs)
        self.scale, self.shift = _affine(layer)

    def run(self, x_t, states):
        return x_t * self.scale + self.shift, []


def _affine(layer: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a layer that is affine in inference."""
    if isinstance(layer, keras.layers.Normalization):
        mean = np.ravel(ops.convert_to_numpy(layer.mean))
        std = np.sqrt(np.ravel(ops.convert_to_numpy(layer.variance)))
        # As in the layer: a variance of zero does not divide.
        std = np.maximum(std, keras.config.epsilon())
        scale, shift = (std, mean) if layer.invert else (1 / std, -mean / std)
    else:
        deviation = np.sqrt(
            ops.convert_to_numpy(layer.moving_variance) + layer.epsilon
        )
        scale = 1 / deviation
        if layer.scale:
            scale = scale * ops.convert_to_numpy(layer.gamma)
        shift = -scale * ops.convert_to_numpy(layer.moving_mean)
        if layer.center:
            shift = shift + ops.convert_to_numpy(layer.beta)
    return scale.astype("float32"), shift.astype("float32")


def form(operation: Any, application: bool) -> Any:
    """The device form of one node of a stream."""
    if not isinstance(operation, streaming.Step):
        return operation
    layer, name = operation.layer, operation.name
    line = line_step(layer, application, name)
    if line is not None:
        return line
    if isinstance(layer, keras.layers.Embedding):
        return EmbeddingStep(layer, name=name)
    for kind, made in _OVER_CHANNELS.items():
        if isinstance(layer, kind) and _over_channels(operation, layer):
            return made(layer, name=name)
    return operation


_OVER_CHANNELS = {
    keras.layers.LayerNormalization: NormStep,
    keras.layers.RMSNormalization: NormStep,
    keras.layers.BatchNormalization: AffineStep,
    keras.layers.Normalization: AffineStep,
    keras.layers.Concatenate: ConcatenateStep,
}


def _over_channels(operation: Any, layer: keras.layers.Layer) -> bool:
    """Whether a layer works along the last axis and no other."""
    # Its other mode, which Keras gave up, has formulas of its own.
    if getattr(layer, "rms_scaling", False):
        return False
    node = operation._inbound_nodes[0]
    rank = len(node.input_tensors[0].shape)
    if not node.arguments.kwargs.get("timeless"):
        rank += 1  # The layer itself knows of time.
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return len(axes) == 1 and axes[0] in (-1, rank - 1)


def device_form(
    stream: keras.Model, delay_line: str = "graph"
) -> tuple[keras.Model, list[StateLayout]]:
    """The stream as the device will run it, with the same weights.

    Args:
        stream: A model from `streaming_model`.
        delay_line: `"graph"`, where lines are states of the file, or
            `"application"`, where the program holds them. Defaults to
            `"graph"`.

    Returns:
        A functional model with batch size 1 and the layout of its states.

    Raises:
        ValueError: If the stream gives out a state as an answer.
    """
    specs = streaming.state_specs(stream)
    application = delay_line == "application"
    forms = {id(op): form(op, application) for op in stream.operations}
    lines = _lines(stream, forms)
    count = len(stream.inputs) - len(specs)
    inputs, layouts = [], []
    for tensor in stream.inputs[:count]:
        shape = (1, *tensor.shape[1:])
        inputs.append(
            keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)
        )
    for name, shape, role in specs:
        line = lines.get(name)
        placed = (1, line.rows, 1, shape[-1]) if line else (1, *shape)
        inputs.append(keras.Input(batch_shape=placed, name=name))
        layouts.append(
            StateLayout(
                name,
                role,
                (1, *shape),
                placed,
                line.rows if line and not application else None,
                line.delays.tolist() if line and application else None,
            )
        )
    model = keras.models.clone_model(
        stream,
        input_tensors=inputs,
        clone_function=lambda op: forms.get(id(op), op),
    )
    for before, after in zip(
        stream.outputs[: len(stream.outputs) - len(specs)],
        model.outputs,
        strict=False,
    ):
        if tuple(before.shape[1:]) != tuple(after.shape[1:]):
            raise ValueError(
                "Expected `model` to give out answers only, but one of its "
                "outputs is a delay line, which lies differently in the "
                "file. Leave it out: the exported step model has all states "
                "as outputs. Received: output of shape "
                f"{tuple(before.shape)}"
            )
    return model, layouts


def _lines(stream: keras.Model, forms: dict[int, Any]) -> dict:
    """The step of each delay line by the name of its state input."""
    lines = {}
    for operation in stream.operations:
        made = forms[id(operation)]
        if isinstance(made, LineStep):
            for node in operation._inbound_nodes:
                lines[node.input_tensors[-1].name] = made
    return lines

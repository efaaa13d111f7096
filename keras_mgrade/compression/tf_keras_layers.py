"""Twins of this package's layers for tf_keras, in which tfmot's wrappers work.

For tools and for tests: whole sequences, no masks, no states. Imported when a
bridge is asked for, since it needs tf_keras.
"""

from typing import Any

import tensorflow as tf
import tf_keras

from keras_mgrade.compression import tfmot_parts

sparsity = tfmot_parts.tfmot().sparsity.keras
clustering = tfmot_parts.tfmot().clustering.keras
quantization = tfmot_parts.tfmot().quantization.keras

# By the names of Keras 3, some of which mean something else in tf_keras.
ACTIVATIONS = {
    "elu": tf.nn.elu,
    "hard_sigmoid": lambda x: tf.nn.relu6(x + 3.0) / 6.0,
    "linear": tf.identity,
    "positive": lambda x: tf.nn.relu(x) + tf.sigmoid(-tf.nn.relu(-x)),
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "softmax": tf.nn.softmax,
    "softplus": tf.nn.softplus,
    "tanh": tf.tanh,
}
# tf_keras means another function by the name, or none.
DIFFERENT = ("hard_sigmoid", "positive")


class Twin(
    tf_keras.layers.Layer, sparsity.PrunableLayer, clustering.ClusterableLayer
):
    """What the twins share: weights by name, and which of them shrink.

    Args:
        weight_shapes: The shape of each weight by its name.
        **kwargs: As for `tf_keras.layers.Layer`.
    """

    prunable: tuple[str, ...] = ()

    def __init__(self, weight_shapes: dict[str, list[int]], **kwargs: Any):
        super().__init__(**kwargs)
        self.weight_shapes = {k: list(v) for k, v in weight_shapes.items()}

    def build(self, input_shape):
        for name, shape in self.weight_shapes.items():
            setattr(self, name, self.add_weight(name, shape=shape))
        super().build(input_shape)

    def get_prunable_weights(self):
        return [getattr(self, name) for name in self.prunable]

    def get_clusterable_weights(self):
        return [(name, getattr(self, name)) for name in self.prunable]

    def get_config(self):
        config = super().get_config()
        return {**config, "weight_shapes": self.weight_shapes}


class TapsTwin(Twin):
    """Of a `DelayConv1D` whose delays stay where they are.

    Args:
        weight_shapes: As for `Twin`.
        placement: What a weight of 1 of each tap reads at each delay,
            `(taps, delays, channels)`.
        activation: Name of the activation. Defaults to `"linear"`.
        **kwargs: As for `tf_keras.layers.Layer`.
    """

    prunable = ("kernel",)

    def __init__(self, weight_shapes, placement, activation="linear", **kwargs):
        super().__init__(weight_shapes, **kwargs)
        self.placement = tf.constant(placement)
        self.activation = activation

    def call(self, x):
        kernel = tf.einsum("kc,kdc->dc", self.kernel, self.placement)
        past = self.placement.shape[1] - 1
        x = tf.pad(x, [[0, 0], [past, 0], [0, 0]])[:, :, None]
        kernel = tf.reverse(kernel, [0])[:, None, :, None]
        y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "VALID")[:, :, 0]
        if "bias" in self.weight_shapes:
            y = y + self.bias
        return ACTIVATIONS[self.activation](y)

    def get_config(self):
        return {
            **super().get_config(),
            "placement": self.placement.numpy().tolist(),
            "activation": self.activation,
        }


class MinGRUTwin(Twin):
    """Of a `MinGRU`."""

    prunable = ("kernel",)

    def __init__(
        self,
        weight_shapes,
        activation="linear",
        recurrent_activation="sigmoid",
        return_sequences=False,
        go_backwards=False,
        **kwargs,
    ):
        super().__init__(weight_shapes, **kwargs)
        self.activation = activation
        self.recurrent_activation = recurrent_activation
        self.return_sequences = return_sequences
        self.go_backwards = go_backwards

    def call(self, x):
        if self.go_backwards:
            x = tf.reverse(x, [1])
        y = tf.matmul(x, self.kernel)
        if "bias" in self.weight_shapes:
            y = y + self.bias
        gate, candidate = tf.split(y, 2, axis=-1)
        gate = ACTIVATIONS[self.recurrent_activation](gate)
        candidate = ACTIVATIONS[self.activation](candidate)
        h = _recurrence(1 - gate, gate * candidate)
        return h if self.return_sequences else h[:, -1]

    def get_config(self):
        return {
            **super().get_config(),
            "activation": self.activation,
            "recurrent_activation": self.recurrent_activation,
            "return_sequences": self.return_sequences,
            "go_backwards": self.go_backwards,
        }


class ActivationTwin(Twin):
    """Of an activation that tf_keras lacks."""

    def __init__(self, weight_shapes, activation="linear", **kwargs):
        super().__init__(weight_shapes, **kwargs)
        self.activation = activation

    def call(self, x):
        return ACTIVATIONS[self.activation](x)

    def get_config(self):
        return {**super().get_config(), "activation": self.activation}


class PoolingTwin(Twin):
    """Of a `TemporalPooling`."""

    def __init__(self, weight_shapes, mode="last", share=0.0, **kwargs):
        super().__init__(weight_shapes, **kwargs)
        self.mode, self.share = mode, share

    def call(self, x):
        if self.mode == "last":
            return x[:, -1]
        if self.mode == "mean":
            return tf.reduce_mean(x, axis=1)
        keep = (1 - self.share) * tf.ones_like(x)
        return _recurrence(keep, self.share * x)[:, -1]

    def get_config(self):
        config = super().get_config()
        return {**config, "mode": self.mode, "share": self.share}


def _recurrence(a, b):
    """`h[t] = a[t] h[t-1] + b[t]`, one step after the other."""
    steps = (tf.transpose(a, [1, 0, 2]), tf.transpose(b, [1, 0, 2]))
    h = tf.scan(
        lambda h, step: step[0] * h + step[1], steps, tf.zeros_like(b[:, 0])
    )
    return tf.ensure_shape(tf.transpose(h, [1, 0, 2]), b.shape)


class TwinConfig(quantization.QuantizeConfig):
    """How tfmot rounds a twin: its kernel in 8 bits, and what comes out."""

    def __init__(self):
        kinds = quantization.quantizers
        self.weights = kinds.LastValueQuantizer(8, False, True, True)
        self.outputs = kinds.MovingAverageQuantizer(8, False, False, False)

    def get_weights_and_quantizers(self, layer):
        return [(getattr(layer, name), self.weights) for name in layer.prunable]

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        for name, weight in zip(layer.prunable, quantize_weights, strict=True):
            setattr(layer, name, weight)

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_output_quantizers(self, layer):
        return [self.outputs]

    def get_config(self):
        return {}


CUSTOM = {
    kind.__name__: kind
    for kind in (
        TapsTwin,
        MinGRUTwin,
        ActivationTwin,
        PoolingTwin,
        TwinConfig,
    )
}

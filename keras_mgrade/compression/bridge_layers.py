"""Which layer of tf_keras stands for a layer of a model.

Each maker gives the layer, or several in a row, and the weights of the first.
"""

from typing import Any

import keras
import numpy as np
import tf_keras
from keras import ops

from keras_mgrade import activations
from keras_mgrade.compression import tf_keras_layers as twins
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.min_gru import MinGRU
from keras_mgrade.layers.temporal_pooling import TemporalPooling


def _name_of(activation: Any) -> str:
    """An activation by its name in the twins' table."""
    name = getattr(activation, "__name__", str(activation))
    if activation is activations.positive:
        name = "positive"
    if name not in twins.ACTIVATIONS:
        raise ValueError(
            "`model` must have activations that have a twin in tf_keras, "
            f"{list(twins.ACTIVATIONS)}. Received: activation={name}"
        )
    return name


def _arrays(*weights):
    return [ops.convert_to_numpy(w) for w in weights if w is not None]


def _twin(kind, names, values, **arguments):
    shapes = {n: v.shape for n, v in zip(names, values, strict=False)}
    return kind(shapes, **arguments), values


def _taps(layer, name):
    values = _arrays(layer.kernel, layer.bias if layer.use_bias else None)
    return _twin(
        twins.TapsTwin,
        ["kernel", "bias"],
        values,
        placement=_placement(layer),
        activation=_name_of(layer.activation),
        name=name,
    )


def _placement(layer: DelayConv1D) -> np.ndarray:
    """What a weight of 1 of each tap reads at each delay."""
    before = ops.convert_to_numpy(layer.kernel)
    found = []
    try:
        for tap in range(len(before)):
            one = np.zeros_like(before)
            one[tap] = 1.0
            layer.kernel.assign(one)
            found.append(ops.convert_to_numpy(layer.dense_kernel()))
    finally:
        layer.kernel.assign(before)
    return np.stack(found)


def _min_gru(layer, name):
    cell = layer.cell
    return _twin(
        twins.MinGRUTwin,
        ["kernel", "bias"],
        _arrays(cell.kernel, cell.bias if cell.use_bias else None),
        activation=_name_of(cell.activation),
        recurrent_activation=_name_of(cell.recurrent_activation),
        return_sequences=layer.return_sequences,
        go_backwards=layer.go_backwards,
        name=name,
    )


def _pooling(layer, name):
    share = layer.share if layer.mode == "exponential" else 0.0
    made = twins.PoolingTwin({}, mode=layer.mode, share=share, name=name)
    return made, []


def _dense(layer, name):
    activation = _name_of(layer.activation)
    own = activation in twins.DIFFERENT
    made = tf_keras.layers.Dense(
        layer.units,
        activation="linear" if own else activation,
        use_bias=layer.use_bias,
        name=name,
    )
    after = [twins.ActivationTwin({}, activation, name=f"{name}__activation")]
    return [made, *(after if own else ())], _arrays(layer.kernel, layer.bias)


def _batch_norm(layer, name):
    made = tf_keras.layers.BatchNormalization(
        axis=layer.axis,
        momentum=layer.momentum,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=name,
    )
    return made, _arrays(
        layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance
    )


def _layer_norm(layer, name):
    made = tf_keras.layers.LayerNormalization(
        axis=layer.axis,
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=name,
    )
    return made, _arrays(layer.gamma, layer.beta)


def _activation(layer, name):
    activation = _name_of(layer.activation)
    if activation in twins.DIFFERENT:
        return twins.ActivationTwin({}, activation, name=name), []
    return tf_keras.layers.Activation(activation, name=name), []


def _relu(layer, name):
    words = ("max_value", "negative_slope", "threshold")
    made = tf_keras.layers.ReLU(
        **{word: getattr(layer, word) for word in words}, name=name
    )
    return made, []


MAKERS = {
    DelayConv1D: _taps,
    MinGRU: _min_gru,
    TemporalPooling: _pooling,
    keras.layers.Dense: _dense,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Activation: _activation,
    keras.layers.ReLU: _relu,
    keras.layers.Dropout: lambda layer, name: (
        tf_keras.layers.Dropout(layer.rate, name=name),
        [],
    ),
}

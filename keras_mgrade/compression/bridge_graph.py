"""The walk over a model's graph that makes its tf_keras twin."""

from typing import Any

import keras
import numpy as np
import tf_keras
from keras import ops

from keras_mgrade import activations
from keras_mgrade.compression import tf_keras_layers as twins
from keras_mgrade.graph_walk import is_graph, walk
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.mgrade import MGrade
from keras_mgrade.layers.min_gru import MinGRU
from keras_mgrade.layers.temporal_pooling import TemporalPooling


class _Node:
    """A tensor of the twin, whose sums are layers as tfmot wants them."""

    def __init__(self, tensor: Any, graph: "TwinGraph"):
        self.tensor, self._graph = tensor, graph

    def __add__(self, other: "_Node") -> "_Node":
        return self._graph.merge("Add", [self, other])


class TwinGraph:
    """One pass over a model that makes its twin.

    Args:
        annotate: Whether layers are annotated for `quantize_apply`.
    """

    def __init__(self, annotate: bool):
        self._annotate = annotate
        self._values: list[tuple[Any, list[np.ndarray]]] = []

    def model(self, model: keras.Model) -> Any:
        """The twin of a Sequential or functional model."""
        inputs = [
            tf_keras.Input(x.shape[1:], dtype=x.dtype, name=x.name)
            for x in model.inputs
        ]
        nodes = [_Node(x, self) for x in inputs]
        outputs = walk(model, nodes, self._node)
        made = tf_keras.Model(
            inputs, [y.tensor for y in keras.tree.flatten(outputs)]
        )
        for layer, values in self._values:
            layer.set_weights(values)
        return made

    def _node(self, operation, args, kwargs):
        x = args[0]
        if isinstance(operation, MGrade):
            return self._composite(operation, x)
        if is_graph(operation):
            return walk(operation, keras.tree.flatten(x), self._node)
        kind = type(operation).__name__
        if kind in ("Add", "Multiply", "Concatenate", "Subtract"):
            several = list(args) if len(args) > 1 else list(x)
            return self.merge(kind, several, operation.name)
        return self.layer(operation, x, operation.name)

    def _composite(self, layer, x):
        """An MGrade: each part is a layer of its own."""

        def apply(part, x):
            return self.layer(part, x, f"{layer.name}__{part.name}")

        return layer.compose(x, apply)

    def merge(self, kind: str, nodes: list[_Node], name=None) -> _Node:
        if not all(isinstance(node, _Node) for node in nodes):
            raise ValueError(
                "`model` must add and multiply layers' outputs only. "
                f"Received: {kind} of {[type(n).__name__ for n in nodes]}"
            )
        made = getattr(tf_keras.layers, kind)(name=name)
        return _Node(made([node.tensor for node in nodes]), self)

    def layer(self, layer: Any, node: _Node, name: str) -> _Node:
        """A layer of the twin, with the weights of its original."""
        make = _MAKERS.get(type(layer))
        if make is None:
            raise ValueError(
                "`model` must be of layers that have a twin in tf_keras, "
                f"{[kind.__name__ for kind in _MAKERS]}. "
                f"Received: layer {layer.name!r}, {type(layer).__name__}"
            )
        made, values = make(layer, name)
        if values:
            self._values.append((made, values))
        called = made
        own = isinstance(made, twins.Twin)
        # Normalisations tfmot rounds with the layer in front, or not at all.
        if self._annotate and (own or isinstance(made, _ANNOTATED)):
            config = twins.TwinConfig() if own else None
            called = twins.quantization.quantize_annotate_layer(made, config)
        return _Node(called(node.tensor), self)


_ANNOTATED = (
    tf_keras.layers.Activation,
    tf_keras.layers.Dense,
    tf_keras.layers.ReLU,
)


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
        name=name,
    )


def _pooling(layer, name):
    share = layer.share if layer.mode == "exponential" else 0.0
    made = twins.PoolingTwin({}, mode=layer.mode, share=share, name=name)
    return made, []


def _dense(layer, name):
    made = tf_keras.layers.Dense(
        layer.units,
        activation=None
        if _name_of(layer.activation) == "linear"
        else _name_of(layer.activation),
        use_bias=layer.use_bias,
        name=name,
    )
    return made, _arrays(layer.kernel, layer.bias)


def _batch_norm(layer, name):
    made = tf_keras.layers.BatchNormalization(
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
        epsilon=layer.epsilon,
        center=layer.center,
        scale=layer.scale,
        name=name,
    )
    return made, _arrays(layer.gamma, layer.beta)


def _activation(layer, name):
    return tf_keras.layers.Activation(_name_of(layer.activation), name=name), []


_MAKERS = {
    DelayConv1D: _taps,
    MinGRU: _min_gru,
    TemporalPooling: _pooling,
    keras.layers.Dense: _dense,
    keras.layers.BatchNormalization: _batch_norm,
    keras.layers.LayerNormalization: _layer_norm,
    keras.layers.Activation: _activation,
    keras.layers.ReLU: lambda layer, name: (
        tf_keras.layers.ReLU(name=name),
        [],
    ),
    keras.layers.Dropout: lambda layer, name: (
        tf_keras.layers.Dropout(layer.rate, name=name),
        [],
    ),
}

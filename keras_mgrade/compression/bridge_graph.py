"""The walk over a model's graph that makes its tf_keras twin."""

import itertools
from typing import Any

import keras
import numpy as np
import tf_keras

from keras_mgrade.compression import tf_keras_layers as twins
from keras_mgrade.compression.bridge_layers import MAKERS
from keras_mgrade.graph_walk import graph_of, is_graph, walk
from keras_mgrade.layers.mgrade import MGrade


class _Node:
    """A tensor of the twin, whose sums are layers as tfmot wants them."""

    def __init__(self, tensor: Any, graph: "TwinGraph"):
        self.tensor, self._graph = tensor, graph

    def __add__(self, other: "_Node") -> "_Node":
        return self._graph.merge(tf_keras.layers.Add, [self, other], "sum")


class TwinGraph:
    """One pass over a model that makes its twin.

    Args:
        annotate: Whether layers are annotated for `quantize_apply`.
        names: What each layer's twin is called, by the layer's id.
    """

    def __init__(self, annotate: bool, names: dict[int, str]):
        self._annotate, self._names = annotate, names
        self._taken = set(names.values())
        self._made: dict[int, list[Any]] = {}
        self._values: list[tuple[Any, list[np.ndarray]]] = []

    def model(self, model: keras.Model) -> Any:
        """The twin of a Sequential or functional model."""
        inputs = [
            tf_keras.Input(x.shape[1:], dtype=x.dtype, name=x.name)
            for x in model.inputs
        ]
        nodes = [_Node(x, self) for x in inputs]
        structure = graph_of(model).input
        nodes = keras.tree.pack_sequence_as(structure, nodes)
        outputs = walk(model, nodes, self._node)
        made = tf_keras.Model(
            inputs, [y.tensor for y in keras.tree.flatten(outputs)]
        )
        for layer, values in self._values:
            layer.set_weights(values)
        return made

    def _node(self, operation, args, kwargs):
        if is_graph(operation):
            return walk(operation, args[0], self._node)
        kind = type(operation).__name__
        given = keras.tree.flatten(args)
        if kind in ("Add", "Multiply", "Concatenate", "Subtract"):
            words = {}
            if kind == "Concatenate":
                words["axis"] = operation.axis
                given = keras.tree.flatten(args[0])
            maker = getattr(tf_keras.layers, kind)
            return self.merge(maker, given, operation.name, **words)
        several = isinstance(operation.output, (list, tuple, dict))
        state = several or getattr(operation, "stateful", False)
        if state or len(given) != 1 or kwargs.get("mask") is not None:
            raise ValueError(
                "`model` must be of layers with one input and one output, "
                "without states and masks, for a twin in tf_keras. "
                f"Received: layer {operation.name!r}, {kind}"
            )
        if isinstance(operation, MGrade):
            return operation.compose(args[0], self.layer)
        return self.layer(operation, args[0])

    def merge(
        self, maker: Any, nodes: list[_Node], name: str, **words: Any
    ) -> _Node:
        if not all(isinstance(node, _Node) for node in nodes):
            raise ValueError(
                "`model` must add and multiply layers' outputs only. "
                f"Received: {name} of {[type(n).__name__ for n in nodes]}"
            )
        # Each is a layer of its own: none has weights that could be shared.
        free = (f"{name}_{k}" if k else name for k in itertools.count())
        name = next(n for n in free if n not in self._taken)
        self._taken.add(name)
        made = maker(name=name, **words)
        return _Node(made([node.tensor for node in nodes]), self)

    def layer(self, layer: Any, node: _Node) -> _Node:
        """What a layer's twin, with the weights of its original, makes."""
        if id(layer) not in self._made:
            self._made[id(layer)] = self._make(layer)
        tensor = node.tensor
        for made in self._made[id(layer)]:
            tensor = made(tensor)
        return _Node(tensor, self)

    def _make(self, layer):
        """The layers of the twin in the place of one of the model."""
        make = MAKERS.get(type(layer))
        if make is None:
            raise ValueError(
                "`model` must be of layers that have a twin in tf_keras, "
                f"{[kind.__name__ for kind in MAKERS]}. "
                f"Received: layer {layer.name!r}, {type(layer).__name__}"
            )
        made, values = make(layer, self._names[id(layer)])
        made = made if isinstance(made, list) else [made]
        if values:
            self._values.append((made[0], values))
        return [self._annotated(part) for part in made]

    def _annotated(self, made):
        own = isinstance(made, twins.Twin)
        # Normalisations tfmot rounds with the layer in front, or not at all.
        if not self._annotate or not (own or isinstance(made, _ANNOTATED)):
            return made
        config = twins.TwinConfig() if own else None
        return twins.quantization.quantize_annotate_layer(made, config)


_ANNOTATED = (
    tf_keras.layers.Activation,
    tf_keras.layers.Dense,
    tf_keras.layers.ReLU,
)

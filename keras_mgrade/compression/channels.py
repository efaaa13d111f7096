"""Channels of a model that belong together, from layer to layer.

What a layer makes is read by others and carried along by sums,
normalisations and taps: a channel can leave only from all of them.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import activations
from keras_mgrade.graph_walk import is_graph, walk
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.mgrade import MGrade
from keras_mgrade.layers.min_gru import MinGRU
from keras_mgrade.layers.temporal_pooling import TemporalPooling

# These keep channels apart and have no weights.
_POINTWISE = (
    keras.layers.Activation,
    keras.layers.Dropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.InputLayer,
    keras.layers.LeakyReLU,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    TemporalPooling,
)

# These look at all channels at once: none of them can leave.
_MIXING = (
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.Softmax,
    keras.layers.UnitNormalization,
)

_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")

# Of these each channel is an answer to itself; of others no one knows.
_APART = [
    function
    for module in (keras.activations, activations)
    for name, function in vars(module).items()
    if name not in ("softmax", "log_softmax", "sparsemax", "glu")
]


@dataclasses.dataclass
class Group:
    """Channels that stay or leave together.

    Attributes:
        size: How many.
        reads: Matrices whose rows are these channels.
        made: Whether layers of the model make them, and nothing else needs
            them whole: then some of them can leave.
    """

    size: int
    reads: list[keras.Variable] = dataclasses.field(default_factory=list)
    made: bool = True


class _Node:
    """A tensor, as the channels of its last axis."""

    def __init__(self, group: int, walk: "Channels"):
        self.group, self._walk = group, walk

    def __add__(self, other: Any) -> "_Node":
        return self._walk.join([self, other])


class Channels:
    """The groups of channels of a model.

    Args:
        model: A built Sequential or functional model.

    Attributes:
        axes: For each variable, by its id, `{axis: (group, times)}`: which of
            its axes are channels, and how many times over (the kernel of a
            minGRU has its units twice).
        layers: For each layer, by its id, the groups of what it makes:
            `"units"`, and of an MGrade `"hidden"`.
        inputs: For each model within the model, by its id, the groups of
            what it reads.
    """

    def __init__(self, model: keras.Model):
        self._groups: list[Group] = []
        self._parents: list[int] = []
        self.axes: dict[int, dict[int, tuple[int, int]]] = {}
        self.layers: dict[int, dict[str, int]] = {}
        self.inputs: dict[int, list[int]] = {}
        self._unknown_layers: set[int] = set()
        nodes = []
        for x in model.inputs:
            nodes.append(self._new(x.shape[-1], made=False))
        for node in keras.tree.flatten(walk(model, nodes, self._node)):
            self._whole(node)

    def __iter__(self) -> Iterator[tuple[int, Group]]:
        """The groups of which some channels can leave."""
        for number, group in enumerate(self._groups):
            own = self._parents[number] == number
            if own and group.made and group.reads and group.size > 1:
                yield number, group

    def find(self, number: int) -> int:
        """The group that one has become a part of."""
        while self._parents[number] != number:
            number = self._parents[number]
        return number

    def group(self, number: int) -> Group:
        return self._groups[self.find(number)]

    def _new(self, size, made=True):
        if size is None:
            size, made = 0, False
        self._groups.append(Group(int(size), made=made))
        self._parents.append(len(self._parents))
        return _Node(len(self._groups) - 1, self)

    def _whole(self, node):
        self._groups[self.find(node.group)].made = False

    def join(self, nodes: list[Any]) -> _Node:
        """The sum of tensors: their channels are one another's."""
        first = self.find(nodes[0].group)
        for node in nodes[1:]:
            other = self.find(node.group)
            if other == first:
                continue
            into, gone = self._groups[first], self._groups[other]
            if into.size != gone.size:
                # Broadcast: leave both as they are.
                into.made = gone.made = False
                continue
            into.reads += gone.reads
            into.made = into.made and gone.made
            self._parents[other] = first
        return _Node(first, self)

    def _node(self, operation, args, kwargs):
        given = keras.tree.flatten((args, kwargs))
        nodes = [x for x in given if isinstance(x, _Node)]
        if is_graph(operation):
            return self._inner(operation, args[0], nodes)
        several = isinstance(operation.output, (list, tuple, dict))
        if several or any(map(_is_vector, given)):
            return self._unknown(operation, nodes)
        known = id(operation) not in self._unknown_layers
        if isinstance(operation, MGrade) and len(nodes) == 1 and known:
            return self._composite(operation, nodes[0])
        if type(operation).__name__ in _MERGES:
            return self.join(nodes)
        return self._layer(operation, nodes)

    def _inner(self, model, inputs, nodes):
        """A model within the model."""
        numbers = self.inputs.setdefault(id(model), [n.group for n in nodes])
        for node, known in zip(nodes, numbers, strict=True):
            self.join([node, _Node(known, self)])
        return walk(model, inputs, self._node)

    def _composite(self, layer, node):
        made = self.layers.setdefault(id(layer), {})
        within = []

        def apply(part, x):
            y = self._layer(part, [x])
            if part is layer.mlp_expansion:
                made["hidden"] = y.group
            if part is layer.recurrence:
                within.append(y)
            return y

        # Even where a Dense layer lies between: both are `units` wide.
        y = self.join([layer.compose(node, apply), *within])
        made["units"] = y.group
        made["input"] = node.group
        return y

    def _layer(self, layer, nodes):
        turned = getattr(layer, "data_format", None) == "channels_first"
        if len(nodes) > 1 or turned or id(layer) in self._unknown_layers:
            return self._unknown(layer, nodes)
        y = self._known(layer, nodes[0])
        if y is None:
            return self._unknown(layer, nodes)
        if _mixes(layer):
            self._whole(y)
        return y

    def _known(self, layer, node):
        if type(layer) is keras.layers.Dense:
            return self._product(layer, layer, node, 1)
        if type(layer) is MinGRU:
            return self._product(layer, layer.cell, node, 2)
        if isinstance(layer, DelayConv1D):
            for variable in layer.weights:
                self._axis(variable, len(variable.shape) - 1, node.group)
            return node
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in layer.weights:
                self._axis(variable, 0, node.group)
            return node
        return node if isinstance(layer, _POINTWISE + _MIXING) else None

    def _product(self, layer, owner, node, times):
        """Of rows that are what comes and columns that are new."""
        y = self.layers.get(id(layer))
        if y is not None:
            # Called once more: the same columns.
            y = _Node(y["units"], self)
        else:
            y = self._new(layer.units)
            self.layers[id(layer)] = {"units": y.group}
        self._groups[self.find(node.group)].reads.append(owner.kernel)
        self._axis(owner.kernel, 0, node.group)
        self._axis(owner.kernel, 1, y.group, times)
        if owner.use_bias:
            self._axis(owner.bias, 0, y.group, times)
        return y

    def _unknown(self, layer, nodes):
        """What may look at all channels at once, or what no one knows."""
        for node in nodes:
            self._whole(node)
        self._unknown_layers.add(id(layer))
        for variable in getattr(layer, "variables", ()):
            for group, _ in self.axes.get(id(variable), {}).values():
                self._whole(_Node(group, self))
        return keras.tree.map_structure(
            lambda y: self._new(y.shape[-1] if y.shape else None, made=False),
            layer.output,
        )

    def _axis(self, variable, axis, group, times=1):
        known = self.axes.setdefault(id(variable), {})
        if axis in known:
            self.join([_Node(known[axis][0], self), _Node(group, self)])
        known[axis] = (group, times)


def _mixes(layer):
    """Whether a layer's answer in one channel depends on other channels."""
    if isinstance(layer, _MIXING) or layer.activity_regularizer is not None:
        return True
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.axis not in (-1, layer.input_spec.ndim - 1)
    names = ("activation", "recurrent_activation")
    functions = [getattr(layer, name, None) for name in names]
    return any(f is not None and f not in _APART for f in functions)


def _is_vector(x):
    """Whether what an operation was given is one number a channel, or more."""
    shape = getattr(x, "shape", ())
    return bool(shape) and shape[-1] != 1


def row_scores(group: Group) -> np.ndarray:
    """How much of a model reads each channel, in comparison."""
    total = np.zeros(group.size)
    # One that several calls read with counts once.
    for kernel in {id(kernel): kernel for kernel in group.reads}.values():
        power = np.square(ops.convert_to_numpy(kernel)).sum(axis=1)
        total += power / max(power.mean(), 1e-12)
    return np.sqrt(total)

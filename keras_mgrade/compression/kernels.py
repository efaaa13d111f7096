"""Which weights of a model are pruned or clustered: its matrices."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mgrade import validation
from keras_mgrade.compression.channels import Channels, Group
from keras_mgrade.compression.products import Taps
from keras_mgrade.layers.delay_conv1d import DelayConv1D

# Convolutions channel by channel.
_TAPS = (DelayConv1D, keras.layers.DepthwiseConv1D, Taps)


def matrices(
    model: keras.Model, layers: Sequence[str | keras.Layer] | None
) -> list[keras.Variable]:
    """The kernels of a model that are matrix products.

    Taps of convolutions channel by channel are few and stay whole.

    Args:
        model: A built model.
        layers: The layers whose kernels are meant, by name or themselves;
            `None` for all.

    Raises:
        ValueError: If a layer is not there, or there is no kernel.
    """
    chosen = _chosen(model, layers)
    found: dict[int, keras.Variable] = {}
    for layer in chosen:
        for part in layer._flatten_layers():
            if isinstance(part, _TAPS):
                continue
            for variable in part._trainable_variables:
                matrix = len(variable.shape) >= 2
                if matrix and variable.name.endswith("kernel"):
                    found[id(variable)] = variable
    if not found:
        raise ValueError(
            "`layers` must have kernels: matrices of Dense layers, "
            "convolutions and recurrences, of a built model. "
            f"Received: layers={layers!r}"
        )
    return list(found.values())


def taps(
    model: keras.Model, layers: Sequence[str | keras.Layer] | None
) -> list[keras.Variable]:
    """The kernels of delay convolutions.

    Args:
        model: A built model.
        layers: As for `matrices`.

    Raises:
        ValueError: If a layer is not there, or there is no kernel.
    """
    found = {
        id(part): part
        for layer in _chosen(model, layers)
        for part in layer._flatten_layers()
        if isinstance(part, DelayConv1D)
    }
    if not found:
        raise ValueError(
            "`layers` must have taps: a DelayConv1D or MGrade of a built "
            f"model. Received: layers={layers!r}"
        )
    return [part.kernel for part in found.values()]


def groups(
    model: keras.Model, layers: Sequence[str | keras.Layer] | None
) -> list[Group]:
    """Channels that can leave.

    Args:
        model: A built model.
        layers: The layers that read the channels, as for `matrices`.

    Raises:
        ValueError: If a layer is not there, or no channels can leave.
    """
    validation.built_graph("model", model)
    mine = None
    if layers is not None:
        mine = {
            id(v) for layer in _chosen(model, layers) for v in layer.variables
        }
    found = [
        group
        for _, group in Channels(model)
        if mine is None or mine.intersection(map(id, group.reads))
    ]
    if not found:
        raise ValueError(
            "`layers` must have channels of which some can leave: those that "
            "layers of the model make and other matrices read, and no layer "
            "normalisation mixes. "
            f"Received: layers={layers!r}"
        )
    return found


def _chosen(model: keras.Model, layers: Any) -> list[keras.Layer]:
    if layers is None:
        return [model]
    every = model._flatten_layers()
    chosen = []
    for asked in layers:
        # Parts of one MGrade are called as those of another.
        found = [
            layer
            for layer in every
            if asked is layer
            or (isinstance(asked, str) and asked == layer.name)
        ]
        if not found:
            raise ValueError(
                "`layers` must be layers of the model or their names, "
                f"{sorted({layer.name for layer in every})}. "
                f"Received: layers={list(layers)!r}"
            )
        if len(found) > 1:
            raise ValueError(
                f"`layers` must say which layers are meant: {len(found)} "
                f"layers are called {asked!r}. Give the layer itself. "
                f"Received: layers={list(layers)!r}"
            )
        chosen += found
    return chosen

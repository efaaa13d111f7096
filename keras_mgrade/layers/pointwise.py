"""Keras layers that treat every time step alike, applied to one step."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops

# These read the last axis or no axis at all: the same with and without time.
_ANY_RANK = (
    layers.Activation,
    layers.ActivityRegularization,
    layers.Add,
    layers.AlphaDropout,
    layers.Average,
    layers.Dense,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.ReLU,
    layers.Subtract,
)
# These may look at several axes: time must not be one of them.
_WITH_AXIS = (
    layers.BatchNormalization,
    layers.Concatenate,
    layers.LayerNormalization,
    layers.Normalization,
    layers.RMSNormalization,
    layers.Softmax,
    layers.UnitNormalization,
)
_OTHERS = (
    layers.EinsumDense,
    layers.Embedding,
    layers.Rescaling,
    layers.SpatialDropout1D,
    layers.TimeDistributed,
)


def why_not_pointwise(layer: Any, rank: int) -> str | None:
    """Why `layer` does not treat all steps of a rank-`rank` input alike.

    Returns:
        `None` if it does, else a reason that completes "because it ...".
    """
    kind = _kind(layer)
    if kind is None:
        return "is not known to treat every time step alike"
    if kind is layers.Embedding and layer.mask_zero:
        return "makes a mask, and a stream has no padding (mask_zero=True)"
    if kind is layers.EinsumDense and not _keeps_time(layer, rank):
        return f"mixes time steps (equation {layer.equation!r})"
    if kind is layers.Rescaling and not all(
        np.ndim(value) <= 1 for value in (layer.scale, layer.offset)
    ):
        return "may scale every time step differently"
    if kind in _WITH_AXIS:
        axes = layer.axis
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        if any(axis is not None and axis % rank in (0, 1) for axis in axes):
            return f"works along time (axis={layer.axis})"
    return None


def _kind(layer):
    """The known class whose `call` a layer has; a subclass may override it."""
    for kind in _ANY_RANK + _WITH_AXIS + _OTHERS:
        if isinstance(layer, kind) and type(layer).call is kind.call:
            return kind
    return None


def _keeps_time(layer, rank):
    """Whether axis 1 goes through an EinsumDense untouched."""
    inputs, output = layer.equation.replace(" ", "").split("->")
    data, kernel = inputs.split(",")
    if data.startswith("..."):
        # Time is among the axes of the ellipsis.
        named = len(data) - len("...")
        return output.startswith("...") and rank - named >= 2
    time = data[1]
    untouched = data[:2] == output[:2] and not set(data[:2]) & set(kernel)
    return untouched and time not in (layer.bias_axes or "")


def apply_pointwise(layer: Any, x: Any, timeless: bool = False) -> Any:
    """`layer`, as in inference, on one time step: time is an axis of 1.

    Args:
        layer: A layer for which `why_not_pointwise` is `None`.
        x: `(batch, channels)`, or a list of such.
        timeless: Whether `x` never had a time axis: then any layer will do.
            Defaults to `False`.

    Returns:
        `(batch, channels)`.
    """
    arguments = {}
    if "training" in inspect.signature(layer.call).parameters:
        arguments["training"] = False
    if timeless or _kind(layer) in _ANY_RANK:
        return layer(x, **arguments)
    x = keras.tree.map_structure(lambda t: ops.expand_dims(t, 1), x)
    return ops.squeeze(layer(x, **arguments), 1)


def as_one_matrix(product: Callable[[Any], Any], x: Any) -> Any:
    """`product(x)` of all steps of all rows under one another.

    The gradient of a product with a batch in front takes longer, in JAX above
    all (`choices` in benchmarks/results/speed.md).

    Args:
        product: From `(n, features)` to `(n, units)`.
        x: `(..., features)`.

    Returns:
        `(..., units)`.
    """
    *steps, features = ops.shape(x)
    if len(steps) < 2:
        return product(x)
    y = product(ops.reshape(x, (-1, features)))
    return ops.reshape(y, (*steps, y.shape[-1]))

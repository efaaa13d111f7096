"""Keras layers that treat every time step alike, applied to one step."""

import inspect
from typing import Any

import keras
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
    layers.SpatialDropout1D,
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
    layers.TimeDistributed,
)


def why_not_pointwise(layer: Any, rank: int) -> str | None:
    """Why `layer` does not treat all steps of a rank-`rank` input alike.

    Returns:
        `None` if it does, else a reason that completes "because it ...".
    """
    if isinstance(layer, layers.Embedding) and layer.mask_zero:
        return "makes a mask, and a stream has no padding (mask_zero=True)"
    if isinstance(layer, layers.EinsumDense) and not _keeps_time(layer):
        return f"mixes time steps (equation {layer.equation!r})"
    if isinstance(layer, _WITH_AXIS):
        axes = (
            layer.axis
            if isinstance(layer.axis, (list, tuple))
            else [layer.axis]
        )
        if any(axis is not None and axis % rank in (0, 1) for axis in axes):
            return f"works along time (axis={layer.axis})"
        return None
    if isinstance(layer, _ANY_RANK + _OTHERS):
        return None
    return "is not known to treat every time step alike"


def _keeps_time(layer: layers.EinsumDense) -> bool:
    inputs, output = layer.equation.replace(" ", "").split("->")
    data, kernel = inputs.split(",")
    if data.startswith("..."):
        return output.startswith("...")
    return data[:2] == output[:2] and not set(data[:2]) & set(kernel)


def apply_pointwise(layer: Any, x: Any) -> Any:
    """`layer`, as in inference, on one time step: time is an axis of 1.

    Args:
        layer: A layer for which `why_not_pointwise` is `None`.
        x: `(batch, channels)`, or a list of such.

    Returns:
        `(batch, channels)`.
    """
    arguments = {}
    if "training" in inspect.signature(layer.call).parameters:
        arguments["training"] = False
    if isinstance(layer, _ANY_RANK) and not isinstance(
        layer, layers.SpatialDropout1D
    ):
        return layer(x, **arguments)
    x = keras.tree.map_structure(lambda t: ops.expand_dims(t, 1), x)
    return ops.squeeze(layer(x, **arguments), 1)

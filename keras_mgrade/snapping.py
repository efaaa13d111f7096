"""Whole delays for a whole model, and what it costs."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import layer_names
from keras_mgrade.layers import DelayConv1D


def snap_delays(model: keras.Model, x: Any = None) -> dict[str, float]:
    """Turns every linear and Gaussian layer into one of integer taps.

    Each layer snaps as `DelayConv1D.snap_delays` says, in place. Then compile
    the model anew and train it for a tenth of its epochs at a tenth of its
    learning rate: the weights make up for what the taps have lost. Streams
    and steps compiled before are of the old kernels: make them anew.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.DelayConv1D(4, 16, name="taps"),
    ... ], name="model")
    >>> sorted(keras_mgrade.snap_delays(model, np.ones((1, 20, 3))))
    ['model/taps', 'output']

    Args:
        model: A built model.
        x: Inputs of the model. Defaults to `None`: the outputs are not
            compared.

    Returns:
        The path of each layer that has snapped -> how far its sums move on
        white noise, as a share of their rms; and, where `x` is given,
        `"output"` -> how far the model's outputs move on it, likewise.

    Raises:
        ValueError: If the model has no such layer.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, DelayConv1D)
        and layer.built
        and layer.interpolation != "integer"
    ]
    if not layers:
        raise ValueError(
            "`model` must be built and have a DelayConv1D (or MGrade) layer "
            "of linear or Gaussian taps. "
            f"Received: model={model!r}"
        )
    before = None if x is None else _outputs(model, x)
    named = layer_names.by_path(layers)
    changes = {path: layer.snap_delays() for path, layer in named.items()}
    # What TensorFlow has traced for them is of the old kernels.
    model.train_function = model.test_function = model.predict_function = None
    if x is not None:
        moved = np.sum((_outputs(model, x) - before) ** 2)
        power = np.sum(before**2)
        changes["output"] = float(np.sqrt(moved / power)) if power else 0.0
    return changes


def _outputs(model, x):
    """All outputs in one array; called as it stands, whatever is compiled."""
    # In a scope that keeps what stateful layers would carry on.
    with keras.StatelessScope():
        outputs = keras.tree.flatten(model(x, training=False))
    return np.concatenate(
        [np.ravel(ops.convert_to_numpy(y)).astype("float64") for y in outputs]
    )

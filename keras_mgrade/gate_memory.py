"""How long the gates of a model let its units remember."""

import contextlib
from typing import Any

import numpy as np
from keras import ops

from keras_mgrade import validation
from keras_mgrade.layers import MinGRU


def time_constants(model: Any, x: Any = None) -> dict[str, np.ndarray]:
    """How long the units of each MinGRU remember, in steps.

    A gate z forgets by 1 - z a step: a time constant of `-1 / log(1 - z)`.

    Example:

    >>> gates = keras_mgrade.initializers.LogTimeConstants(10, 1000)
    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.MinGRU(3, gate_bias_initializer=gates, name="gru"),
    ... ], name="model")
    >>> keras_mgrade.time_constants(model)["model/gru"].round()
    array([  10.,  100., 1000.])

    Args:
        model: A built model or layer with `MinGRU` layers (those in `MGrade`
            count).
        x: Inputs of the model, `(batch, time, ...)`, whose mean gates count.
            Defaults to `None`: the gates at an input of zeros, which are
            those of the biases.

    Returns:
        The path of each such layer -> the time constants of its units,
        `(units,)`.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = validation.layers_of(model, MinGRU)
    found = {}
    for layer, gate in zip(layers, _mean_gates(model, layers, x), strict=True):
        gate = np.clip(gate.astype("float64"), 1e-7, 1 - 1e-7)
        found[layer.path] = -1 / np.log1p(-gate)
    return found


def _mean_gates(model, layers, x):
    """The gate of each unit, `(units,)`, for each layer."""
    if x is None:
        return [
            ops.convert_to_numpy(
                layer.cell.gates(ops.zeros((1, layer.cell.kernel.shape[0])))[0]
            )[0]
            for layer in layers
        ]
    gates = {}
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.enter_context(_watching(layer, gates))
        model(x)
    return [gates[layer] for layer in layers]


@contextlib.contextmanager
def _watching(layer, gates):
    """Keeps the mean gates of the calls that `layer` gets within it."""
    cell, original = layer.cell, layer.cell.gates

    def watched(x):
        z, candidate = original(x)
        mean = ops.mean(ops.cast(z, "float32"), axis=(0, 1))
        gates[layer] = ops.convert_to_numpy(mean)
        return z, candidate

    cell.gates = watched
    try:
        yield
    finally:
        del cell.gates

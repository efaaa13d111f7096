"""How long the gates of a model let its units remember."""

import contextlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import layer_names, validation
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
        x: Inputs of the model, `(batch, time, ...)`, whose mean gates count,
            masked steps left out. Defaults to `None`: the gates at an input
            of zeros, which are those of the biases.

    Returns:
        The path of each such layer -> the time constants of its units,
        `(units,)`.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = layer_names.by_path(validation.layers_of(model, MinGRU))
    gates = _gates_of_biases if x is None else _mean_gates
    found = {}
    for path, gate in gates(model, layers, x).items():
        gate = np.clip(gate.astype("float64"), 1e-7, 1 - 1e-7)
        found[path] = -1 / np.log1p(-gate)
    return found


def _gates_of_biases(model, layers, x):
    nothing = {
        path: ops.zeros((1, layer.cell.kernel.shape[0]))
        for path, layer in layers.items()
    }
    return {
        path: ops.convert_to_numpy(layer.cell.gates(nothing[path])[0])[0]
        for path, layer in layers.items()
    }


def _mean_gates(model, layers, x):
    """The mean gate of each unit, `(units,)`, over the steps that count."""
    # In a scope that keeps what stateful layers would carry on.
    with contextlib.ExitStack() as stack:
        stack.enter_context(keras.StatelessScope())
        seen = {
            path: stack.enter_context(layer.watching_gates())
            for path, layer in layers.items()
        }
        model(x)
        means = {}
        for path, calls in seen.items():
            if not calls:
                raise ValueError(
                    f"`model` does not call its layer '{path}' on these "
                    f"inputs. Received: model={model!r}"
                )
            total, count = map(sum, zip(*calls, strict=True))
            means[path] = ops.convert_to_numpy(total / count)
        return means

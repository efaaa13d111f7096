"""The states that a whole model carries: read, written, reset, row by row."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import layer_names


def get_states(model: keras.Model) -> dict[str, list[np.ndarray]]:
    """The states of every stateful layer of a model, as NumPy arrays.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input(batch_shape=(1, None, 3)),
    ...     keras_mgrade.MinGRU(4, stateful=True, name="gru"),
    ... ], name="model")
    >>> y = model(np.ones((1, 5, 3), "float32"))
    >>> states = keras_mgrade.get_states(model)
    >>> [(path, [s.shape for s in states[path]]) for path in states]
    [('model/gru', [(1, 4)])]

    Args:
        model: A built model with stateful layers, Keras's own among them.

    Returns:
        The path of each stateful layer -> a list of arrays, `(batch, ...)`.
        Where two layers of nested models have one path, the second one's
        ends in `:2`. The paths hold the names of model and layers: name
        them, if the states are for another process.

    Raises:
        ValueError: If no layer of the model is stateful.
    """
    return {
        path: [ops.convert_to_numpy(v) for v in variables]
        for path, variables in _carried(model).items()
    }


def set_states(model: keras.Model, states: dict[str, Any]) -> None:
    """Puts the states of a model where `get_states` found them.

    Nothing is written unless all of it fits.

    Args:
        model: A built model with stateful layers.
        states: As `get_states` gives them, a list for each stateful layer.

    Raises:
        ValueError: If a layer is missing or unknown, or a shape differs.
    """
    carried = _carried(model)
    if set(states) != set(carried):
        raise ValueError(
            f"`states` must have an entry for each of {sorted(carried)} and "
            f"no other. Received: states for {sorted(states)}"
        )
    values = {
        path: [np.asarray(ops.convert_to_numpy(s)) for s in states[path]]
        for path in carried
    }
    for path, variables in carried.items():
        wanted = [tuple(v.shape) for v in variables]
        shapes = [value.shape for value in values[path]]
        if shapes != wanted:
            raise ValueError(
                f"`states['{path}']` must be arrays of shapes {wanted}. "
                f"Received: shapes={shapes}"
            )
    for path, variables in carried.items():
        for variable, value in zip(variables, values[path], strict=True):
            variable.assign(value)


def reset_states(
    model: keras.Model, rows: int | Sequence[int] | None = None
) -> None:
    """Puts the states of a model to zero, all of them or some rows.

    Args:
        model: A built model with stateful layers.
        rows: Which rows of the batch start anew: a number, or a list of
            them. Defaults to `None`, which is all.

    Raises:
        ValueError: If no layer is stateful, or a row is not in the batch.
    """
    for variables in _carried(model).values():
        for variable in variables:
            variable.assign(reset_rows([variable], rows)[0])


def reset_rows(
    states: list[Any], rows: int | Sequence[int] | None = None
) -> list[Any]:
    """States of a stream with some rows put to zero; the others stay.

    Example:

    >>> stream = keras_mgrade.streaming_model(
    ...     keras.Sequential([keras.Input((None, 3)), keras_mgrade.MinGRU(4)]),
    ...     batch_size=2,
    ... )
    >>> states = keras_mgrade.initial_states(stream)
    >>> states = keras_mgrade.reset_rows(states, rows=1)

    Args:
        states: As a compiled step takes and gives them.
        rows: Which rows of the batch start anew: a number, or a list of
            them. Defaults to `None`, which is all.

    Returns:
        A new list of states.

    Raises:
        ValueError: If a row is not in the batch.
    """
    if not isinstance(states, (list, tuple)):
        raise ValueError(
            "`states` must be a list, as a compiled step gives it. "
            f"Received: states={states!r}"
        )
    states = [ops.convert_to_tensor(state) for state in states]
    return [ops.where(_chosen(rows, s), ops.zeros_like(s), s) for s in states]


def _chosen(rows, state):
    """Boolean, true at `rows`, of a shape that broadcasts to the state's."""
    batch = state.shape[0]
    chosen = np.ones(batch, bool)
    if rows is not None:
        wanted = np.atleast_1d(np.asarray(rows))
        whole = np.issubdtype(wanted.dtype, np.integer) or not wanted.size
        if (
            wanted.ndim != 1
            or not whole
            or np.any(wanted >= batch)
            or (np.any(wanted < 0))
        ):
            raise ValueError(
                f"`rows` must be row numbers from 0 to {batch - 1}. "
                f"Received: rows={rows!r}"
            )
        chosen[:] = False
        chosen[wanted.astype(int)] = True
    return ops.convert_to_tensor(
        chosen.reshape((batch, *[1] * (len(state.shape) - 1)))
    )


def _carried(model):
    """The state variables of each stateful layer, by the layer's path."""
    stateful = []
    for layer in model._flatten_layers():
        # What a layer made of stateful ones has is theirs.
        parts = layer._flatten_layers(include_self=False)
        if _states_of(layer) and not any(_states_of(part) for part in parts):
            stateful.append(layer)
    if not stateful:
        raise ValueError(
            "`model` must be built and have layers with stateful=True. A "
            "stream's states are its own: see `initial_states`. "
            f"Received: model={model!r}"
        )
    named = layer_names.by_path(stateful)
    return {path: _states_of(layer) for path, layer in named.items()}


def _states_of(layer):
    if not getattr(layer, "stateful", False):
        return []
    return keras.tree.flatten(getattr(layer, "states", None) or [])

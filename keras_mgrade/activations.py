"""Activations beside Keras's own."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_mgrade")
def positive(x: Any) -> Any:
    """`relu(x) + sigmoid(min(x, 0))`: the minGRU's positive candidate.

    It is `x + 0.5` from zero on and `sigmoid(x)` below, above zero
    everywhere.

    Example:

    >>> layer = keras_mgrade.MinGRU(8, activation="positive")

    Args:
        x: A tensor.

    Returns:
        A tensor of the same shape.

    Reference:
        [Feng et al., 2024](https://arxiv.org/abs/2410.01201)
    """
    return ops.relu(x) + ops.sigmoid(-ops.relu(-x))


def get(identifier: Any, argument: str = "activation") -> Callable[[Any], Any]:
    """`keras.activations.get`, which knows `"positive"` too."""
    if isinstance(identifier, str) and identifier == "positive":
        return positive
    try:
        return keras.activations.get(identifier)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be None, a function, the name of one of "
            "keras.activations, or 'positive'. "
            f"Received: {argument}={identifier!r}"
        ) from error

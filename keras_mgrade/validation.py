"""Checks of arguments where they enter."""

import operator
from typing import Any

import keras


def positive_integer(name: str, value: Any) -> int:
    """`value` as an int of at least 1, or a `ValueError` naming it."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < 1:
        raise ValueError(
            f"`{name}` must be an integer of at least 1. "
            f"Received: {name}={value!r}"
        )
    return number


def fraction(name: str, value: Any) -> float:
    """`value` within [0, 1), or a `ValueError` naming it."""
    if not 0 <= value < 1:
        raise ValueError(
            f"`{name}` is the fraction to drop, in [0, 1). "
            f"Received: {name}={value!r}"
        )
    return value


def one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    """`value` if it is one of `allowed`, or a `ValueError` listing them."""
    if value not in allowed:
        raise ValueError(
            f"`{name}` must be one of {', '.join(map(repr, allowed))}. "
            f"Received: {name}={value!r}"
        )
    return value


def not_yet(layer: str, **flags: bool) -> None:
    """Refuses flags of the Keras contract that are not there yet."""
    for name, value in flags.items():
        if value:
            raise ValueError(
                f"{layer} does not have `{name}` yet; leave it at "
                f"{name}=False. Received: {name}={value!r}"
            )


def full_precision(layer: keras.layers.Layer) -> None:
    """Refuses dtype policies that compute in less than float32."""
    if layer.compute_dtype not in ("float32", "float64"):
        raise ValueError(
            f"{type(layer).__name__} computes in float32 or float64 so far; "
            "give it dtype='float32' under a mixed precision policy. "
            f"Received: dtype={layer.dtype_policy.name!r}"
        )

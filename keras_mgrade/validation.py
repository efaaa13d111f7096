"""Checks of arguments where they enter."""

import math
import numbers
import operator
from typing import Any

import keras


def positive_integer(name: str, value: Any) -> int:
    """`value` as an int of at least 1, or a `ValueError` naming it."""
    return _integer(name, value, 1)


def seed(name: str, value: Any) -> int:
    """`value` as an int of at least 0, or a `ValueError` naming it."""
    return _integer(name, value, 0)


def _integer(name, value, lowest):
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < lowest:
        raise ValueError(
            f"`{name}` must be an integer of at least {lowest}. "
            f"Received: {name}={value!r}"
        )
    return number


def fraction(name: str, value: Any) -> float:
    """`value` within [0, 1), or a `ValueError` naming it."""
    if not (isinstance(value, numbers.Real) and 0 <= value < 1):
        raise ValueError(
            f"`{name}` is the fraction to drop, in [0, 1). "
            f"Received: {name}={value!r}"
        )
    return value


def number(name: str, value: Any, lowest: float) -> float:
    """`value` as it is, finite and at least `lowest`, or a `ValueError`."""
    if not (isinstance(value, numbers.Real) and lowest <= value < math.inf):
        raise ValueError(
            f"`{name}` must be a number of at least {lowest}. "
            f"Received: {name}={value!r}"
        )
    return value


def share(name: str, value: Any) -> float:
    """`value` within (0, 1], or a `ValueError` naming it."""
    if not (isinstance(value, numbers.Real) and 0 < value <= 1):
        raise ValueError(
            f"`{name}` is a share of the training, in (0, 1]. "
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


def only_forwards(layer: str, arguments: dict[str, Any]) -> None:
    """Refuses `go_backwards`, which `keras.layers.Bidirectional` asks for."""
    if "go_backwards" in arguments:
        raise ValueError(
            f"{layer} looks back in time and nowhere else: it cannot run "
            "backwards, nor in a Bidirectional layer. Put Bidirectional "
            "around a MinGRU, or flip the sequence yourself. "
            f"Received: go_backwards={arguments['go_backwards']!r}"
        )


def not_tf_keras(name: str, value: Any) -> None:
    """Refuses models, layers and tensors of Keras 2."""
    if type(value).__module__.split(".")[0] == "tf_keras":
        raise ValueError(
            f"`{name}` belongs to tf_keras, which is Keras 2; its layers do "
            "not mix with these. Build it with `import keras` (Keras 3) and "
            "unset TF_USE_LEGACY_KERAS. "
            f"Received: {name}={value!r}"
        )


def built_graph(name: str, value: Any) -> None:
    """Refuses what is not a Sequential or functional model with inputs."""
    not_tf_keras(name, value)
    if not getattr(value, "inputs", None):
        raise ValueError(
            f"`{name}` must be a Sequential or functional model whose input "
            "shape is known; start a Sequential with keras.Input((None, "
            "channels)), and write a subclassed model as a functional one. "
            f"Received: {name}={value!r}"
        )


def sequences(name: str, x: Any, mask: Any) -> None:
    """Refuses what Keras's own checks of rank and channels let through.

    Keras 2's symbolic tensors, sequences without a step, masks of another
    shape (PyTorch would take some of these and be wrong).
    """
    not_tf_keras(name, x)
    shape = tuple(x.shape)
    if shape[1] == 0:
        raise ValueError(
            f"`{name}` must have at least one time step. "
            f"Received: {name}.shape={shape}"
        )
    if mask is None:
        return
    found = tuple(mask.shape)
    if len(found) != 2 or any(
        None not in pair and pair[0] != pair[1]
        for pair in zip(found, shape, strict=False)
    ):
        raise ValueError(
            f"`mask` must be of shape (batch, time), {shape[:2]}. "
            f"Received: mask.shape={found}"
        )


def layers_of(model: Any, *kinds: type) -> list[Any]:
    """The built layers of some kinds within a model or layer, at least one."""
    parts = model._flatten_layers() if isinstance(model, keras.Layer) else ()
    layers = [part for part in parts if isinstance(part, kinds) and part.built]
    if not layers:
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"`model` must be built and have a {names} layer. "
            f"Received: model={model!r}"
        )
    return layers

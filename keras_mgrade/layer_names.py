"""One name for each layer of a model."""

from collections.abc import Iterable
from typing import Any


def by_path(layers: Iterable[Any]) -> dict[str, Any]:
    """The path of each layer -> the layer.

    Layers of two nested models may have one path: the second one's ends in
    `:2`.
    """
    found = {}
    for layer in layers:
        path, number = layer.path, 1
        while path in found:
            number += 1
            path = f"{layer.path}:{number}"
        found[path] = layer
    return found

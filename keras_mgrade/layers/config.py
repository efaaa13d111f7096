"""Configurations of layers: their arguments, serialised by name."""

from typing import Any

import keras

_SERIALIZE = {
    "activation": keras.activations.serialize,
    "initializer": keras.initializers.serialize,
    "regularizer": keras.regularizers.serialize,
    "constraint": keras.constraints.serialize,
}


def constructor_arguments(layer: Any, *names: str) -> dict[str, Any]:
    """The named arguments of `layer`, each an attribute of the same name.

    What a name ends in (`..._initializer`, `..._activation`, ...) says how
    its value is serialised; anything else is plain data.
    """
    config = {}
    for name in names:
        value = getattr(layer, name)
        serialize = _SERIALIZE.get(name.rsplit("_", 1)[-1])
        config[name] = value if serialize is None else serialize(value)
    return config

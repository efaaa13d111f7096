"""Which weights no weight decay should touch."""

from typing import Any

import keras

# What a decay towards zero would change is not how strong a tap is but where
# it reads, and how widely.
_PLACES = ("delays", "width")


def weights_without_decay(model: keras.Layer) -> list[Any]:
    """The trained delays and widths of a model: positions, not strengths.

    Weight decay pulls a weight towards zero, and a delay towards the current
    step, whatever the data say. Leave these out:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.DelayConv1D(4, 16),
    ... ])
    >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    >>> without = keras_mgrade.weights_without_decay(model)
    >>> optimizer.exclude_from_weight_decay(var_list=without)
    >>> [variable.name for variable in without]
    ['delays']

    Args:
        model: A built model or layer.

    Returns:
        A list of Keras variables, each trainable; `variable.value` is the
        backend's own tensor (on PyTorch the parameter).
    """
    return [
        variable
        for layer in model._flatten_layers()
        for variable in layer._trainable_variables
        if variable.trainable
        and hasattr(layer, "set_delays")
        and variable.name in _PLACES
    ]

"""A small classifier of sequences that runs as a stream."""

from typing import Any

import keras

from keras_mgrade import validation
from keras_mgrade.layers import MGrade, TemporalPooling


def mgrade_classifier(
    features: int,
    classes: int,
    units: int = 32,
    depth: int = 2,
    kernel_size: int = 8,
    max_delay: int = 64,
    pooling: str | None = None,
    time_constant: float | None = None,
    **changes: Any,
) -> keras.Sequential:
    """mGRADE layers and a Dense layer: a classifier for a microcontroller.

    `logits[t] = Dense(mgrade_L(... mgrade_1(x)))[t]`, an answer at every
    step, or one for the sequence where `pooling` says so.

    The first layer's delay line holds the raw channels, which costs least
    where these are fewer than `units`.

    Example:

    >>> model = keras_mgrade.models.mgrade_classifier(6, 4)
    >>> model(np.zeros((2, 100, 6), "float32")).shape
    (2, 100, 4)

    Args:
        features: Input channels.
        classes: Number of classes.
        units: Channels of each layer. Defaults to `32`.
        depth: Number of mGRADE layers. Defaults to `2`.
        kernel_size: Taps a channel. Defaults to `8`.
        max_delay: Longest delay, in steps. Defaults to `64`.
        pooling: `None` for an answer at every step; `"last"`, `"mean"` or
            `"exponential"` for one answer, see `TemporalPooling`. Defaults to
            `None`.
        time_constant: Of `"exponential"` pooling, in steps. Defaults to
            `None`.
        **changes: Arguments of `MGrade` that differ.

    Returns:
        A model from `(batch, time, features)` to logits,
        `(batch, time, classes)` or `(batch, classes)`.

    Raises:
        ValueError: If a size is not a positive integer, or `time_constant`
            is given without `pooling="exponential"`.
    """
    features = validation.positive_integer("features", features)
    classes = validation.positive_integer("classes", classes)
    units = validation.positive_integer("units", units)
    depth = validation.positive_integer("depth", depth)
    on_input = {"convolution_on_input": features < units}
    if not changes.get("use_convolution", True):
        on_input = {}
    layers = [
        MGrade(
            units,
            kernel_size,
            max_delay,
            **{**(on_input if i == 0 else {}), **changes},
            name=f"mgrade_{i}",
        )
        for i in range(depth)
    ]
    layers.append(keras.layers.Dense(classes, name="logits"))
    if pooling is not None:
        layers.append(
            TemporalPooling(pooling, time_constant=time_constant, name="pool")
        )
    elif time_constant is not None:
        raise ValueError(
            "`time_constant` belongs to pooling='exponential'. "
            f"Received: pooling=None, time_constant={time_constant!r}"
        )
    return keras.Sequential([keras.Input((None, features)), *layers])

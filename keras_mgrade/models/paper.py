"""The published mGRADE network and its two ablations.

An encoder, layers of delays, minGRU and MLP, a decoder at every step, and the
mean of its answers over time. What differs from the authors' code is listed
in `docs/paper.md`.
"""

from typing import Any

import keras

from keras_mgrade import validation
from keras_mgrade.layers import MGrade, TemporalPooling

# The switches of the published models of a task.
_TASKS: dict[str, dict[str, Any]] = {
    "pixels": {
        "activation": "relu",
        "output_activation": "relu",
        "gate_bias_initializer": "zeros",
    },
    "speech": {
        "activation": "gelu",
        "convolution_norm": True,
        "recurrence_norm": True,
        "recurrence_dense": True,
    },
}


def paper_mgrade(
    features: int,
    classes: int,
    units: int = 32,
    depth: int = 6,
    kernel_size: int = 8,
    max_delay: int = 32,
    task: str = "pixels",
    **changes: Any,
) -> keras.Sequential:
    """The published mGRADE classifier.

    `logits = mean_t Dense(mgrade_L(... mgrade_1(Dense(x))))[t]`, with the
    paper's Gaussian kernels (width 0.8, not normalised) and its positive
    candidate.

    Example:

    >>> model = keras_mgrade.models.paper_mgrade(1, 10, kernel_size=4)
    >>> model(np.zeros((2, 64, 1), "float32")).shape
    (2, 10)

    Args:
        features: Input channels.
        classes: Number of classes.
        units: Channels of each layer. Defaults to `32`.
        depth: Number of mGRADE layers. Defaults to `6`.
        kernel_size: Taps a channel. Defaults to `8`.
        max_delay: Longest delay, in steps. Defaults to `32`.
        task: `"pixels"` (sequential images: ReLU) or `"speech"` (raw
            waveforms: GELU, normalisation after convolution and recurrence,
            a Dense layer after the latter). Defaults to `"pixels"`.
        **changes: Arguments of `MGrade` that differ.

    Returns:
        A model from `(batch, time, features)` to logits `(batch, classes)`.

    Raises:
        ValueError: If `task` is unknown or a size is not a positive integer.

    Reference:
        [mGRADE](https://arxiv.org/abs/2507.01829)
    """
    features = validation.positive_integer("features", features)
    classes = validation.positive_integer("classes", classes)
    depth = validation.positive_integer("depth", depth)
    validation.one_of("task", task, tuple(_TASKS))
    arguments = {
        "interpolation": "gaussian",
        "candidate_activation": "positive",
        **_TASKS[task],
        **changes,
    }
    layers = [
        MGrade(units, kernel_size, max_delay, name=f"mgrade_{i}", **arguments)
        for i in range(depth)
    ]
    return keras.Sequential(
        [
            keras.Input((None, features)),
            keras.layers.Dense(units, name="encoder"),
            *layers,
            keras.layers.Dense(classes, name="decoder"),
            TemporalPooling("mean", name="mean"),
        ]
    )


def paper_min_gru(
    features: int, classes: int, **arguments: Any
) -> keras.Sequential:
    """The ablation without delays: what the minGRU does alone.

    Example:

    >>> model = keras_mgrade.models.paper_min_gru(1, 10)

    Args:
        features: Input channels.
        classes: Number of classes.
        **arguments: As for `paper_mgrade`.

    Returns:
        A model as `paper_mgrade` gives it.
    """
    arguments = {
        "use_convolution": False,
        "convolution_norm": False,
        **arguments,
    }
    return paper_mgrade(features, classes, **arguments)


def paper_convolution(
    features: int, classes: int, **arguments: Any
) -> keras.Sequential:
    """The ablation without minGRU: what the delays do alone.

    Example:

    >>> model = keras_mgrade.models.paper_convolution(1, 10)

    Args:
        features: Input channels.
        classes: Number of classes.
        **arguments: As for `paper_mgrade`.

    Returns:
        A model as `paper_mgrade` gives it.
    """
    arguments = {
        "use_recurrence": False,
        "recurrence_norm": False,
        "recurrence_dense": False,
        **arguments,
    }
    return paper_mgrade(features, classes, **arguments)

"""Pictures of what a model has learned: delays, kernels, time constants.

matplotlib is imported when a picture is drawn.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_mgrade import gate_memory, validation
from keras_mgrade.layers import DelayConv1D


def delays(model: Any, axes: Any = None) -> Any:
    """Where the taps of each layer stand, and how strong they are.

    One row of dots a channel, a dot a tap, its area the |weight|; taps of
    weight 0 are not drawn.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)), keras_mgrade.MGrade(4, 3, 16)
    ... ])
    >>> figure = keras_mgrade.plotting.delays(model)

    Args:
        model: A built model or layer with `DelayConv1D` layers.
        axes: matplotlib axes, one for each of these layers. Defaults to
            `None`: a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = validation.layers_of(model, DelayConv1D)
    figure, axes = _axes(axes, len(layers))
    for ax, layer in zip(axes, layers, strict=True):
        weights = np.abs(ops.convert_to_numpy(layer.kernel))
        rows = np.broadcast_to(np.arange(weights.shape[1]), weights.shape)
        area = 60 * weights / max(weights.max(), 1e-9)
        used = weights > 0
        ax.scatter(layer.delays[used], rows[used], s=area[used], alpha=0.7)
        ax.set(
            xlim=(-0.02 * layer.max_delay, 1.02 * layer.max_delay),
            xlabel="delay (steps)",
            ylabel="channel",
            title=layer.path,
        )
    return figure


def kernels(model: Any, axes: Any = None) -> Any:
    """The dense kernel of each layer: a row a channel, a column a delay.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)), keras_mgrade.MGrade(4, 3, 16)
    ... ])
    >>> figure = keras_mgrade.plotting.kernels(model)

    Args:
        model: A built model or layer with `DelayConv1D` layers.
        axes: matplotlib axes, one for each of these layers. Defaults to
            `None`: a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such layer.
    """
    layers = validation.layers_of(model, DelayConv1D)
    figure, axes = _axes(axes, len(layers))
    for ax, layer in zip(axes, layers, strict=True):
        kernel = ops.convert_to_numpy(layer.dense_kernel()).T
        largest = max(np.abs(kernel).max(), 1e-9)
        image = ax.imshow(
            kernel,
            aspect="auto",
            cmap="RdBu_r",
            vmin=-largest,
            vmax=largest,
            interpolation="nearest",
        )
        ax.set(xlabel="delay (steps)", ylabel="channel", title=layer.path)
        ax.figure.colorbar(image, ax=ax)
    return figure


def time_constants(model: Any, x: Any = None, axes: Any = None) -> Any:
    """How long the units of each MinGRU remember, on a log scale.

    Those of `keras_mgrade.time_constants`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)), keras_mgrade.MGrade(4, 3, 16)
    ... ])
    >>> figure = keras_mgrade.plotting.time_constants(model)

    Args:
        model: A built model or layer with `MinGRU` layers.
        x: Inputs of the model, `(batch, time, ...)`, whose mean gates are
            drawn. Defaults to `None`: the gates at an input of zeros, which
            are those of the biases.
        axes: matplotlib axes, one for each of these layers. Defaults to
            `None`: a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such layer.
    """
    found = gate_memory.time_constants(model, x)
    figure, axes = _axes(axes, len(found))
    for ax, (path, constants) in zip(axes, found.items(), strict=True):
        lowest, highest = constants.min() / 1.1, constants.max() * 1.1
        ax.hist(constants, bins=np.geomspace(lowest, highest, 21))
        ax.set(
            xscale="log",
            xlabel="time constant (steps)",
            ylabel="units",
            title=path,
        )
    return figure


def _axes(axes, count):
    if axes is None:
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(
            count, 1, figsize=(6, 2.4 * count + 0.6), squeeze=False
        )
        figure.set_layout_engine("constrained")
        return figure, list(axes[:, 0])
    axes = list(np.ravel(axes))
    if len(axes) != count:
        raise ValueError(
            f"`axes` must be {count} axes, one a layer. "
            f"Received: len(axes)={len(axes)}"
        )
    return axes[0].figure, axes

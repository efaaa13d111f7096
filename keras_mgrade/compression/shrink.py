"""A smaller dense model from one with channels and taps that do nothing."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import validation
from keras_mgrade.compression.channels import Channels
from keras_mgrade.graph_walk import graph_of, is_graph
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.mgrade import MGrade


def shrink(model: keras.Model) -> keras.Model:
    """Rebuilds a model without the channels and taps that do nothing.

    A channel that nothing reads any more (its rows are zero in every matrix)
    leaves with all that made it: columns of gates and candidates, taps,
    states. Taps of weight zero leave, and delay lines end at the longest
    delay that is left. The outputs stay the same but for rounding.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.MinGRU(8, return_sequences=True),
    ...     keras.layers.Dense(2),
    ... ])
    >>> kernel = model.layers[1].kernel
    >>> _ = kernel.assign(kernel * (np.arange(8) < 5)[:, None])
    >>> keras_mgrade.compression.shrink(model).layers[0].units
    5

    Args:
        model: A built Sequential or functional model, after `Pruning` with
            `structure="units"` or `"taps"`.

    Returns:
        A model of the same layers, smaller, and compiled as `model` is, with
        an optimizer that has not stepped.

    Raises:
        ValueError: If `model` is no such model.
    """
    validation.built_graph("model", model)
    channels = Channels(model)
    kept = _kept(channels)
    made = _clone(model, graph_of(model).input, channels, kept, {})
    pairs = zip(_leaves(model), _leaves(made), strict=True)
    for old, new in pairs:
        if isinstance(old, DelayConv1D) and id(old.kernel) in channels.axes:
            _copy_taps(old, new, channels, kept)
            continue
        for before, after in zip(_own(old), _own(new), strict=True):
            after.assign(_cut(before, channels, kept))
    if model.compiled:
        _compile_as(model, made)
    return made


def _compile_as(model, made):
    """Compiles `made` with the losses and metrics of `model`.

    Keras's own copy goes by JSON, which has no functions of one's own.
    """
    # What counts, and so must not be shared; losses keep nothing.
    kinds = (keras.Metric, keras.optimizers.Optimizer)
    words = {**model._compile_config.config, "optimizer": model.optimizer}
    made.compile(
        **keras.tree.map_structure(
            lambda x: (
                type(x).from_config(x.get_config())
                if isinstance(x, kinds)
                else x
            ),
            words,
        )
    )


def _clone(model, inputs, channels, kept, done):
    """A model of smaller layers, for inputs of the shapes of `inputs`.

    A layer that several models share, of which those in `done` were made, is
    one in all of them.
    """

    def smaller(layer):
        if id(layer) not in done:
            if is_graph(layer):
                sizes = [
                    _size(channels, kept, number)
                    for number in channels.inputs[id(layer)]
                ]
                shapes = [
                    keras.KerasTensor((*x.shape[:-1], size), dtype=x.dtype)
                    for x, size in zip(layer.inputs, sizes, strict=True)
                ]
                inner = keras.tree.pack_sequence_as(
                    graph_of(layer).input, shapes
                )
                done[id(layer)] = _clone(layer, inner, channels, kept, done)
            else:
                done[id(layer)] = _smaller(layer, channels, kept)
        return done[id(layer)]

    tensors = keras.tree.map_structure(
        lambda new, old: keras.Input(
            batch_shape=new.shape, dtype=new.dtype, name=old.name
        ),
        inputs,
        graph_of(model).input,
    )
    compiled, model.compiled = model.compiled, False
    try:
        return keras.models.clone_model(model, tensors, clone_function=smaller)
    finally:
        model.compiled = compiled


def _kept(channels: Channels) -> dict[int, np.ndarray]:
    """The channels that stay, by the numbers of their groups."""
    kept = {}
    for number, group in channels:
        read = np.zeros(group.size, bool)
        for kernel in group.reads:
            read |= np.any(ops.convert_to_numpy(kernel) != 0, axis=1)
        if not read.any():
            read[0] = True
        kept[number] = np.flatnonzero(read)
    for made in channels.layers.values():
        _keep_encoder(channels, made, kept)
    return kept


def _keep_encoder(channels, made, kept):
    """An MGrade has an encoder where widths differ: they must not meet."""
    if "input" not in made:
        return
    inner, outer = (channels.find(made[k]) for k in ("units", "input"))
    sizes = [
        len(kept.get(n, range(channels.group(n).size))) for n in (inner, outer)
    ]
    if inner == outer or sizes[0] != sizes[1]:
        return
    for number in (inner, outer):
        every = np.arange(channels.group(number).size)
        gone = np.setdiff1d(every, kept.get(number, every))
        if len(gone):
            kept[number] = np.sort(np.append(kept[number], gone[0]))
            return


def _size(channels, kept, number):
    number = channels.find(number)
    if number in kept:
        return len(kept[number])
    return channels.group(number).size


def _smaller(layer: Any, channels: Channels, kept: dict) -> Any:
    """A new layer of the sizes that are left."""
    config = layer.get_config()
    made = channels.layers.get(id(layer), {})
    if "units" in made:
        config["units"] = _size(channels, kept, made["units"])
    if "hidden" in made:
        hidden = _size(channels, kept, made["hidden"])
        config["expansion"] = hidden / config["units"]
    taps = layer
    if isinstance(layer, MGrade):
        taps = layer.convolution
    if isinstance(taps, DelayConv1D) and id(taps.kernel) in channels.axes:
        table = _taps_left(taps, channels, kept)
        config["kernel_size"] = len(table[0])
        if taps.interpolation != "gaussian":  # Those reach beyond.
            config["max_delay"] = max(1, int(np.ceil(table[1].max())))
        config["delay_initializer"] = "zeros"
    return type(layer).from_config(config)


def _taps_left(layer, channels, kept):
    """Weights and delays of the taps that are left, and which they were.

    Each `(taps, channels)`.
    """
    weights = _cut(layer.kernel, channels, kept)
    stay = _channels_of(layer, channels, kept)
    delays = np.asarray(layer.delays)[:, stay]
    used = weights != 0
    order = np.argsort(~used, axis=0, kind="stable")
    count = max(1, int(used.sum(axis=0).max()))
    weights = np.take_along_axis(weights, order, axis=0)[:count]
    delays = np.take_along_axis(delays, order, axis=0)[:count]
    return weights, np.where(weights != 0, delays, 0), order[:count]


def _channels_of(layer, channels, kept):
    number, _ = channels.axes[id(layer.kernel)][1]
    number = channels.find(number)
    return kept.get(number, np.arange(channels.group(number).size))


def _copy_taps(old, new, channels, kept):
    weights, delays, order = _taps_left(old, channels, kept)
    new.kernel.assign(weights)
    new.set_delays(delays)
    if old.interpolation == "gaussian":
        stay = _channels_of(old, channels, kept)
        widths = np.asarray(old.widths)[:, stay]
        new.set_widths(np.take_along_axis(widths, order, axis=0))
    if old.use_bias:
        new.bias.assign(_cut(old.bias, channels, kept))


def _cut(variable, channels, kept):
    """The values of a variable for the channels that are left."""
    values = ops.convert_to_numpy(variable)
    for axis, (group, times) in channels.axes.get(id(variable), {}).items():
        stay = kept.get(channels.find(group))
        if stay is None:
            continue
        size = values.shape[axis] // times
        places = np.concatenate([stay + k * size for k in range(times)])
        values = np.take(values, places, axis=axis)
    return values


def _leaves(model):
    """Layers with weights of their own, in one order for like models."""
    return [layer for layer in model._flatten_layers() if _own(layer)]


def _own(layer):
    """The weights of a layer that no layer inside of it has."""
    inner = {id(v) for part in layer._layers for v in part.weights}
    return [v for v in layer.weights if id(v) not in inner]

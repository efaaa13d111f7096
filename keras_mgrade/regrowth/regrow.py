"""One move of regrowth: probe, place, write, restart the moments."""

import functools
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import layer_names
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.regrowth import optimizer_slots
from keras_mgrade.regrowth.placement import place, weakest_taps
from keras_mgrade.regrowth.probe import Probe


class Regrowth:
    """Regrowth of one model's taps, its compiled probe kept between moves.

    Args:
        model: A built model with `DelayConv1D` layers (those in `MGrade`
            count) of integer or linear taps.
        loss: As for `regrow_delays`. Defaults to `None`.
        optimizer: As for `regrow_delays`. Defaults to `None`.
    """

    def __init__(
        self, model: keras.Model, loss: Any = None, optimizer: Any = None
    ):
        self.layers = regrowing_layers(model)
        self._paths = list(layer_names.by_path(self.layers))
        self.optimizer = optimizer
        if optimizer is not None:
            optimizer_slots.check(optimizer)
        self._probe = Probe(model, self.layers, loss)

    def move(
        self, batches: Iterable[Any], layers: list[DelayConv1D] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Moves the weakest tap of every channel that has a better place.

        Args:
            batches: Tuples `(x, y[, sample_weight])`.
            layers: Which of the layers may move now. Defaults to `None`,
                which is all.

        Returns:
            `(moved, settled)`: the path of each layer -> which taps moved,
            `(taps, channels)`, and which channels had no better place. A
            layer whose gradient was not finite is not in `settled`.
        """
        scale = 1.0
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            scale = self.optimizer.initial_scale
            if self.optimizer.built:
                scale = ops.convert_to_numpy(self.optimizer.dynamic_scale)
        found = self._probe(batches, float(scale))
        moved, settled = {}, {}
        for path, layer, measured in zip(
            self._paths, self.layers, found, strict=True
        ):
            if layers is None or layer in layers:
                moved[path], known = self._move_in(layer, *measured)
                if np.isfinite(measured[0]).all():
                    settled[path] = known
        return moved, settled

    def _move_in(self, layer, gradient, autocorrelation):
        kernel = ops.convert_to_numpy(layer.kernel).copy()
        delays = layer.delays
        price = getattr(layer.delay_regularizer, "price_of_a_step", 0.0)
        weakest = weakest_taps(kernel)
        best, moves, settled = place(
            kernel, delays, gradient, autocorrelation, price
        )
        channels = np.flatnonzero(moves)
        moved = np.zeros(kernel.shape, bool)
        moved[weakest[channels], channels] = True
        if moved.any():
            delays[weakest[channels], channels] = best[channels]
            layer.set_delays(delays)
            layer.kernel.assign(np.where(moved, 0, kernel))
            if self.optimizer is not None:
                for variable in (layer.kernel, layer._delays):
                    if variable.trainable:
                        optimizer_slots.restart(self.optimizer, variable, moved)
        return moved, settled


def regrowing_layers(model: keras.Model) -> list[DelayConv1D]:
    """The layers of a model whose taps may jump: integer or linear, trained."""
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, DelayConv1D)
        and layer.interpolation != "gaussian"
        and layer.built
        and layer.kernel.trainable
        and layer.trainable
    ]
    if not layers:
        raise ValueError(
            "`model` must be built and have a DelayConv1D (or MGrade) layer "
            "with interpolation='integer' or 'linear' that is trained. "
            f"Received: model={model!r}"
        )
    return layers


# One object a name: its compiled probe is kept.
_named = functools.cache(keras.losses.get)

_KEPT = weakref.WeakKeyDictionary()


def kept_regrowth(model: keras.Model, loss: Any, optimizer: Any) -> Regrowth:
    """The `Regrowth` of the last call with the same arguments, if any.

    A compiled probe is worth keeping, from one `fit` to the next as well.
    """
    layers = tuple(
        (id(layer), layer.interpolation) for layer in regrowing_layers(model)
    )
    # A model that is compiled anew has another loss.
    compiled = id(getattr(model, "_compile_loss", None))
    key = (id(loss), id(optimizer), compiled, layers)
    if model not in _KEPT or _KEPT[model][0] != key:
        # The objects live on with their ids, which else may be used again.
        made = Regrowth(model, loss, optimizer)
        _KEPT[model] = key, made, getattr(model, "_compile_loss", None)
    return _KEPT[model][1]


def regrow_delays(
    model: keras.Model,
    data: Any,
    loss: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
) -> dict[str, np.ndarray]:
    """Moves the weakest tap of every channel to where the loss wants one.

    For loops that are not `fit`; with `fit` use `callbacks.RegrowDelays`. In
    each channel the tap with the smallest weight (of zero it has left, by
    pruning, and stays) goes to the whole delay at
    which the loss gradient of a dense kernel is largest, at least one step
    from every other tap, and starts there from a weight of zero. Call it at
    even intervals during the first three quarters of training, about twice a
    tap in all.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 1)),
    ...     keras_mgrade.DelayConv1D(2, 16, "integer", name="taps"),
    ... ], name="model")
    >>> x = np.random.default_rng(0).normal(size=(8, 64, 1))
    >>> y = np.roll(x, 11, axis=1)
    >>> loss = keras.losses.MeanSquaredError()
    >>> moved = keras_mgrade.regrow_delays(model, (x, y), loss)
    >>> [(path, int(array.sum())) for path, array in moved.items()]
    [('model/taps', 1)]

    Args:
        model: A built model with `DelayConv1D` layers (those in `MGrade`
            count) of integer or linear taps; frozen layers are left alone.
        data: One batch `(x, y)` or `(x, y, sample_weight)`, or a list of
            batches.
        loss: A Keras loss or its name, or a function `loss(y, y_pred)` of
            data without sample weights. Give the same object at each call:
            its compiled probe is kept. Defaults to `None`, the loss that the
            model was compiled with.
        optimizer: A Keras optimiser whose moments of the moved taps restart.
            Defaults to `None`: restart them yourself, where the returned
            arrays are true.

    Returns:
        The path of each layer -> which taps moved, boolean,
        `(kernel_size, channels)`.

    Raises:
        ValueError: If no layer can regrow, or the optimiser is not known.

    Reference:
        RigL, [Evci et al., 2020](https://arxiv.org/abs/1911.11134); DEEP R,
        [Bellec et al., 2018](https://arxiv.org/abs/1711.05136); on delays of
        spiking networks, [Meszaros et al.,
        2024](https://arxiv.org/abs/2407.18917)
    """
    batches = data if isinstance(data, list) else [data]
    if not all(isinstance(batch, tuple) for batch in batches):
        raise ValueError(
            "`data` must be a batch (x, y) or (x, y, sample_weight), a tuple, "
            f"or a list of batches. Received: data={data!r}"
        )
    if isinstance(loss, str):
        loss = _named(loss)
    moved, _ = kept_regrowth(model, loss, optimizer).move(batches)
    return moved

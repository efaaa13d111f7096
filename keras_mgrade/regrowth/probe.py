"""The loss gradient of a dense kernel: what a tap at each delay would do."""

import contextlib
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.ops import kernels
from keras_mgrade.regrowth.placement import weakest_taps


class Probe:
    """Differentiates a model's loss at kernels of zeros on every delay.

    It runs in a scope that keeps all that the model would write (seeds,
    statistics, states, metrics), so every variable stays as it is.

    Args:
        model: A built model; compiled, unless `loss` is given.
        layers: The `DelayConv1D` layers to look at.
        loss: `loss(y, y_pred) -> scalar or one value a sample`. Defaults to
            `None`, which is the loss of `fit`, with sample weights and
            added losses.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: list[DelayConv1D],
        loss: Callable[[Any, Any], Any] | None = None,
    ):
        # Weakly: what is kept for a model must not keep it alive.
        self._model = weakref.ref(model)
        self.layers = layers
        self.loss = loss
        self._gradients = kernels.compile_gradient(self._loss_of)

    def __call__(
        self, batches: Iterable[Any], scale: float = 1.0
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Gradient and input's autocorrelation for each layer.

        Args:
            batches: Tuples as `fit` takes them: `(x, y[, sample_weight])`.
            scale: What the loss is multiplied by while it is differentiated.
                Defaults to `1.0`.

        Returns:
            For each layer two float64 arrays, `(max_delay + 1, channels)`,
            means over the batches. The gradient is taken without the weakest
            tap of each channel.
        """
        zeros = [
            ops.zeros(
                (layer.max_delay + 1, layer.kernel.shape[1]),
                dtype=layer.state_dtype,
            )
            for layer in self.layers
        ]
        values = self._values()
        # A tensor: TensorFlow would trace anew for every Python number.
        factor = ops.convert_to_tensor(scale, "float32")
        gradients = [0.0 for _ in self.layers]
        autocorrelations, count = list(gradients), 0
        for batch in batches:
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(
                keras.tree.map_structure(_as_tensor, batch)
            )
            found, seen = self._gradients(
                zeros, values, x, y, sample_weight, factor
            )
            _add(gradients, found)
            _add(autocorrelations, seen)
            count += 1
        if not count:
            raise ValueError(
                "`data` must hold at least one batch. Received: data=[]"
            )
        return [
            (gradient / (count * scale), autocorrelation / count)
            for gradient, autocorrelation in zip(
                gradients, autocorrelations, strict=True
            )
        ]

    def _values(self):
        """Of all variables, the weakest tap of each channel left out.

        What the others lack is then what the loss asks for: also the tap's
        own place, if that is where it is needed.
        """
        without = {}
        for layer in self.layers:
            kernel = ops.convert_to_numpy(layer.kernel).copy()
            weakest = weakest_taps(kernel)
            kernel[weakest, np.arange(kernel.shape[1])] = 0
            without[id(layer.kernel)] = ops.convert_to_tensor(kernel)
        return [without.get(id(v), v.value) for v in self._model().variables]

    def _loss_of(self, dense, values, x, y, sample_weight, scale):
        with contextlib.ExitStack() as stack:
            model = self._model()
            mapping = zip(model.variables, values, strict=True)
            stack.enter_context(
                keras.StatelessScope(
                    state_mapping=list(mapping), collect_losses=True
                )
            )
            seen = [
                stack.enter_context(layer.probing(kernel))
                for layer, kernel in zip(self.layers, dense, strict=True)
            ]
            flags = {"training": True} if model._call_has_training_arg else {}
            y_pred = model(x, **flags)
            if self.loss is None:
                own = type(model).compute_loss is not keras.Model.compute_loss
                if not (model.compiled or model.losses or own):
                    raise ValueError(
                        "`loss` is needed for a model that is not compiled. "
                        "Received: loss=None"
                    )
                loss = model.compute_loss(x, y, y_pred, sample_weight)
            else:
                loss = self._own_loss(y, y_pred, sample_weight)
                loss = loss + sum(model.losses)
            # A layer that is called twice has seen two inputs, one that is
            # not called none.
            seen = [
                sum(inputs, ops.zeros_like(kernel))
                for inputs, kernel in zip(seen, dense, strict=True)
            ]
            return ops.cast(loss, "float32") * scale, seen

    def _own_loss(self, y, y_pred, sample_weight):
        if isinstance(self.loss, keras.losses.Loss):
            return self.loss(y, y_pred, sample_weight=sample_weight)
        if sample_weight is not None:
            raise ValueError(
                "`loss` must be a keras.losses.Loss where `data` has sample "
                f"weights; a function cannot take them. "
                f"Received: loss={self.loss!r}"
            )
        return ops.mean(self.loss(y, y_pred))


def _as_tensor(x):
    return None if x is None else ops.convert_to_tensor(x)


def _add(sums, arrays):
    for i, array in enumerate(arrays):
        sums[i] = sums[i] + ops.convert_to_numpy(array).astype("float64")

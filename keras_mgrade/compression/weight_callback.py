"""What callbacks that set weights during `fit` share."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_mgrade import validation
from keras_mgrade.callbacks.scheduled import sync


class WeightCallback(keras.callbacks.Callback):
    """Looks at a model's weights when `fit` has found its own, and not before.

    Args:
        layers: Names of layers, or layers, or `None` for all.

    Raises:
        ValueError: If `layers` is nothing like that.
    """

    def __init__(self, layers: Sequence[Any] | None):
        super().__init__()
        self.layers = _checked(layers)
        self._begun = False

    def begin(self) -> None:
        """Finds what of `self.model` is meant."""
        raise NotImplementedError

    def set_model(self, model):
        # Of tf_keras's `fit`, which asks for it before anything else.
        validation.not_tf_keras("model", model)
        super().set_model(model)

    def on_train_begin(self, logs=None):
        self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        # Not at the training's begin: `BackupAndRestore` loads weights then.
        if not self._begun:
            sync(self.model)
            self.begin()
            self._begun = True


def _checked(layers: Any) -> Any:
    if layers is None:
        return None
    kinds = (str, keras.Layer)
    if isinstance(layers, kinds) or not isinstance(layers, Sequence):
        validation.not_tf_keras("layers", layers)
        raise ValueError(
            "`layers` must be a list of layers or of their names, or None for "
            f"all. Received: layers={layers!r}"
        )
    for layer in layers:
        validation.not_tf_keras("layers", layer)
        if not isinstance(layer, kinds):
            raise ValueError(
                "`layers` must be layers of the model or their names. "
                f"Received: layers={list(layers)!r}"
            )
    return list(layers)

"""What callbacks with a schedule share: where in the training they are."""

import weakref

import keras

from keras_mgrade import validation


def sync(model):
    """On JAX `fit` holds the variables; this writes them back."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


class Scheduled(keras.callbacks.Callback):
    """Counts the steps of a training, over several calls of `fit` if told."""

    def __init__(self, total_steps):
        super().__init__()
        if total_steps is not None:
            validation.positive_integer("total_steps", total_steps)
        self.total_steps = total_steps
        self.steps_done = 0
        self._total = None
        self._begun = False
        self._trained = None

    def on_train_begin(self, logs=None):
        other = self._trained is None or self._trained() is not self.model
        if self.total_steps is None or other:
            self._total, self._begun = None, False
            self._trained = weakref.ref(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        if self._total is None:
            steps = self.params.get("steps")
            if self.total_steps is None and not steps:
                raise ValueError(
                    "`total_steps` is needed where `fit` does not know "
                    "its number of steps (a generator). "
                    "Received: total_steps=None"
                )
            self._total = self.total_steps or steps * self.params["epochs"]
            # A training that goes on from an epoch has had what was due.
            self.steps_done = (steps or 0) * epoch
        self._epoch_start = self.steps_done
        if self.model.built:
            self._begin()

    def on_train_batch_end(self, batch, logs=None):
        # TensorFlow builds a model without a given input in its first step.
        self._begin()
        self.steps_done = self._epoch_start + batch + 1
        self.step()

    def _begin(self):
        if not self._begun:
            self.begin(self._total)
            self._begun = True

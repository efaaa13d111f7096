"""What callbacks with a schedule share: where in the training they are."""

import keras

from keras_mgrade import validation


class Scheduled(keras.callbacks.Callback):
    """Counts the steps of a training, over several calls of `fit` if told."""

    def __init__(self, total_steps):
        super().__init__()
        if total_steps is not None:
            validation.positive_integer("total_steps", total_steps)
        self.total_steps = total_steps
        self.steps_done = 0
        self._begun = False

    def on_train_begin(self, logs=None):
        if self.total_steps is None:
            self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._begun:
            total, self.steps_done = self.total_steps, 0
            if total is None:
                steps = self.params.get("steps")
                if not steps:
                    raise ValueError(
                        "`total_steps` is needed where `fit` does not know "
                        "its number of steps (a generator). "
                        "Received: total_steps=None"
                    )
                total = steps * self.params["epochs"]
                # A training that goes on from an epoch has had what was due.
                self.steps_done = steps * epoch
            self.begin(total)
            self._begun = True
        self._epoch_start = self.steps_done

    def on_train_batch_end(self, batch, logs=None):
        self.steps_done = self._epoch_start + batch + 1
        self.step()

    def sync(self):
        """On JAX `fit` holds the variables; this writes them back."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()

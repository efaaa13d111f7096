"""Delays, widths and time constants of a training, for TensorBoard."""

import os
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import gate_memory, layer_names, validation
from keras_mgrade.callbacks.scheduled import sync
from keras_mgrade.layers import DelayConv1D, MinGRU


class TensorBoardTaps(keras.callbacks.Callback):
    """Writes what delays and gates are, epoch by epoch, for TensorBoard.

    For each `DelayConv1D` (those in `MGrade` count) histograms of its delays
    in steps, taps of weight 0 left out, of its kernel and of the widths of
    Gaussians, and the values of its delay line in use; for each `MinGRU` a
    histogram of its time constants in steps. Epoch 0 is what the training
    starts from, where the model is built by then. Values that are not finite
    are left out. Losses and metrics are left to `keras.callbacks.TensorBoard`,
    which may write into the same folder.

    Needs the package `tensorboardX` (`pip install
    "keras_mgrade[tensorboard]"`), and neither TensorFlow nor PyTorch.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)), keras_mgrade.MGrade(4, 3, 16)
    ... ])
    >>> model.compile("adam", "mse")
    >>> x = np.zeros((8, 30, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     taps = keras_mgrade.callbacks.TensorBoardTaps(folder)
    ...     history = model.fit(x, x[..., :1], verbose=0, callbacks=[taps])

    Args:
        log_dir: Folder of the event files, made if need be.
        histogram_freq: Positive integer, epochs between two writings.
            Defaults to `1`.

    Raises:
        ImportError: Without `tensorboardX`.
        ValueError: If the model has neither of these layers.
    """

    def __init__(self, log_dir: str | os.PathLike, histogram_freq: int = 1):
        super().__init__()
        self.log_dir = os.fspath(log_dir)
        self.histogram_freq = validation.positive_integer(
            "histogram_freq", histogram_freq
        )
        self._writer_class = _import_writer()
        self._writer = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._layers = None
        self._writer = self._writer_class(self.log_dir)

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if epoch == 0 and self.model.built:
            self._write(0)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if (epoch + 1) % self.histogram_freq == 0:
            self._write(epoch + 1)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._writer.close()

    def _write(self, epoch):
        sync(self.model)
        if self._layers is None:
            kinds = (DelayConv1D, MinGRU)
            layers = validation.layers_of(self.model, *kinds)
            self._layers = layer_names.by_path(layers)
        for path, layer in self._layers.items():
            if isinstance(layer, MinGRU):
                (constants,) = gate_memory.time_constants(layer).values()
                self._histogram(path, "time_constants", constants, epoch)
                continue
            kernel = ops.convert_to_numpy(layer.kernel)
            delays = layer.delays[kernel != 0]
            self._histogram(path, "delays", delays, epoch)
            self._histogram(path, "kernel", kernel, epoch)
            if layer.interpolation == "gaussian":
                self._histogram(path, "widths", layer.widths, epoch)
            in_use = float(np.sum(layer.longest_delays()))
            self._writer.add_scalar(f"{path}/delay_line_in_use", in_use, epoch)
        self._writer.flush()

    def _histogram(self, path, name, values, epoch):
        values = values[np.isfinite(values)]
        if values.size:
            self._writer.add_histogram(f"{path}/{name}", values, epoch)


def _import_writer():
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "TensorBoardTaps needs tensorboardX: "
            'pip install "keras_mgrade[tensorboard]"'
        ) from error
    return SummaryWriter

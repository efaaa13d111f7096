"""Operators with weights: layers of their own, with rounded weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade.compression.fake_quantize import SMALLEST, FakeQuantize
from keras_mgrade.compression.lines import Window
from keras_mgrade.compression.quantizers import Quantizer
from keras_mgrade.export.moments import taps_of
from keras_mgrade.layers.pointwise import as_one_matrix
from keras_mgrade.ops.delay_taps import tapped_sum


class Product(keras.layers.Layer):
    """`x @ kernel + bias`, the kernel rounded.

    Args:
        kernel: As in the file, in float.
        biases: `(outputs,)` each, in float: none, one, or several if
            operators with one kernel add different ones.
        quantizer: How the kernel is rounded, or `None`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        kernel: np.ndarray,
        biases: list[np.ndarray],
        quantizer: Quantizer | None,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self._start = self.from_file(kernel), biases
        self.rounding = None
        if quantizer is not None:
            self.rounding = FakeQuantize(quantizer, name="rounding")

    def from_file(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel with its channels last."""
        return np.moveaxis(kernel, 0, -1)

    def to_file(self, kernel: np.ndarray) -> np.ndarray:
        """The way back."""
        return np.moveaxis(kernel, -1, 0)

    def build(self, input_shape=None):
        kernel, biases = self._start
        constant = keras.initializers.Constant
        self.kernel = self.add_weight(
            name="kernel", shape=kernel.shape, initializer=constant(kernel)
        )
        self.biases = [
            self.add_weight(
                name="bias", shape=bias.shape, initializer=constant(bias)
            )
            for bias in biases
        ]
        if self.rounding is not None:
            self.rounding.build(kernel.shape)
            # As the first batch will find it.
            low, high = _symmetric(kernel, self.rounding.quantizer)
            self.rounding.minimum.assign(low)
            self.rounding.maximum.assign(high)
        self.built = True

    def rounded(self, training: bool) -> Any:
        kernel = ops.convert_to_tensor(self.kernel)
        if self.rounding is None:
            return kernel
        return self.rounding(kernel, training=training)

    def apply(
        self, x: Any, bias: int | None, training: bool, step: Any = None
    ) -> Any:
        """Of `(batch, time, inputs)`, or of a window.

        Args:
            x: What the operator reads.
            bias: Which of the biases it adds; `None` for none.
            training: Whether ranges follow what comes.
            step: How far the values of what it reads lie apart; `None` in
                float.
        """
        y = self.multiply(x, training)
        return y if bias is None else y + self._rounded_bias(bias, step)

    def _rounded_bias(self, bias, step):
        """A bias as the file's integers give it, in steps of the products."""
        exact = ops.convert_to_tensor(self.biases[bias])
        if self.rounding is None or step is None:
            return exact
        steps = self.rounding.step() * step
        # A channel of zeros has no steps, and a bias all the same.
        steps = ops.maximum(steps, ops.abs(exact) / 2.0**30 + SMALLEST**2)
        rounded = ops.round(exact / steps) * steps
        return exact + ops.stop_gradient(rounded - exact)

    def multiply(self, x: Any, training: bool) -> Any:
        """Without a bias."""
        kernel = self.rounded(training)
        return as_one_matrix(lambda rows: ops.matmul(rows, kernel), x)


class Taps(Product):
    """A convolution channel by channel, of the weights that are not zero."""

    def from_file(self, kernel):
        places, counts = taps_of(kernel)
        rows = kernel.reshape(-1, kernel.shape[-1])
        self._shape = kernel.shape
        self.places = places.T
        used = np.arange(len(self.places))[:, None] < counts
        self._used = used.astype("float32")
        return np.take_along_axis(rows, self.places, axis=0)

    def to_file(self, kernel):
        rows = np.zeros((int(np.prod(self._shape[:-1])), self._shape[-1]))
        np.put_along_axis(rows, self.places, kernel * self._used, axis=0)
        return rows.reshape(self._shape)

    def rounded(self, training):
        # A place that only fills up the table is none of the channel's taps.
        return super().rounded(training) * ops.convert_to_tensor(self._used)

    def multiply(self, window: Window, training: bool) -> Any:
        channels = window.delays.shape[1]
        several = self.kernel.shape[1] // channels
        delays = np.repeat(window.delays, several, axis=1)
        x = window.x
        if several > 1:
            x = ops.repeat(x, several, axis=-1)
        return tapped_sum(
            x,
            self.rounded(training),
            ops.convert_to_tensor(
                np.take_along_axis(delays, self.places, axis=0), "int32"
            ),
            window.longest,
        )


class Convolution(Product):
    """A convolution over all channels: a product for each row of a window."""

    def multiply(self, window: Window, training: bool) -> Any:
        kernel = self.rounded(training)
        y = 0.0
        for row in range(len(window.delays)):
            part = kernel[row, 0]
            y = y + as_one_matrix(
                lambda rows, part=part: ops.matmul(rows, part), window.read(row)
            )
        return y


KINDS = {
    "FULLY_CONNECTED": Product,
    "DEPTHWISE_CONV_2D": Taps,
    "CONV_2D": Convolution,
}


def _symmetric(kernel, quantizer):
    axes = tuple(range(kernel.ndim - 1)) if quantizer.per_axis else None
    largest = np.abs(kernel).max(axis=axes)
    return -largest, largest

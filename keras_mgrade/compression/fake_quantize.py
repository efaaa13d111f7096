"""Rounding in training, to what an integer tensor of the device can hold."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import validation
from keras_mgrade.compression import quantizers

# As in tfmot, where it cannot be chosen.
DECAY = 0.999
# A range of no width would divide by zero.
SMALLEST = 1e-9


@keras.saving.register_keras_serializable("keras_mgrade")
class FakeQuantize(keras.layers.Layer):
    """Rounds to the values that integers of a few bits can stand for.

    `y = scale * round(clip(x, minimum, maximum) / scale)`, with the scale and
    the zero point that the range gives. The gradient passes where `x` is
    within the range. In training the range follows what comes, as the
    quantizer says. On TensorFlow tfmot's quantizer does all of it; on JAX and
    PyTorch a twin with the same numbers (up to 8 bits but for float rounding,
    at 16 one step apart now and then).

    Example:

    >>> layer = keras_mgrade.compression.FakeQuantize(
    ...     {"kind": "MovingAverageQuantizer"}, minimum=-1.0, maximum=1.0
    ... )
    >>> y = layer(np.array([0.3, 2.0], "float32"))

    Args:
        quantizer: One of `tfmot.quantization.keras.quantizers`, or a
            dictionary of its `kind` (the name of its class) and arguments.
        minimum: Where the range starts before training, a number or one for
            each channel. Defaults to `-6.0`.
        maximum: Where it ends. Defaults to `6.0`.
        follows: Whether training moves the range. Defaults to `True`.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        Any; channels are the last axis.

    Output shape:
        As the input.

    Raises:
        ValueError: If the quantizer is none of those known, or a range is
            none.
    """

    def __init__(
        self,
        quantizer: Any,
        minimum: Any = -6.0,
        maximum: Any = 6.0,
        follows: bool = True,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        if self.compute_dtype != "float32":
            raise ValueError(
                "`dtype` must be float32: tfmot rounds in no other. "
                f"Received: dtype={kwargs['dtype']!r}"
            )
        self.quantizer = quantizers.read("quantizer", quantizer)
        self.follows = validation.one_of("follows", follows, (False, True))
        self._start = [
            _numbers("minimum", minimum),
            _numbers("maximum", maximum),
        ]
        if not np.all(self._start[0] <= self._start[1]):
            raise ValueError(
                "`minimum` must not lie above `maximum`. "
                f"Received: minimum={minimum!r}, maximum={maximum!r}"
            )
        self._engine = None
        if keras.backend.backend() == "tensorflow":
            self._engine = self.quantizer.to_tfmot()

    def build(self, input_shape):
        shape = (input_shape[-1],) if self.quantizer.per_axis else ()
        for name, start in zip(
            ("minimum", "maximum"), self._start, strict=True
        ):
            if start.shape not in ((), shape):
                raise ValueError(
                    f"`{name}` must be one number, or with `per_axis` one for "
                    f"each of the channels, {shape}. "
                    f"Received: {name}={start.tolist()!r}"
                )
        self.minimum, self.maximum = (
            self.add_weight(
                name=name,
                shape=shape,
                initializer=keras.initializers.Constant(start),
                trainable=False,
            )
            for name, start in zip(
                ("minimum", "maximum"), self._start, strict=True
            )
        )

    def call(self, x, training=None):
        training = bool(training) and self.follows
        if self._engine is not None:
            import tensorflow as tf

            # tfmot asks for shapes in a way that Keras's variables lack.
            x = tf.convert_to_tensor(x)
            ranges = {
                "min_var": self.minimum.value,
                "max_var": self.maximum.value,
            }
            if not self.quantizer.per_axis:
                return self._engine(x, training, ranges)
            # It has ranges a channel for 2 and 4 axes only.
            rows = tf.reshape(x, (-1, x.shape[-1]))
            rows = self._engine(rows, training, ranges)
            return tf.ensure_shape(tf.reshape(rows, tf.shape(x)), x.shape)
        if training:
            # Not the variables: PyTorch's gradient would see a later call.
            low, high = self._followed(x)
            self.minimum.assign(low)
            self.maximum.assign(high)
        else:
            low = ops.convert_to_tensor(self.minimum)
            high = ops.convert_to_tensor(self.maximum)
        return keras.quantizers.fake_quant_with_min_max_vars(
            x,
            low,
            ops.maximum(high, low + SMALLEST),
            num_bits=self.quantizer.num_bits,
            narrow_range=self.quantizer.narrow_range,
            axis=-1 if self.quantizer.per_axis else None,
        )

    def _followed(self, x):
        """The range after a batch."""
        spec = self.quantizer
        axes = tuple(range(len(x.shape) - 1)) if spec.per_axis else None
        x = ops.stop_gradient(x)
        low, high = ops.min(x, axis=axes), ops.max(x, axis=axes)
        if spec.symmetric:
            levels = 1 << spec.num_bits
            ratio = 1.0 if spec.narrow_range else (levels - 2) / levels
            low, high = (
                ops.minimum(low, -high / ratio),
                ops.maximum(high, -low * ratio),
            )
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        if spec.kind == "AllValuesQuantizer":
            return (
                ops.minimum(self.minimum, low),
                ops.maximum(self.maximum, high),
            )
        if spec.kind == "MovingAverageQuantizer":
            return tuple(
                before - (before - now) * (1.0 - DECAY)
                for before, now in ((self.minimum, low), (self.maximum, high))
            )
        return low, high

    def step(self) -> Any:
        """How far the values that it rounds to lie apart."""
        spec = self.quantizer
        gaps = (1 << spec.num_bits) - (2 if spec.narrow_range else 1)
        low = ops.convert_to_tensor(self.minimum)
        return (ops.convert_to_tensor(self.maximum) - low) / gaps

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "quantizer": vars(self.quantizer),
            "minimum": self._start[0].tolist(),
            "maximum": self._start[1].tolist(),
            "follows": self.follows,
        }


def _numbers(name: str, value: Any) -> np.ndarray:
    """One number, or one for each channel."""
    try:
        numbers = np.asarray(ops.convert_to_numpy(value), "float32")
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.ndim > 1 or not np.all(np.isfinite(numbers)):
        raise ValueError(
            f"`{name}` must be a finite number, or a list of them. "
            f"Received: {name}={value!r}"
        )
    return numbers

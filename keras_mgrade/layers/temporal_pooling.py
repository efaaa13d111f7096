"""Pooling over time that runs as a stream, too."""

import math
from typing import Any

import keras
from keras import ops

from keras_mgrade import validation
from keras_mgrade.layers.carried_state import HasState
from keras_mgrade.ops.linear_recurrence import linear_recurrence


@keras.saving.register_keras_serializable("keras_mgrade")
class TemporalPooling(HasState, keras.layers.Layer):
    """Pools a sequence over time, for whole sequences and for streams.

    `"last"`: `y = x[T]`. `"mean"`: `y = sum_t x[t] / T`. `"exponential"`:
    `h[t] = h[t-1] + (1 - exp(-1 / time_constant)) * (x[t] - h[t-1])`, from
    zero; `y = h[T]`.

    A stream has no end, so its mean is over its whole past and follows new
    inputs ever more slowly; the exponential average forgets.

    Example:

    >>> pooling = keras_mgrade.TemporalPooling("exponential", time_constant=50)
    >>> pooling(np.zeros((2, 100, 3), "float32")).shape
    (2, 3)

    Args:
        mode: `"last"`, `"mean"` or `"exponential"`. Defaults to `"last"`.
        time_constant: For `"exponential"`: after how many steps the average
            has gone 63 % of the way to a new input. Defaults to `None`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, time, channels)`.
        mask: Boolean, `(batch, time)`. Only valid steps count.

    Input shape:
        `(batch, time, channels)`.

    Output shape:
        `(batch, channels)`.

    Raises:
        ValueError: If `mode` is unknown, or `time_constant` is missing or
            given where it has no meaning.
    """

    def __init__(
        self,
        mode: str = "last",
        time_constant: float | None = None,
        **kwargs: Any,
    ):
        validation.only_forwards("TemporalPooling", kwargs)
        super().__init__(**kwargs)
        self.mode = validation.one_of(
            "mode", mode, ("last", "mean", "exponential")
        )
        if time_constant is not None:
            # Below a twentieth of a step only the newest input is left.
            validation.number("time_constant", time_constant, 0.05)
        if (mode == "exponential") != (time_constant is not None):
            raise ValueError(
                "`time_constant`, in steps and above 0, belongs to "
                "mode='exponential' and to no other mode. "
                f"Received: mode={mode!r}, time_constant={time_constant!r}"
            )
        self.time_constant = time_constant
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        self._channels = input_shape[-1]

    def call(self, inputs, mask=None):
        validation.sequences("inputs", inputs, mask)
        x = self._cast(inputs)
        if mask is None:
            valid = ops.ones_like(x[:, :, :1])
        else:
            mask = ops.expand_dims(mask, -1)
            valid = ops.cast(mask, x.dtype)
            x = ops.where(mask, x, ops.zeros_like(x))
        return ops.cast(self._pool(x, valid), self.compute_dtype)

    def _cast(self, x):
        """Averages are summed in float32 whatever the compute dtype."""
        return ops.cast(ops.cast(x, self.compute_dtype), self.state_dtype)

    def _pool(self, x, valid):
        if self.mode == "last":
            return _last_valid(x, valid)
        if self.mode == "mean":
            count = ops.maximum(ops.sum(valid, axis=1), 1)
            return ops.sum(x, axis=1) / count
        # A masked step keeps the average.
        share = self.share * valid * ops.ones_like(x)
        _, average = linear_recurrence(1 - share, share * x)
        return average

    @property
    def share(self) -> float:
        """How much of a new input enters the average in one step."""
        return -math.expm1(-1 / self.time_constant)

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        if self.mode == "last":
            return []
        if self.mode == "mean":
            return [
                ("sum", (self._channels,), "accumulator"),
                ("count", (1,), "accumulator"),
            ]
        return [("average", (self._channels,), "recurrent")]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step."""
        return 0 if self.mode == "last" else self._channels

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream: `(batch, channels)` to `(y_t, states)`."""
        x_t = self._cast(x_t)
        if self.mode == "last":
            y_t, states = x_t, []
        elif self.mode == "mean":
            total, count = states[0] + x_t, states[1] + 1
            y_t, states = total / count, [total, count]
        else:
            (average,) = states
            y_t = average + self.share * (x_t - average)
            states = [y_t]
        return ops.cast(y_t, self.compute_dtype), states

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def compute_mask(self, inputs, mask=None):
        return None

    def get_config(self):
        config = {"mode": self.mode, "time_constant": self.time_constant}
        return {**super().get_config(), **config}


def _last_valid(inputs, valid):
    """Zeros for a row without a valid step: masked inputs are zeros."""
    steps = ops.expand_dims(ops.arange(1, ops.shape(inputs)[1] + 1), 0)
    steps = ops.cast(steps, valid.dtype) * ops.squeeze(valid, -1)
    last = ops.cast(ops.max(steps, axis=1), "int32") - 1
    last = ops.reshape(ops.maximum(last, 0), (-1, 1, 1))
    return ops.squeeze(ops.take_along_axis(inputs, last, axis=1), 1)

"""What a delay costs."""

import numbers
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_mgrade")
class DelayLength(keras.regularizers.Regularizer):
    """A price on the bytes of delay lines, so that unneeded ones go.

    `loss = price * value_bytes * sum over channels of the longest delay`: a
    channel's delay line is as long as its longest tap looks back. With linear
    or Gaussian taps the longest one of each channel feels the price as a
    steady pull; integer taps have no gradient, and `callbacks.RegrowDelays`
    weighs the price against what a longer delay would gain.

    Example:

    >>> layer = keras_mgrade.DelayConv1D(
    ...     4, 64, delay_regularizer=keras_mgrade.regularizers.DelayLength(1e-6)
    ... )

    Args:
        price: Loss a byte of delay line.
        value_bytes: Bytes of a value in the delay line on the device: 1 in
            int8 and mixed files, 4 in float32. Defaults to `1`.

    Raises:
        ValueError: Unless both are above 0.
    """

    def __init__(self, price: float, value_bytes: int = 1):
        numeric = all(isinstance(n, numbers.Real) for n in (price, value_bytes))
        if not (numeric and price > 0 and value_bytes > 0):
            raise ValueError(
                "`price` and `value_bytes` must be above 0. "
                f"Received: price={price!r}, value_bytes={value_bytes!r}"
            )
        self.price = price
        self.value_bytes = value_bytes

    @property
    def price_of_a_step(self) -> float:
        """Loss a step of one channel's delay line."""
        return self.price * self.value_bytes

    def __call__(self, x: Any) -> Any:
        longest = ops.max(ops.convert_to_tensor(x), axis=0)
        return self.price_of_a_step * ops.sum(longest)

    def get_config(self) -> dict[str, Any]:
        return {"price": self.price, "value_bytes": self.value_bytes}

"""What a fake quantiser does, read from tfmot's `Quantizer` objects.

They say how many bits, one range or one a channel, symmetric or not. On
TensorFlow they also do it (`FakeQuantize`); elsewhere only their words count.
"""

import dataclasses
import numbers
from typing import Any

KINDS = (
    "LastValueQuantizer",
    "MovingAverageQuantizer",
    "AllValuesQuantizer",
)


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """The arguments of one of tfmot's quantizers, by its class.

    Attributes:
        kind: `"LastValueQuantizer"`, the range of what is rounded now;
            `"MovingAverageQuantizer"`, of the last thousand batches or so;
            `"AllValuesQuantizer"`, of all that ever came.
        num_bits: From 2 to 16.
        per_axis: Whether each channel (last axis) has a range of its own.
        symmetric: Whether ranges lie about zero.
        narrow_range: Whether the lowest integer is left out, so that zero is
            in the middle.
    """

    kind: str
    num_bits: int = 8
    per_axis: bool = False
    symmetric: bool = False
    narrow_range: bool = False

    def to_tfmot(self) -> Any:
        """The object of tfmot that this one speaks of."""
        from keras_mgrade.compression import tfmot_parts

        arguments = dataclasses.asdict(self)
        return tfmot_parts.quantizer_class(arguments.pop("kind"))(**arguments)


def read(argument: str, quantizer: Any) -> Quantizer:
    """A quantizer as one of tfmot's objects or as its words say.

    Args:
        argument: What the caller's argument is called.
        quantizer: One of `tfmot.quantization.keras.quantizers`, a
            `Quantizer`, or a dictionary of its attributes.

    Raises:
        ValueError: If it is none of these.
    """
    if isinstance(quantizer, Quantizer):
        found = quantizer
    elif isinstance(quantizer, dict):
        words = {field.name for field in dataclasses.fields(Quantizer)}
        if not {"kind"} <= set(quantizer) <= words:
            raise ValueError(
                f"`{argument}` must be a `kind` and of {sorted(words)} what "
                f"differs from the defaults. Received: {argument}={quantizer!r}"
            )
        found = Quantizer(**quantizer)
    else:
        kind = type(quantizer).__name__
        if kind not in KINDS:
            raise ValueError(
                f"`{argument}` must be a quantizer of "
                f"tfmot.quantization.keras.quantizers, one of {KINDS}. "
                f"Received: {argument}={quantizer!r}"
            )
        found = Quantizer(kind, **quantizer.get_config())
    bits = found.num_bits
    whole = isinstance(bits, numbers.Integral) and not isinstance(bits, bool)
    if found.kind not in KINDS or not whole or not 2 <= bits <= 16:
        raise ValueError(
            f"`{argument}` must be one of {KINDS} with 2 to 16 bits. "
            f"Received: {argument}={found}"
        )
    if found.per_axis and found.kind == "AllValuesQuantizer":
        raise ValueError(
            f"`{argument}` must be of one range: AllValuesQuantizer knows none "
            f"a channel. Received: {argument}={found}"
        )
    return found

"""What may be asked of an export, checked where it is asked."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_mgrade import validation

PRECISIONS = ("float32", "mixed", "int8", "int16x8")


@dataclasses.dataclass(frozen=True)
class Options:
    """The arguments of `to_tflite`, which explains them.

    Attributes:
        refuse_deviation: Whether a step file that does not reproduce the Keras
            stream is refused.
    """

    precisions: tuple[str, ...]
    state_dtype: str = "float32"
    state_io: str = "explicit"
    delay_line: str = "graph"
    window: int | None = None
    proof_steps: int = 10_000
    refuse_deviation: bool = True

    def __post_init__(self):
        # From JSON it comes as a list, which equals no tuple.
        object.__setattr__(self, "precisions", tuple(self.precisions))


def check(precision: str | Sequence[str], **options: Any) -> Options:
    """The options of a conversion.

    Raises:
        ValueError: If one is unknown or two do not go together.
    """
    wanted = [precision] if isinstance(precision, str) else list(precision)
    unknown = [p for p in wanted if p not in PRECISIONS]
    if unknown or not wanted or len(set(wanted)) != len(wanted):
        raise ValueError(
            f"Expected `precision` to be one of {PRECISIONS} or a list of "
            f"them. Received: precision={precision!r}"
        )
    made = Options(tuple(wanted), **options)
    for name, allowed in (
        ("state_dtype", ("float32", "int16")),
        ("state_io", ("explicit", "internal")),
        ("delay_line", ("graph", "application")),
    ):
        validation.one_of(name, getattr(made, name), allowed)
    validation.positive_integer("proof_steps", made.proof_steps)
    if made.state_dtype != "float32" and wanted != ["mixed"]:
        raise ValueError(
            "`state_dtype` belongs to precision='mixed'; the others have one "
            "type for states and activations. Received: "
            f"state_dtype={made.state_dtype!r}, precision={precision!r}"
        )
    if (made.state_io, made.delay_line) == ("internal", "application"):
        raise ValueError(
            "Either the file keeps its states or the program does: "
            "`delay_line='application'` goes with state_io='explicit'. "
            f"Received: state_io={made.state_io!r}, "
            f"delay_line={made.delay_line!r}"
        )
    if made.window is not None:
        _check_window(made)
    return made


def _check_window(options: Options) -> None:
    validation.positive_integer("window", options.window)
    wrong = set(options.precisions) - {"float32", "mixed"}
    if wrong:
        raise ValueError(
            "The file of a whole window is for phones: precision='float32', "
            "or 'mixed', int8 weights and all else in float32. Received: "
            f"window={options.window}, precision={sorted(wrong)}"
        )
    for name in ("state_dtype", "state_io", "delay_line"):
        default = getattr(Options, name)
        if getattr(options, name) != default:
            raise ValueError(
                f"`{name}` is about states, and the file of a whole window "
                "has none: leave it out, or leave out `window`. Received: "
                f"window={options.window}, {name}={getattr(options, name)!r}"
            )

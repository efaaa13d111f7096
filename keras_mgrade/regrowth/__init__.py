"""Taps that jump to the delays where the loss wants them."""

from keras_mgrade.regrowth.regrow import (
    Regrowth,
    kept_regrowth,
    regrow_delays,
)

__all__ = ["Regrowth", "kept_regrowth", "regrow_delays"]

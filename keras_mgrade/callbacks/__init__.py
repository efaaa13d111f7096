"""Callbacks for `fit`: taps that find their delays, widths that narrow."""

from keras_mgrade.callbacks.anneal_width import AnnealWidth
from keras_mgrade.callbacks.regrow_delays import RegrowDelays

__all__ = ["AnnealWidth", "RegrowDelays"]

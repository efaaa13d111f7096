"""Callbacks for `fit`: taps that find their delays, widths that narrow."""

from keras_mgrade.callbacks.anneal_width import AnnealWidth
from keras_mgrade.callbacks.regrow_delays import RegrowDelays
from keras_mgrade.callbacks.tensorboard_taps import TensorBoardTaps

__all__ = ["AnnealWidth", "RegrowDelays", "TensorBoardTaps"]

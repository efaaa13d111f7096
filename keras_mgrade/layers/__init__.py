"""The public layers, one a file."""

from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.mgrade import MGrade
from keras_mgrade.layers.min_gru import MinGRU
from keras_mgrade.layers.min_gru_cell import MinGRUCell
from keras_mgrade.layers.temporal_pooling import TemporalPooling

__all__ = ["DelayConv1D", "MGrade", "MinGRU", "MinGRUCell", "TemporalPooling"]

"""The GRU that runs beside a MinGRU as the control, and small data for both."""

import keras
import pytest
from keras import layers, ops

from keras_mgrade import MinGRU


def gru(units, **arguments):
    # One bias, as a MinGRU has.
    return layers.GRU(units, reset_after=False, **arguments)


# What holds of Keras's own is shown once.
BOTH = pytest.mark.parametrize(
    "make",
    [
        pytest.param(MinGRU, id="MinGRU"),
        pytest.param(
            gru,
            id="GRU",
            marks=[]
            if keras.backend.backend() == "torch"
            else pytest.mark.slow,
        ),
    ],
)


def array(x):
    return ops.convert_to_numpy(x)


def data(rng, batch=4, length=9, channels=3):
    return rng.normal(size=(batch, length, channels)).astype("float32")

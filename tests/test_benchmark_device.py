"""Parts of the benchmarks on devices that need no training and no peers."""

import keras
import numpy as np
import pytest

import device_ram
import device_users
from budget import slow_except_on
from keras_mgrade import TemporalPooling


@pytest.mark.parametrize("first", range(8))
def test_the_smallest_width_that_passes_in_three_tries(first):
    widths, tried = device_ram.WIDTHS, []

    def passes(width):
        tried.append(width)
        return widths.index(width) >= first

    found = device_ram.smallest(widths, passes)
    assert found == (widths[first] if first < len(widths) else None)
    assert len(tried) == len(set(tried)) == 3


@slow_except_on("torch")
def test_a_model_over_a_window_says_what_the_model_says_at_its_end(rng):
    x = rng.normal(size=(1, 12, 3)).astype("float32")
    for pooling in ([], [TemporalPooling("exponential", time_constant=4.0)]):
        model = keras.Sequential(
            [
                keras.Input((None, 3)),
                keras.layers.GRU(4, return_sequences=True),
                keras.layers.GRU(5, return_sequences=True),
                keras.layers.Dense(2),
                *pooling,
            ]
        )
        whole = keras.Model(model.inputs[0], model.outputs[0])
        wanted = keras.ops.convert_to_numpy(whole(x))
        made = device_users.of_window(whole, 12)
        assert made.output.shape == (1, 2)
        wanted = wanted if pooling else wanted[:, -1]
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(made(x)), wanted, atol=1e-5
        )

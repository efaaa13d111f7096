import sys

import keras
import numpy as np
import pytest
from keras import ops

import reference
from gradients import autodiff
from keras_mgrade.ops import delay_taps, kernels
from tolerances import FOURIER, SAME_SUMS, assert_close

HISTORY = 6


def taps(rng, channels=3, count=4):
    weights = rng.normal(size=(count, channels)).astype("float32")
    delays = rng.integers(0, HISTORY + 1, (count, channels)).astype("int32")
    delays[0], delays[1] = 0, HISTORY
    return ops.convert_to_tensor(weights), ops.convert_to_tensor(delays)


def expected_sum(x, weights, delays):
    weights = ops.convert_to_numpy(weights)
    delays = ops.convert_to_numpy(delays)
    y = reference.delay_conv1d(x, weights, delays, 0.0, HISTORY)
    return y[:, HISTORY:]


@pytest.mark.parametrize("length", [1, 2, 5, 6, 7, 40])
def test_tapped_sum_equals_the_loop(rng, length):
    x = rng.normal(size=(2, HISTORY + length, 3)).astype("float32")
    weights, delays = taps(rng)
    y = delay_taps.tapped_sum(
        ops.convert_to_tensor(x), weights, delays, HISTORY
    )
    assert_close(
        ops.convert_to_numpy(y), expected_sum(x, weights, delays), SAME_SUMS
    )


@pytest.mark.parametrize("lookups", [1, 300, 1 << 18])
def test_many_channels_and_long_sequences(rng, lookups, monkeypatch):
    """More than is brought into order, or looked up, at once."""
    if keras.backend.backend() == "torch":
        module = sys.modules[kernels.tapped_sum.__module__]
        monkeypatch.setattr(module, "LOOKUPS", lookups)
    elif lookups > 1:
        pytest.skip("only PyTorch looks values up")
    x = rng.normal(size=(2, HISTORY + 101, 20)).astype("float32")
    weights, delays = taps(rng, channels=20)

    def read(x, weights):
        return delay_taps.tapped_sum(x, weights, delays, HISTORY)

    y = read(ops.convert_to_tensor(x), weights)
    assert_close(
        ops.convert_to_numpy(y), expected_sum(x, weights, delays), SAME_SUMS
    )

    dense = delay_taps.materialise(weights, delays, HISTORY)
    upstream = ops.convert_to_tensor(rng.normal(size=y.shape).astype("float32"))
    found = autodiff(
        lambda *args: ops.sum(read(*args) * upstream),
        [x, ops.convert_to_numpy(weights)],
    )
    expected = autodiff(
        lambda *args: ops.sum(delay_taps.dense_sum(*args) * upstream),
        [x, ops.convert_to_numpy(dense)],
    )
    assert_close(found[0], expected[0], SAME_SUMS)
    at = ops.convert_to_numpy(delays)
    of_taps = np.take_along_axis(expected[1], at, axis=0)
    assert_close(found[1], of_taps, SAME_SUMS)


def test_no_row_and_no_delay():
    """Sizes of zero, in which nothing may be divided by them."""
    for batch, history in ((0, HISTORY), (2, 0), (0, 0)):
        x = np.ones((batch, history + 8, 3), "float32")
        weights = np.full((2, 3), 2.0, "float32")
        delays = ops.convert_to_tensor(np.full((2, 3), history, "int32"))

        def read(x, weights, delays=delays, history=history):
            return delay_taps.tapped_sum(x, weights, delays, history)

        y = read(ops.convert_to_tensor(x), ops.convert_to_tensor(weights))
        np.testing.assert_array_equal(
            ops.convert_to_numpy(y), np.full((batch, 8, 3), 4.0)
        )
        _, slope = autodiff(lambda *args: ops.sum(read(*args)), [x, weights])
        np.testing.assert_array_equal(slope, np.full((2, 3), 8.0 * batch))


def test_dense_sum_of_the_materialised_kernel_is_the_same(rng):
    x = rng.normal(size=(2, HISTORY + 20, 3)).astype("float32")
    weights, delays = taps(rng)
    kernel = delay_taps.materialise(weights, delays, HISTORY)
    assert kernel.shape == (HISTORY + 1, 3)
    y = delay_taps.dense_sum(ops.convert_to_tensor(x), kernel)
    assert_close(
        ops.convert_to_numpy(y), expected_sum(x, weights, delays), SAME_SUMS
    )


@pytest.mark.parametrize("length", [1, 600])
def test_wide_sum_is_the_dense_sum(rng, length):
    """By Fourier transform on every backend where both are long."""
    x = rng.normal(size=(2, 199 + length, 3)).astype("float32")
    kernel = rng.normal(size=(200, 3)).astype("float32")
    x, kernel = ops.convert_to_tensor(x), ops.convert_to_tensor(kernel)
    by_fft = delay_taps.fft_is_faster(x, kernel)
    assert by_fft or length == 1
    y = delay_taps.wide_sum(x, kernel)
    expected = delay_taps.dense_sum(x, kernel)
    y, expected = ops.convert_to_numpy(y), ops.convert_to_numpy(expected)
    assert_close(y, expected, FOURIER)
    if not by_fft:
        np.testing.assert_array_equal(y, expected)


def test_tapped_step_is_the_last_step_of_the_sum(rng):
    x = rng.normal(size=(2, HISTORY + 1, 3)).astype("float32")
    weights, delays = taps(rng)
    y = delay_taps.tapped_step(ops.convert_to_tensor(x), weights, delays)
    expected = expected_sum(x, weights, delays)[:, 0]
    assert_close(ops.convert_to_numpy(y), expected, SAME_SUMS)


def test_taps_read_nothing_else(rng):
    """A NaN is seen exactly where a tap reads it, bit for bit."""
    x = rng.normal(size=(1, HISTORY + 20, 3)).astype("float32")
    weights, delays = taps(rng)
    arguments = (weights, delays, HISTORY)
    clean = delay_taps.tapped_sum(ops.convert_to_tensor(x), *arguments)
    at = 9
    x[0, HISTORY + at] = np.nan
    dirty = delay_taps.tapped_sum(ops.convert_to_tensor(x), *arguments)
    clean, dirty = ops.convert_to_numpy(clean), ops.convert_to_numpy(dirty)
    for c in range(3):
        reads = {at + int(d) for d in ops.convert_to_numpy(delays)[:, c]}
        seen = np.flatnonzero(np.isnan(dirty[0, :, c]))
        assert set(seen) == reads
        rest = [t for t in range(20) if t not in reads]
        np.testing.assert_array_equal(dirty[0, rest, c], clean[0, rest, c])


@pytest.mark.parametrize(
    ("delay", "whole", "fraction"),
    [(0, 0, 0), (3, 3, 0), (3.5, 3, 0.5), (6, 5, 1), (5.75, 5, 0.75)],
)
def test_between_steps(delay, whole, fraction):
    weights, delays = delay_taps.between_steps(
        ops.full((1, 1), 2.0), ops.full((1, 1), float(delay)), HISTORY
    )
    assert ops.convert_to_numpy(delays).ravel().tolist() == [whole, whole + 1]
    assert ops.convert_to_numpy(weights).ravel().tolist() == [
        2 * (1 - fraction),
        2 * fraction,
    ]

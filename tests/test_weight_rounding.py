"""Weights rounded so that their products hardly move."""

import numpy as np

from keras_mgrade.export.moments import Moments, taps_of
from keras_mgrade.export.rounding import LEVELS, round_kernel, round_taps


def moments_of(x):
    return x.T @ x / len(x)


def related_inputs(rng, steps=2000, channels=24):
    """Few causes behind many inputs, as between layers."""
    causes = rng.normal(size=(steps, 6)) @ rng.normal(size=(6, channels))
    return causes + 0.05 * rng.normal(size=causes.shape)


def to_nearest(kernel):
    step = np.abs(kernel).max(axis=1, keepdims=True) / LEVELS
    return np.round(kernel / step) * step


def error(kernel, rounded, x):
    return np.sqrt(np.mean(np.square(x @ (kernel - rounded).T)))


def test_products_move_less_than_with_nearest_integers(rng):
    x, kernel = related_inputs(rng), rng.normal(size=(16, 24))
    rounded = round_kernel(kernel, moments_of(x))
    nearest = error(kernel, to_nearest(kernel), x)
    assert error(kernel, rounded, x) < 0.5 * nearest


def test_inputs_that_have_nothing_to_do_with_one_another(rng):
    """Then the nearest integers are the best there are."""
    kernel = rng.normal(size=(5, 8))
    rounded = round_kernel(kernel, np.eye(8))
    np.testing.assert_allclose(rounded, to_nearest(kernel), atol=1e-12)


def test_values_lie_on_the_grid_of_their_row(rng):
    kernel = rng.normal(size=(6, 24)) * np.logspace(-3, 3, 6)[:, None]
    kernel[2] = 0
    moments = moments_of(related_inputs(rng))
    largest = np.abs(kernel).max(axis=1, keepdims=True)
    rounded = round_kernel(kernel, moments)
    # A quantiser reads the step from the largest value: it must be there.
    np.testing.assert_allclose(
        np.abs(rounded).max(axis=1, keepdims=True), largest
    )
    whole = rounded / np.maximum(largest, 1e-30) * LEVELS
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)


def test_one_grid_for_all_rows(rng):
    kernel = rng.normal(size=(6, 24))
    moments = moments_of(related_inputs(rng))
    rounded = round_kernel(kernel, moments, one_scale=True)
    assert np.abs(rounded).max() == np.abs(kernel).max()
    whole = rounded / np.abs(kernel).max() * LEVELS
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)


def test_inputs_that_never_move(rng):
    x = related_inputs(rng)
    x[:, 3:9] = 0
    rounded = round_kernel(rng.normal(size=(4, 24)), moments_of(x))
    assert np.isfinite(rounded).all()
    assert np.isfinite(round_kernel(rounded, np.zeros((24, 24)))).all()


def test_taps_on_a_slow_signal(rng):
    """It is nearly the same at all taps: their weights have to add up."""
    kernel = np.zeros((1, 20, 1, 6))
    for channel in range(6):
        # Their number differs, and so do their delays.
        taps = rng.choice(20, channel, replace=False)
        kernel[0, taps, 0, channel] = rng.normal(size=channel)
    order, counts = taps_of(kernel)
    assert counts.tolist() == list(range(6))
    slow = np.cumsum(rng.normal(size=(3, 500)), axis=1).repeat(2, axis=0)
    moments = Moments(order, order.shape[1])
    windows = [slow[:, t : t + 20].T for t in range(480)]
    for window in windows:
        # Three channels are read, two outputs each.
        moments.add(window[None, :, None, ::2])
    rounded = round_taps(kernel, moments.mean())
    np.testing.assert_array_equal(rounded == 0, kernel == 0)
    x = np.stack(windows)
    for channel in range(1, 6):
        wanted = x[..., channel] @ kernel[0, :, 0, channel]
        found = x[..., channel] @ rounded[0, :, 0, channel]
        step = np.abs(kernel[..., channel]).max() / LEVELS
        nearest = np.round(kernel[0, :, 0, channel] / step) * step
        off = np.abs(x[..., channel] @ nearest - wanted).mean()
        assert np.abs(found - wanted).mean() <= off
        whole = rounded[0, :, 0, channel] / step
        np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    # With one tap there is nothing to make up for; with several there is.
    five = x[..., 5] @ (kernel - rounded)[0, :, 0, 5]
    step = np.abs(kernel[..., 5]).max() / LEVELS
    nearest = np.round(kernel[0, :, 0, 5] / step) * step
    assert np.std(five) < 0.6 * np.std(
        x[..., 5] @ (kernel[0, :, 0, 5] - nearest)
    )

"""Weights rounded so that their products hardly move."""

import numpy as np

from keras_mgrade.export.rounding import LEVELS, round_kernel


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

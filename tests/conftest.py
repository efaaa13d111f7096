"""One backend a process, chosen by KERAS_BACKEND; the same seed every test."""

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(7)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def policy_everywhere(request):
    """For `indirect` parameters: the dtype policy of all layers."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)

"""Which tests only `make test-all` runs, so that `make test` stays short."""

import os

import keras
import pytest

# A process of a user's: the backend is chosen there, and all is compiled as
# well as it can be.
AS_USERS = {
    name: value
    for name, value in os.environ.items()
    if name not in ("KERAS_BACKEND", "XLA_FLAGS", "OMP_NUM_THREADS")
}


def slow_except_on(backend):
    """Slow wherever Keras computes otherwise than with `backend`.

    For what is the same Python on every backend, and takes long: `make test`
    runs it on one of them.
    """
    if keras.backend.backend() == backend:
        return pytest.mark.skipif(False, reason="for tests and parameters")
    return pytest.mark.slow

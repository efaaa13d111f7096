"""Which tests only `make test-all` runs, so that `make test` stays short."""

import keras
import pytest


def slow_except_on(backend):
    """Slow wherever Keras computes otherwise than with `backend`.

    For what is the same Python on every backend, and takes long: `make test`
    runs it on one of them.
    """
    if keras.backend.backend() == backend:
        return lambda test: test
    return pytest.mark.slow

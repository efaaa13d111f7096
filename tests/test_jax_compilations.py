"""What JAX compiles anew, and what it does not."""

import keras
import numpy as np
import pytest

import keras_mgrade
from keras_mgrade.ops import linear_recurrence

if keras.backend.backend() != "jax":
    pytest.skip("compilations of JAX", allow_module_level=True)
import jax  # noqa: E402

COMPILATION = "/jax/core/compile/backend_compile_duration"
CHANNELS = 4


@pytest.fixture
def compilations():
    """Grows by one with everything that is compiled."""
    found = []

    def listen(event, *_, **__):
        if event == COMPILATION:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


def test_one_for_each_length_and_none_for_taps_that_move(rng, compilations):
    model = keras.Sequential(
        [
            keras.Input((None, CHANNELS)),
            keras_mgrade.MGrade(CHANNELS, 3, 5, "integer"),
        ]
    )
    model.compile("sgd", "mse")

    def train(length):
        x = rng.normal(size=(2, length, CHANNELS)).astype("float32")
        compilations.clear()
        model.train_on_batch(x, x)
        return len(compilations)

    assert train(7) > 0 and train(40) > 0
    assert train(7) == train(40) == 0
    layer = model.layers[0].convolution
    layer.set_delays((layer.delays + 1) % (layer.max_delay + 1))
    assert train(7) == train(40) == 0


@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_eager_calls_compile_once(rng, compilations, method):
    """A loop outside of `jit` would be compiled at every call."""
    a = jax.numpy.asarray(rng.uniform(0, 1, (2, 37, 3)).astype("float32"))

    def call():
        compilations.clear()
        jax.block_until_ready(linear_recurrence(a, a, method=method))
        return len(compilations)

    assert call() > 0
    assert call() == 0


def test_layers_of_a_shape_share_their_loops(rng):
    """Each is a function of the program, called by every layer."""

    def program(depth):
        model = keras.Sequential(
            [keras.Input((40, CHANNELS))]
            + [keras_mgrade.MGrade(CHANNELS, 3, 5) for _ in range(depth)]
        )
        x = np.zeros((2, 40, CHANNELS), "float32")
        return jax.jit(model).lower(x).as_text().count("stablehlo.while")

    assert program(1) == program(4) > 0

"""The pictures show what the layers hold."""

import keras
import numpy as np
import pytest
from keras import layers
from matplotlib import pyplot

import keras_mgrade
from control import array, data
from keras_mgrade import DelayConv1D, MGrade, MinGRU, plotting


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


@pytest.fixture
def model():
    layers = [MGrade(4, 3, 16), DelayConv1D(2, 8), MinGRU(5)]
    return keras.Sequential([keras.Input((None, 3)), *layers])


def test_delays(model):
    _, taps, _ = model.layers
    taps.kernel.assign([[0.0, 1.0, 2.0, -4.0], [1.0, 1.0, 0.0, 1.0]])
    taps.set_delays([[0, 1, 2, 3], [8, 7, 6.5, 5]])
    figure = plotting.delays(model)
    assert [ax.get_title() for ax in figure.axes] == [
        model.layers[0].convolution.path,
        taps.path,
    ]
    (dots,) = figure.axes[1].collections
    # Where a weight is zero there is no tap.
    np.testing.assert_array_equal(
        dots.get_offsets(), [[1, 1], [2, 2], [3, 3], [8, 0], [7, 1], [5, 3]]
    )
    assert np.argmax(dots.get_sizes()) == 2


def test_kernels(model):
    figure = plotting.kernels(model.layers[1])
    (image,) = figure.axes[0].images
    dense = array(model.layers[1].dense_kernel())
    np.testing.assert_array_equal(image.get_array(), dense.T)


@pytest.mark.parametrize("with_data", [False, True])
def test_time_constants(model, with_data, rng):
    x = data(rng) if with_data else None
    figure = plotting.time_constants(model, x)
    bars = [sum(p.get_height() for p in ax.patches) for ax in figure.axes]
    assert bars == [4, 5]
    assert [ax.get_title() for ax in figure.axes] == [
        model.layers[0].recurrence.path,
        model.layers[2].path,
    ]
    # The layer is as it was.
    assert "gates" not in vars(model.layers[2].cell)
    axes = pyplot.figure().subplots(2)
    assert plotting.time_constants(model, axes=axes) is axes[0].figure


def test_time_constants_are_those_of_the_mean_gates(model, rng):
    x, gru = data(rng), model.layers[2]
    seen = array(keras.Sequential(model.layers[:2])(x))
    z = array(gru.cell.gates(seen)[0]).astype("float64").mean(axis=(0, 1))
    found = keras_mgrade.time_constants(model, x)
    np.testing.assert_allclose(found[gru.path], -1 / np.log(1 - z), rtol=1e-5)
    gru.cell.bias.assign(np.full(10, np.log(1 / 9)))  # Gates of 0.1.
    found = keras_mgrade.time_constants(gru)
    np.testing.assert_allclose(found[gru.path], -1 / np.log(0.9), rtol=1e-5)


def test_masked_steps_have_no_part_in_the_time_constants(rng):
    gru = MinGRU(5, stateful=True)
    model = keras.Sequential(
        [keras.Input(batch_shape=(2, None, 3)), layers.Masking(), gru]
    )
    x = data(rng, 2, 12)
    alone = keras_mgrade.time_constants(model, x)[gru.path]
    padded = np.pad(x, ((0, 0), (0, 100), (0, 0)))
    found = keras_mgrade.time_constants(model, padded)[gru.path]
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    # A measurement, not a call: states stay.
    assert not array(gru.states[0]).any()


def test_a_layer_that_is_not_called_is_said(rng):
    class Idle(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = MinGRU(2), MinGRU(2, name="idle")

        def build(self, shape):
            self.used.build(shape)
            self.idle.build(shape)

        def call(self, x):
            return self.used(x)

    model = Idle()
    model(data(rng))
    with pytest.raises(ValueError, match="does not call its layer.*Received"):
        keras_mgrade.time_constants(model, data(rng))


def test_what_cannot_be_drawn_is_refused(model):
    with pytest.raises(ValueError, match="MinGRU layer.*Received: model="):
        plotting.time_constants(model.layers[1])
    with pytest.raises(ValueError, match="2 axes.*Received: len"):
        plotting.delays(model, axes=pyplot.figure().subplots(3))

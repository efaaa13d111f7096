"""Channels that leave where others mix them, and models within models."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from keras_mgrade.compression import Pruning, shrink
from keras_mgrade.compression.kernels import groups
from test_export import once

# Graphs and arrays: nothing here differs between backends.
pytestmark = once


def gru(units=8, **words):
    return keras_mgrade.MinGRU(units, return_sequences=True, **words)


def functional(make, channels=4):
    inputs = keras.Input((20, channels))
    return keras.Model(inputs, make(inputs))


def halved(model, rng):
    """The model with every second channel read by nothing, made smaller."""
    for group in groups(model, None):
        keep = np.arange(group.size) % 2 == 0
        for kernel in group.reads:
            values = ops.convert_to_numpy(kernel)
            kernel.assign(values * keep[:, None])
    small = shrink(model)
    x = rng.normal(size=(3, 20, *model.input.shape[2:])).astype("float32")
    np.testing.assert_allclose(
        small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-5
    )
    return small


@keras.saving.register_keras_serializable("tests")
def relative(x):
    return x - ops.max(x)


MIXING = {
    "softmax layer": lambda x: layers.Activation("softmax")(gru()(x)),
    "of a product": lambda x: layers.Dense(8, "log_softmax")(x),
    "of a gate": gru(recurrent_activation="softmax"),
    "of an output": keras_mgrade.MGrade(
        8, 2, 3, output_activation="sparsemax", normalization=None
    ),
    "nobody knows": lambda x: layers.Dense(8, relative)(x),
    "one number a channel": lambda x: gru()(x) * np.arange(8.0, dtype="f4"),
    "other axis": lambda x: layers.BatchNormalization(axis=1)(
        layers.Dense(8)(x)
    ),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_is_mixed_stays(name, rng):
    model = functional(lambda x: layers.Dense(3)(gru(6)(MIXING[name](x))))
    small = halved(model, rng)
    # Of the recurrence behind it, half; of a block, its MLP's as well.
    assert [g.size for g in groups(model, None)][-1] == 6
    assert small.layers[-2].units == 3
    widths = {
        layer.units for layer in small.layers[1:-2] if hasattr(layer, "units")
    }
    assert widths == {8}


SWITCHES = [
    {"recurrence_dense": True},
    {"recurrence_dense": True, "recurrence_norm": True},
    {"convolution_on_input": True},
    {"use_convolution": False, "recurrence_dense": True},
    {"use_recurrence": False},
]


@pytest.mark.parametrize("words", SWITCHES, ids=lambda words: "-".join(words))
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_parts_of_a_layer(normalization, words, rng):
    """Whatever an MGrade is made of, its `units` are those of all parts."""
    words = {"normalization": normalization, **words}

    def make(x):
        y = keras_mgrade.MGrade(8, 2, 3, **words)(x)
        y = keras_mgrade.MGrade(12, 2, 3, **words)(y)
        return layers.Dense(3)(y)

    small = halved(functional(make, channels=5), rng)
    batch = normalization == "batch"
    widths = [layer.units for layer in small.layers[1:]]
    assert widths == ([4, 6, 3] if batch else [8, 12, 3])


def test_states_that_go_in_and_come_out_stay(rng):
    def make(x):
        first = layers.Dense(8)(x[:, 0])
        y = gru()(x, initial_state=first)
        y, *_ = gru(6, return_state=True)(y)
        return layers.Dense(3)(gru(4)(y))

    small = halved(functional(make), rng)
    units = [layer.units for layer in small.layers if hasattr(layer, "units")]
    assert sorted(units) == [2, 3, 6, 8, 8]


def test_taps_within_a_layer_of_ones_own(rng):
    @keras.saving.register_keras_serializable("tests")
    class Own(layers.Layer):
        def __init__(self, **words):
            super().__init__(**words)
            self.taps = keras_mgrade.DelayConv1D(2, 5)

        def build(self, shape):
            self.taps.build(shape)

        def call(self, x):
            return self.taps(x)

    model = functional(lambda x: layers.Dense(3)(gru()(Own()(x))))
    assert halved(model, rng).layers[2].units == 4


def test_models_within_a_model(rng):
    """One is used twice, and shares a layer with the model around it."""
    shared = layers.Dense(8, "relu")
    inner = keras.Sequential([keras.Input((20, 8)), gru(8), shared])
    deeper = functional(lambda x: inner(inner(x)) + x, 8)

    def make(x):
        return layers.Dense(3)(shared(deeper(layers.Dense(8)(x))))

    model = functional(make)
    # Functions of one's own, which no file knows, stay, too.
    metric = keras.metrics.MeanAbsoluteError()
    model.compile("sgd", lambda y, z: (y - z) ** 2, metrics=[metric])
    small = halved(model, rng)
    assert small.count_params() < model.count_params() / 2.5
    assert model.compiled and int(small.optimizer.iterations) == 0
    x, y = rng.normal(size=(8, 20, 4)).astype("f4"), np.zeros((8, 20, 3))
    np.testing.assert_allclose(
        *(m.evaluate(x, y, verbose=0) for m in (small, model)), rtol=1e-4
    )
    parts = small._flatten_layers()
    assert {layer.units for layer in parts if hasattr(layer, "units")} == {3, 4}
    callback = Pruning(0.5, structure="units")
    small.fit(x, y, verbose=0, callbacks=[callback])
    assert shrink(small).count_params() < small.count_params()

"""Loops that are not `fit`: the page about them, run on its own backend."""

import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from keras_mgrade import DelayConv1D, MinGRU

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "training_loops.md"
STEPS = 60
SPAN = 6


def block(name):
    """The page's code for a backend; the plain block is `fit`."""
    pattern = rf"^```python{name}\n(.*?)^```$"
    (found,) = re.findall(
        pattern, PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return found


def make_model():
    """Delays at both ends, so that an optimiser could push them out."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((None, 2)),
            DelayConv1D(3, SPAN),
            MinGRU(6, return_sequences=True, gate_bias_initializer="zeros"),
            layers.Dense(1),
        ]
    )
    model.layers[0].set_delays([[0, 0], [2.5, 3.0], [SPAN, SPAN]])
    return model


def run(code, signal=1.0, names=None):
    rng = np.random.default_rng(0)
    x = signal * rng.normal(size=(16, 24, 2)).astype("float32")
    y = np.zeros((16, 24, 1), "float32")
    y[:, 4:, 0] = x[:, :-4, 0] - 0.5 * x[:, 3:-1, 1]
    names = {} if names is None else names
    names.update(keras=keras, keras_mgrade=keras_mgrade, steps=STEPS)
    names.update(model=make_model(), x=x, y=y)
    exec(compile(code, PAGE.name, "exec"), names)
    model = names["model"]
    answers = ops.convert_to_numpy(model(x))
    return model, float(np.mean((answers - y) ** 2))


def test_every_loop_reaches_the_loss_of_fit():
    fitted, wanted = run(block(""))
    looped, loss = run(block(" " + keras.backend.backend()))
    # Where Keras's constraint stops a delay at the border, the momentum of
    # the other optimisers carries it a little further before it turns.
    assert loss == pytest.approx(wanted, rel=0.1)
    assert wanted < 0.3
    for model in (fitted, looped):
        delays = model.layers[0].delays
        assert (delays >= 0).all() and (delays <= SPAN).all()
        # They did move, and not only towards zero.
        assert np.abs(delays[1] - [2.5, 3.0]).max() > 0.1


def test_regrowth_in_a_loop():
    """The page's lines after its loop: moments of moved taps are zero."""
    backend = keras.backend.backend()
    names = {}
    run(block(f" {backend}") + block(f" {backend} regrowth"), names=names)
    (where,) = names["moved"].values()
    assert where.any() and where.sum(axis=0).max() == 1
    optimizer, taps = names["optimizer"], names["model"].layers[0]
    index = names["model"].trainable_variables.index(taps.kernel)
    if backend == "torch":
        moments = optimizer.state[taps.kernel.value]["exp_avg"]
        assert (moments.numpy()[where] == 0).all()
        assert (moments.numpy()[~where] != 0).all()
    elif backend == "jax":
        # One step after it: a tenth of the gradient, not a mean of many.
        assert names["adam"].mu[index][where].max() == 0
        assert np.isfinite(names["loss"])
    else:
        assert np.isfinite(names["loss"])


def test_no_loop_decays_a_delay():
    """The page's loop with nothing to learn and a decay that is felt."""
    name = " " + keras.backend.backend()
    code = block(name).replace("weight_decay=0.01", "weight_decay=5.0")
    assert code.count("weight_decay=5.0") == 1
    model, _ = run(code, signal=0.0)
    fresh = make_model()
    np.testing.assert_array_equal(
        model.layers[0].delays, fresh.layers[0].delays
    )
    kernels = [ops.convert_to_numpy(m.layers[0].kernel) for m in (model, fresh)]
    assert (np.abs(kernels[0]) < 0.5 * np.abs(kernels[1])).all()


def test_no_decay_is_for_delays_and_trained_widths():
    def without(**arguments):
        layer = DelayConv1D(3, SPAN, **arguments)
        layer.build((None, None, 2))
        return [v.name for v in keras_mgrade.weights_without_decay(layer)]

    assert without() == ["delays"]
    assert without(interpolation="integer") == []
    gaussian = {"interpolation": "gaussian"}
    assert without(**gaussian) == ["delays"]
    assert sorted(without(**gaussian, train_width=True)) == ["delays", "width"]


def test_decay_moves_no_delay():
    layer = DelayConv1D(3, SPAN)
    model = keras.Sequential([keras.Input((None, 2)), layer])
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(
        var_list=keras_mgrade.weights_without_decay(model)
    )
    before, kernel = layer.delays, ops.convert_to_numpy(layer.kernel)
    zeros = [ops.zeros_like(ops.convert_to_tensor(v)) for v in model.weights]
    optimizer.apply(zeros, model.trainable_variables)
    np.testing.assert_array_equal(layer.delays, before)
    assert (np.abs(ops.convert_to_numpy(layer.kernel)) < np.abs(kernel)).all()

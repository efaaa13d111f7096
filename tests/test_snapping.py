"""Trained taps turned into whole ones: what stays, what files keep."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_mgrade
from budget import slow_except_on
from control import array
from keras_mgrade import DelayConv1D, MGrade, MinGRU, regularizers
from tolerances import SAME_SUMS, assert_close

SPAN = 10


def built(interpolation, taps=3, channels=2, **arguments):
    layer = DelayConv1D(taps, SPAN, interpolation, **arguments)
    layer.build((None, None, channels))
    return layer


@pytest.mark.parametrize("interpolation", ["linear", "gaussian"])
def test_the_largest_entries_stay(interpolation, rng):
    layer = built(interpolation, train_width=interpolation == "gaussian")
    layer.set_delays(rng.uniform(0, SPAN, (3, 2)))
    dense = array(layer.dense_kernel())
    change = layer.snap_delays()
    snapped = array(layer.dense_kernel())
    for channel in range(2):
        kept = np.sort(np.argsort(-np.abs(dense[:, channel]))[:3])
        np.testing.assert_array_equal(np.flatnonzero(snapped[:, channel]), kept)
        assert_close(snapped[kept, channel], dense[kept, channel], SAME_SUMS)
    # On white noise the output moves as the kernel does.
    x = rng.normal(size=(64, 200, 2)).astype("float32")
    kernels = [ops.convert_to_tensor(k) for k in (dense, snapped)]
    past = np.zeros((64, SPAN, 2), "float32")
    long = np.concatenate([past, x], axis=1)
    before, after = (
        array(keras_mgrade.ops.delay_taps.dense_sum(long, kernel))[:, SPAN:]
        for kernel in kernels
    )
    moved = np.sqrt(np.sum((after - before) ** 2) / np.sum(before**2))
    assert change == pytest.approx(moved, rel=0.05)
    assert change > 0.01
    assert layer.snap_delays() == 0.0


def test_whole_taps_lose_nothing(rng):
    layer = built("linear")
    layer.set_delays([[0, 1], [4, 10], [10, 9]])
    x = rng.normal(size=(2, 30, 2)).astype("float32")
    before = array(layer(x))
    assert layer.snap_delays() < 1e-6
    assert_close(array(layer(x)), before, SAME_SUMS)


def test_taps_that_are_left_over_rest_at_zero():
    layer = built("linear", taps=4)
    layer.set_delays([[3, 3], [3, 3], [3, 3], [3, 3]])
    layer.snap_delays()
    np.testing.assert_array_equal(layer.longest_delays(), [3, 3])
    weights = array(layer.kernel)
    assert (layer.delays[weights == 0] == 0).all()
    assert (np.count_nonzero(weights, axis=0) == 1).all()
    # More taps than places.
    small = DelayConv1D(6, 2)
    small.build((None, None, 1))
    small.snap_delays()
    assert small.delays.shape == (6, 1)


@pytest.mark.parametrize("interpolation", ["linear", "gaussian"])
def test_predict_and_evaluate_see_the_snapped_taps(interpolation, rng):
    """Also where they have been compiled before."""
    layer = DelayConv1D(3, SPAN, interpolation)
    model = keras.Sequential([keras.Input((25, 2)), layer])
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(2, 4, 25, 2)).astype("float32")
    model.predict(x, verbose=0)
    model.evaluate(x, y, verbose=0)
    keras_mgrade.snap_delays(model)
    wanted = array(model(x))
    assert_close(model.predict(x, verbose=0), wanted, SAME_SUMS)
    loss = model.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(np.mean((wanted - y) ** 2), rel=1e-5)


def test_states_are_not_touched_by_the_comparison(rng):
    """Whole linear delays lose nothing, whatever the states hold."""
    layer = DelayConv1D(3, SPAN, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(2, None, 1)), layer])
    layer.set_delays([[0], [4], [9]])
    x = rng.normal(size=(2, 25, 1)).astype("float32")
    model(x)
    (before,) = (array(s).copy() for s in layer.states)
    changes = keras_mgrade.snap_delays(model, x)
    assert changes["output"] < SAME_SUMS
    np.testing.assert_array_equal(array(layer.states[0]), before)


@pytest.mark.parametrize(
    "interpolation",
    ["linear", pytest.param("gaussian", marks=slow_except_on("torch"))],
)
def test_a_snapped_layer_is_an_integer_layer(interpolation, rng, tmp_path):
    wide = {"width": 1.5, "train_width": True, "normalize_kernel": True}
    taps = wide if interpolation == "gaussian" else {}
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            MGrade(4, 3, SPAN, interpolation, delay_regularizer="l1", **taps),
            DelayConv1D(2, SPAN, interpolation, delay_regularizer="l1"),
            MinGRU(2),
        ]
    )
    x = rng.normal(size=(4, 25, 3)).astype("float32")
    before = array(model(x))
    changes = keras_mgrade.snap_delays(model, x)
    block, taps = model.layers[:2]
    assert set(changes) == {block.convolution.path, taps.path, "output"}
    after = array(model(x))
    moved = np.sqrt(np.sum((after - before) ** 2) / np.sum(before**2))
    assert changes["output"] == pytest.approx(moved, rel=1e-4)
    assert block.interpolation == taps.interpolation == "integer"
    assert (block.width, block.train_width) == (0.8, False)
    assert not block.normalize_kernel and block.delay_regularizer is None
    assert not model.losses
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), after)
    for layer in (taps, loaded.layers[1]):
        layer.trainable = True
        names = [v.name for v in layer.trainable_variables]
        assert names == ["kernel", "bias"]
        assert len(layer.weights) == 3
    # Weights alone go into a model that was made with whole taps.
    model.save_weights(tmp_path / "model.weights.h5")
    config = model.get_config()
    fresh = keras.Sequential.from_config(config)
    fresh.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(array(fresh(x)), after)
    # And it trains on, compiled anew, and streams.
    model.compile("adam", "mse")
    delays = taps.delays
    model.fit(x, after + 1, epochs=2, verbose=0)
    np.testing.assert_array_equal(taps.delays, delays)
    stream = keras_mgrade.streaming_model(model, batch_size=4)
    step = keras_mgrade.compile_step(stream)
    y, _ = step(x, keras_mgrade.initial_states(stream))
    assert_close(array(y)[:, -1], array(model(x)), SAME_SUMS)


def test_what_has_nothing_to_snap_is_refused():
    model = keras.Sequential(
        [keras.Input((None, 3)), DelayConv1D(2, SPAN, "integer")]
    )
    with pytest.raises(ValueError, match="`model` must.*Received: model="):
        keras_mgrade.snap_delays(model)


def test_the_price_of_delay_lines():
    price = regularizers.DelayLength(0.5, value_bytes=4)
    layer = built("linear", delay_regularizer=price)
    layer.set_delays([[0, 1], [4, 10], [2.5, 9]])
    assert float(array(layer.losses[0])) == pytest.approx(0.5 * 4 * 14)
    config = layer.get_config()
    again = DelayConv1D.from_config(config).delay_regularizer
    assert again.get_config() == {"price": 0.5, "value_bytes": 4}
    # Whole taps keep it, as what regrowth asks for.
    layer.snap_delays()
    assert layer.delay_regularizer is price and not layer.losses
    for arguments in ({"price": 0}, {"price": 1, "value_bytes": 0}):
        with pytest.raises(ValueError, match="Received: price="):
            regularizers.DelayLength(**arguments)
    with pytest.raises(ValueError, match="`delay_regularizer`.*DelayLength"):
        built("integer", delay_regularizer="l1")


@slow_except_on("torch")
def test_a_price_shortens_delays_that_are_not_needed(rng):
    x = rng.normal(size=(32, 60, 4)).astype("float32")
    y = np.zeros_like(x)
    y[:, 2:] = x[:, :-2]
    longest = []
    for price in (None, regularizers.DelayLength(5e-3)):
        keras.utils.set_random_seed(1)
        layer = DelayConv1D(3, SPAN, use_bias=False, delay_regularizer=price)
        model = keras.Sequential([keras.Input((60, 4)), layer])
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        model.fit(x, y, 8, 60, verbose=0)
        longest.append(layer.delays.max(axis=0).mean())
    assert longest[1] < 0.8 * longest[0]

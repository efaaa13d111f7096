"""Weights, channels and taps that leave, beside tfmot's own pruning."""

import keras
import numpy as np
import pytest

import keras_mgrade
import tolerances
from budget import slow_except_on
from keras_mgrade.compression import Pruning, shrink, tfmot_parts
from test_export import once

BACKEND = keras.backend.backend()


def schedules():
    kinds = tfmot_parts.tfmot().sparsity.keras
    decay = kinds.PolynomialDecay(0.2, 0.8, 0, 20, frequency=2)
    return {
        "weights": (decay, {}),
        "blocks": (decay, {"block_size": (4, 2), "block_pooling_type": "MAX"}),
        "2:4": (kinds.ConstantSparsity(0.5, 0), {"sparsity_m_by_n": (2, 4)}),
    }


def data(rng):
    x = rng.normal(size=(64, 8)).astype("float32")
    return x, rng.normal(size=(64, 4)).astype("float32")


def dense_model(layers):
    return layers.Sequential(
        [
            layers.Input((8,)),
            layers.layers.Dense(16, activation="relu"),
            layers.layers.Dense(4),
        ]
    )


@pytest.mark.parametrize("name", schedules())
def test_equals_prune_low_magnitude(name, rng):
    import tf_keras

    tools = tfmot_parts.tfmot().sparsity.keras
    schedule, words = schedules()[name]
    x, y = data(rng)
    model, twin = dense_model(keras), dense_model(tf_keras)
    weights = [
        rng.normal(scale=0.3, size=w.shape).astype("float32")
        for w in model.get_weights()
    ]
    model.set_weights(weights)
    twin.set_weights(weights)
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    model.compile(keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    model.fit(x, y, **fit, callbacks=[Pruning(schedule, **words)])
    pruned = tools.prune_low_magnitude(twin, schedule, **words)
    pruned.compile(tf_keras.optimizers.SGD(0.02, momentum=0.9), "mse")
    pruned.fit(x, y, **fit, callbacks=[tools.UpdatePruningStep()])
    wanted = tools.strip_pruning(pruned).get_weights()
    for mine, other in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(mine == 0, other == 0)
        if BACKEND == "tensorflow":
            np.testing.assert_array_equal(mine, other)
        else:
            # The same gradients in another order of sums, over 32 steps.
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)


def test_zeros_survive_files_and_another_training(tmp_path, rng):
    x, y = data(rng)
    model = dense_model(keras)
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0, callbacks=[Pruning(0.5)])
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    zeros = [w == 0 for w in model.get_weights()[::2]]
    assert all(np.mean(z) == 0.5 for z in zeros)
    for callback in (Pruning(), Pruning(0.5)):
        again.fit(x, y, epochs=1, verbose=0, callbacks=[callback])
        for before, w in zip(zeros, again.get_weights()[::2], strict=True):
            assert np.mean(w == 0) == 0.5
            if callback.schedule is None:
                np.testing.assert_array_equal(w == 0, before)


@pytest.mark.parametrize("order", [1, -1])
def test_zeros_of_a_backup_stay(order, tmp_path, rng):
    """Whichever callback is named first."""
    x, y = data(rng)
    model = dense_model(keras)
    model.compile("adam", "mse")

    def fit(epochs, rule):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path, delete_checkpoint=False
        )
        callbacks = [rule, backup][::order]
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)
        return [w == 0 for w in model.get_weights()[::2]]

    before = fit(1, Pruning(0.5))
    model.set_weights([w + 1 for w in model.get_weights()])
    for zeros, same in zip(fit(2, Pruning()), before, strict=True):
        np.testing.assert_array_equal(zeros, same)


@pytest.mark.parametrize(
    "rule",
    [{"schedule": np.float32(0.5)}, {"sparsity_m_by_n": (2, 4)}],
    ids=["share", "2:4"],
)
def test_an_optimizer_that_has_stepped(rule, rng):
    """A share and two of four are due in the first step of each fit."""
    x, y = data(rng)
    model = dense_model(keras)
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=32, epochs=3, verbose=0)
    model.fit(x, y, batch_size=32, verbose=0, callbacks=[Pruning(**rule)])
    assert [np.mean(w == 0) for w in model.get_weights()[::2]] == [0.5, 0.5]


@pytest.mark.parametrize(
    "policy_everywhere",
    ["float16", "mixed_bfloat16"] + ["float64"] * (BACKEND != "jax"),
    indirect=True,
)
def test_zeros_stay_under_a_smaller_share(policy_everywhere, rng):
    """Under averages of weights, too, which are not zero where those are."""
    x, y = data(rng)
    model = dense_model(keras)
    model.layers[0].kernel.assign(
        model.layers[0].kernel * (rng.uniform(size=(8, 16)) < 0.3)
    )
    zeros = model.get_weights()[0] == 0
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    model.fit(x, y, 8, verbose=0, callbacks=[Pruning(0.5)])
    first, second = model.get_weights()[::2]
    np.testing.assert_array_equal(first == 0, zeros)
    assert np.mean(second == 0) == 0.5


@pytest.mark.skipif(BACKEND == "torch", reason="one step at a time there")
def test_several_steps_an_execution(rng):
    """No step of the schedule is missed, the last one neither."""
    x, y = data(rng)
    model = dense_model(keras)
    model.compile("sgd", "mse", steps_per_execution=5)
    schedule = schedules()["weights"][0]
    history = model.fit(
        x, y, 3, epochs=1, verbose=0, callbacks=[Pruning(schedule)]
    )
    assert len(history.epoch) == 1
    for weight in model.get_weights()[::2]:
        assert np.mean(weight == 0) == pytest.approx(0.8, abs=0.01)


def test_taps_leave_beside_regrowth_and_a_price(rng):
    """Those that left stay out, the others move, and lines get shorter."""
    x = rng.normal(size=(32, 60, 2)).astype("float32")
    y = np.roll(x, 9, axis=1).sum(axis=2, keepdims=True)
    price = keras_mgrade.regularizers.DelayLength(1e-3)
    taps = keras_mgrade.DelayConv1D(
        4, 24, interpolation="integer", delay_regularizer=price
    )
    model = keras.Sequential(
        [keras.Input((None, 2)), taps, keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    before = taps.delays
    model.fit(
        x,
        y,
        batch_size=8,
        epochs=10,
        verbose=0,
        callbacks=[
            Pruning(0.5, structure="taps"),
            keras_mgrade.callbacks.RegrowDelays(
                (x, y), moves=1, probe_batches=1
            ),
        ],
    )
    kernel = keras.ops.convert_to_numpy(taps.kernel)
    assert np.sum(kernel == 0) == 4
    gone = kernel == 0
    np.testing.assert_array_equal(taps.delays[gone], before[gone])
    assert np.any(taps.delays[~gone] != before[~gone])
    small = shrink(model)
    assert small.layers[0].max_delay == max(taps.delays[~gone])
    assert small.layers[0].kernel_size <= 4
    np.testing.assert_allclose(
        *(m.predict(x, verbose=0) for m in (model, small)), atol=1e-5
    )


def test_only_the_layers_that_are_named(rng):
    x, y = data(rng)
    model = dense_model(keras)
    model.compile("adam", "mse")
    name = model.layers[1].name
    model.fit(x, y, verbose=0, callbacks=[Pruning(0.5, layers=[name])])
    shares = [np.mean(w == 0) for w in model.get_weights()[::2]]
    assert shares == [0.0, 0.5]
    with pytest.raises(ValueError, match="`layers` must be .* Received"):
        model.fit(x, y, verbose=0, callbacks=[Pruning(0.5, layers=["no"])])
    with pytest.raises(ValueError, match="`layers` must be .* Received"):
        model.fit(x, y, verbose=0, callbacks=[Pruning(0.5, layers=[Pruning])])


def test_parts_of_the_same_name(rng):
    """Those of each MGrade have the names of the other's."""
    blocks = [keras_mgrade.MGrade(4, 2, 3, normalization="batch") for _ in "ab"]
    model = keras.Sequential([keras.Input((None, 4)), *blocks])
    model.compile("sgd", "mse")
    x = rng.normal(size=(4, 6, 4)).astype("float32")
    part = blocks[0].recurrence
    fit = {"verbose": 0, "callbacks": [Pruning(0.5, layers=[part])]}
    model.fit(x, x, **fit)
    shares = [
        float(
            np.mean(keras.ops.convert_to_numpy(b.recurrence.cell.kernel) == 0)
        )
        for b in blocks
    ]
    assert shares == [0.5, 0.0]
    with pytest.raises(ValueError, match="2 layers are called"):
        model.fit(x, x, verbose=0, callbacks=[Pruning(0.5, layers=[part.name])])


@pytest.mark.parametrize("wrong", ["half", 1.5, 1.0, -0.1, True])
def test_wrong_schedules_are_refused(wrong):
    with pytest.raises(ValueError, match="schedule.* Received: schedule="):
        Pruning(wrong)


def test_wrong_blocks_are_refused(rng):
    for words, message in (
        ({"block_size": 2}, "two positive .* Received: block_size=2"),
        ({"block_size": (1.5, 2)}, "two .* Received: block_size=.1.5, 2"),
        ({"sparsity_m_by_n": (2, 0)}, "two .* Received: sparsity_m_by_n=.2, 0"),
        ({"sparsity_m_by_n": (4, 2)}, "how many .* Received: sparsity_m_by_n"),
        (
            {"sparsity_m_by_n": (2, 4), "block_size": (2, 2)},
            "not for blocks.* Received: sparsity_m_by_n",
        ),
        (
            {"block_size": (2, 2), "structure": "units"},
            "single weights.* Received: block_s",
        ),
        (
            {"block_pooling_type": "MAX", "structure": "taps"},
            "single weights.* Received: block_pooling_type='MAX'",
        ),
        ({"layers": "dense"}, "a list .* Received: layers='dense'"),
        ({"layers": [5]}, "their names.* Received: layers=.5"),
    ):
        with pytest.raises(ValueError, match=message):
            Pruning(0.5, **words)
    x, y = data(rng)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="several rows and .* shape .8, 1."):
        model.fit(
            x, y[:, :1], verbose=0, callbacks=[Pruning(0.5, block_size=(2, 2))]
        )
    model = dense_model(keras)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="as large as .* Received: block_size"):
        model.fit(x, y, verbose=0, callbacks=[Pruning(0.5, block_size=(64, 2))])


def sequence_model(normalization, interpolation):
    words = {"normalization": normalization, "interpolation": interpolation}
    return keras.Sequential(
        [
            keras.Input((None, 6)),
            keras_mgrade.MGrade(16, 4, 20, **words, name="first"),
            keras_mgrade.MGrade(16, 4, 20, **words),
            keras_mgrade.MinGRU(8, return_sequences=True),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    "normalization, interpolation",
    [
        pytest.param("batch", "linear", marks=slow_except_on("torch")),
        pytest.param(None, "integer", marks=once),
        pytest.param("layer", "gaussian", marks=once),
    ],
)
def test_shrink_keeps_the_outputs(normalization, interpolation, rng):
    model = sequence_model(normalization, interpolation)
    x = rng.normal(size=(16, 50, 6)).astype("float32")
    model.compile("adam", "mse")
    callbacks = [Pruning(0.5, structure="units")]
    if interpolation != "gaussian":
        callbacks.append(Pruning(0.5, structure="taps"))
    y = rng.normal(size=(16, 50, 3)).astype("float32")
    model.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    small = shrink(model)
    wanted = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        small.predict(x, verbose=0),
        wanted,
        rtol=0,
        atol=tolerances.SAME_SUMS * np.abs(wanted).max(),
    )
    first, _, gru, _ = small.layers
    # Layer normalisation reads all channels: only inner widths shrink.
    mixing = normalization == "layer"
    assert first.units == (16 if mixing else 8)
    assert first.units * first.expansion == 16
    assert gru.units == 4
    before, after = (
        keras_mgrade.memory_report(m).total for m in (model, small)
    )
    assert after.parameters < before.parameters
    assert (after.state < before.state) and (
        mixing or after.delay_line_in_use < before.delay_line_in_use
    )
    again = type(first).from_config(first.get_config())
    assert again.expansion == first.expansion


def test_taps_that_leave_shorten_the_line(rng):
    layer = keras_mgrade.DelayConv1D(3, 30, interpolation="integer")
    model = keras.Sequential([keras.Input((None, 2)), layer])
    layer.set_delays([[0, 0], [4, 9], [25, 30]])
    layer.kernel.assign([[1.0, 0.0], [2.0, -1.0], [0.0, 0.0]])
    small = shrink(model).layers[0]
    assert (small.kernel_size, small.max_delay) == (2, 9)
    x = rng.normal(size=(2, 60, 2)).astype("float32")
    np.testing.assert_allclose(
        *(keras.ops.convert_to_numpy(m(x)) for m in (layer, small)), atol=1e-6
    )


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="`model` must be a Sequential"):
        shrink(keras.Sequential([keras.layers.Dense(2)]))
    # All channels are the model's own outputs or inputs.
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="channels of which some can leave"):
        model.fit(
            np.ones((2, 4)),
            np.ones((2, 2)),
            verbose=0,
            callbacks=[Pruning(0.5, structure="units")],
        )

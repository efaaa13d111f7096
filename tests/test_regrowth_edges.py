"""Regrowth where models, data and trainings are not the usual ones."""

import threading

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from budget import slow_except_on
from control import array
from keras_mgrade import DelayConv1D, MGrade, MinGRU, callbacks, regularizers
from keras_mgrade.callbacks.batches import endless
from keras_mgrade.regrowth import Regrowth
from keras_mgrade.regrowth.probe import Probe
from test_regrowth import ProbesOnly, planted, taps_model
from tolerances import FOURIER, assert_close

BACKEND = keras.backend.backend()


class Subclassed(keras.Model):
    """Built by its first call, which on TensorFlow is the first step."""

    def __init__(self, interpolation="integer"):
        super().__init__()
        self.taps = DelayConv1D(4, 12, interpolation)
        self.top = layers.Dense(6)

    def call(self, x):
        return self.top(self.taps(x))


def test_models_that_fit_builds(rng, tmp_path):
    x, y, _ = planted(rng, 2)
    model = Subclassed()
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays((x, y), probe_batches=1, verbose=0)
    seen = callbacks.TensorBoardTaps(tmp_path)
    model.fit(x, y, 8, 20, verbose=0, callbacks=[regrow, seen])
    assert regrow._probes == 8 and regrow._moved > 0
    model = keras.Sequential([DelayConv1D(2, 12, "gaussian", width=4.0)])
    model.compile("adam", "mse")
    anneal = callbacks.AnnealWidth(0.5)
    model.fit(x, y, 8, 4, verbose=0, callbacks=[anneal])
    np.testing.assert_allclose(model.layers[0].widths, 0.5, rtol=1e-5)


def test_a_loss_is_asked_for(rng):
    x, y, _ = planted(rng, 2)
    with pytest.raises(ValueError, match="`loss` is needed.*Received: loss="):
        keras_mgrade.regrow_delays(taps_model(), (x, y))
    moved = keras_mgrade.regrow_delays(taps_model(), (x, y), "mse")
    assert sum(array.sum() for array in moved.values()) > 0


def test_a_channel_without_a_gradient_stays(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()
    (layer,) = model.layers
    before = layer.delays
    weights = np.zeros((len(x), 1), "float32")
    loss = keras.losses.MeanSquaredError()
    moved, settled = Regrowth(model, loss).move([(x, y, weights)])
    assert not moved[layer.path].any() and not settled[layer.path].any()
    np.testing.assert_array_equal(layer.delays, before)


@slow_except_on("torch")
def test_probes_of_a_loss_that_is_not_finite_are_said(rng, capsys):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=1)
    model.compile("sgd", "mse")
    broken = callbacks.RegrowDelays((x, np.nan * y), probe_batches=1)
    before = model.layers[0].delays
    model.fit(x, y, 8, 10, verbose=0, callbacks=[broken])
    line = capsys.readouterr().out
    assert "2 probes (2 of a loss that was not finite), 0 moves" in line
    assert " 0% of the channels settled" in line
    np.testing.assert_array_equal(model.layers[0].delays, before)


@pytest.mark.skipif(BACKEND != "torch", reason="it is PyTorch's DataLoader")
def test_a_shuffling_loader_leaves_the_training_as_it_is(rng):
    import torch

    x, y, _ = planted(rng, 2)
    pairs = torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))
    losses, seen = [], []
    for probing in (False, True):
        keras.utils.set_random_seed(3)
        loader = torch.utils.data.DataLoader(pairs, 8, shuffle=True)
        model = keras.Sequential(
            [*taps_model().layers, layers.Dropout(0.5), layers.Dense(6)]
        )
        model.compile("adam", "mse")
        probes = ProbesOnly(loader, probe_batches=2)
        extra = [probes] if probing else []
        history = model.fit(x, y, 8, 36, verbose=0, callbacks=extra)
        losses.append(history.history["loss"])
        seen.append(probes)
    assert seen[1]._probes == 8
    assert losses[0] == losses[1]
    # Nor does it give the same batches each time.
    probes.begin(600)
    first, *_, later = (array(probes._draw()[0][0]) for _ in range(4))
    assert np.abs(first - later).max() > 0


def twins():
    """Two models of one kind in one: their layers have the same paths."""

    def part(name):
        inputs = keras.Input((None, 6))
        y = DelayConv1D(2, 12, name="taps")(inputs)
        y = MinGRU(6, return_sequences=True, name="gru")(y)
        return keras.Model(inputs, y, name=name)

    inputs = keras.Input((None, 6))
    return keras.Model(inputs, part("first")(part("second")(inputs)))


@slow_except_on("torch")
def test_layers_of_one_path_are_told_apart(rng):
    x, y, _ = planted(rng, 2)
    model = twins()
    first, second = (
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, DelayConv1D)
    )
    assert first.path == second.path
    moved = keras_mgrade.regrow_delays(model, (x, y), "mse")
    assert list(moved) == [first.path, f"{first.path}:2"]
    changes = keras_mgrade.snap_delays(model)
    assert list(changes) == list(moved)
    assert len(keras_mgrade.time_constants(model)) == 2


@slow_except_on("torch")
def test_one_callback_for_one_model_after_another(rng):
    x, y, _ = planted(rng, 2)
    regrow = callbacks.RegrowDelays(
        (x, y), probe_batches=1, total_steps=60, verbose=0
    )
    for taps in (2, 1):
        model = taps_model(taps=taps)
        model.compile("adam", "mse")
        model.fit(x, y, 8, 20, verbose=0, callbacks=[regrow])
        assert regrow._probes == 2 * taps and regrow._moved > 0


@slow_except_on("torch")
def test_a_training_that_goes_on_from_an_epoch(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=2)
    model.compile("adam", "mse")
    # Three steps an epoch: the last three quarters are over at epoch 15.
    late = callbacks.RegrowDelays(
        (x, y), probe_batches=1, total_steps=60, verbose=0
    )
    model.fit(x, y, 8, 20, initial_epoch=15, verbose=0, callbacks=[late])
    assert late._probes == 0

    model = taps_model("gaussian")
    layer = model.layers[0]
    layer.set_widths(np.full((4, 6), 4.0))
    model.compile("sgd", "mse")
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(layer.widths.max())
    )
    for first, last in ((0, 2), (2, 8)):
        anneal = callbacks.AnnealWidth(0.25, until=1.0, total_steps=24)
        model.fit(
            x,
            y,
            8,
            last,
            initial_epoch=first,
            verbose=0,
            callbacks=[anneal, watch],
        )
    wanted = 4.0 * (0.25 / 4) ** (np.arange(1, 9) / 8)
    # A hundred widths on the way: up to one of them late.
    np.testing.assert_allclose(seen, wanted, rtol=0.03)


def test_a_layer_that_is_not_called_stays(rng):
    x, y, _ = planted(rng, 2)

    class Idle(Subclassed):
        def build(self, shape):
            self.taps.build(shape)
            self.top.build(shape)
            self.idle = DelayConv1D(2, 5)
            self.idle.build(shape)

    model = Idle()
    model.build((None, None, 6))
    moved = keras_mgrade.regrow_delays(model, (x, y), "mse")
    assert moved[model.taps.path].any() and not moved[model.idle.path].any()


def test_inputs_without_targets_come_in_random_order_too(rng):
    x = np.arange(30.0)[:, None]
    for data in (x, {"a": x, "b": -x}):
        batches = (next(endless(data, 8, None, seed)) for seed in (0, 1))
        a, b = (array(keras.tree.flatten(batch)[0]) for batch in batches)
        assert a.shape == (8, 1) and a.max() > 7
        assert (a != b).any()


@slow_except_on("torch")
def test_workers_of_a_dataset_stop_with_the_training(rng):
    x, y, _ = planted(rng, 2)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 100

        def __getitem__(self, i):
            return x[:8], y[:8]

    model = taps_model(taps=1)
    model.compile("adam", "mse")
    before = threading.active_count()
    regrow = callbacks.RegrowDelays(
        Batches(workers=2), probe_batches=1, verbose=0
    )
    model.fit(x, y, 8, 10, verbose=0, callbacks=[regrow])
    assert regrow._probes == 2
    assert threading.active_count() <= before


def test_data_that_no_probe_can_read_is_refused_before_training(rng):
    x, y, _ = planted(rng, 2)
    for data in (None, "x", [], (x, y, y, y)):
        with pytest.raises(ValueError, match="`data` must be.*Received: data="):
            callbacks.RegrowDelays(data)
    for data in ((x, y[:10]), (x[:10], y), (x[:0], y[:0])):
        with pytest.raises(ValueError, match="`data` must.*Received: lengths="):
            callbacks.RegrowDelays(data)
    with pytest.raises(ValueError, match="Received: class_weight="):
        callbacks.RegrowDelays((x, y, np.ones(len(x))), class_weight={0: 2.0})
    for seed in ("a", -1, 1.5):
        with pytest.raises(ValueError, match="`seed`.*Received: seed="):
            callbacks.RegrowDelays((x, y), seed=seed)
    for data in (x, [x, y]):
        with pytest.raises(ValueError, match="`data` must.*Received: data="):
            keras_mgrade.regrow_delays(taps_model(), data, "mse")
    with pytest.raises(ValueError, match="Received: price='1e-6'"):
        regularizers.DelayLength("1e-6")


@slow_except_on("torch")
def test_a_generator_that_ends_is_said(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=1)
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays(
        ((x[:8], y[:8]) for _ in range(3)), probe_batches=2, verbose=0
    )
    with pytest.raises(ValueError, match="anew each time.*Received: data="):
        model.fit(x, y, 8, 10, verbose=0, callbacks=[regrow])


@slow_except_on("torch")
def test_the_line_counts_all_that_a_schedule_spans(rng, capsys):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=1)
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays((x, y), probe_batches=1, total_steps=60)
    for _ in range(2):
        model.fit(x, y, 8, 10, verbose=0, callbacks=[regrow])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("RegrowDelays: 1 probes,")
    assert second.startswith("RegrowDelays: 2 probes,")
    assert regrow._spent > regrow._seconds > 0


def test_a_price_keeps_taps_near(rng):
    """A planted delay of eleven steps is worth it only while it is cheap."""
    x = rng.normal(size=(24, 96, 1)).astype("float32")
    y = np.zeros_like(x)
    y[:, 11:] = x[:, :-11]
    found = []
    for price in (1e-6, 10.0):
        layer = DelayConv1D(
            2,
            12,
            "integer",
            use_bias=False,
            delay_regularizer=regularizers.DelayLength(price),
            depthwise_initializer="ones",
        )
        model = keras.Sequential([keras.Input((None, 1)), layer])
        layer.set_delays([[0], [2]])
        keras_mgrade.regrow_delays(model, (x, y), "mse")
        found.append(layer.delays.max())
    assert found[0] == 11 and found[1] <= 2


def test_weighted_and_masked_samples_count_as_in_fit(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()
    model.compile("sgd", "mse")
    probe = Probe(model, model.layers)
    weights = np.zeros((len(x), 1), "float32")
    weights[:3] = 2
    ((weighted, _),) = probe([(x, y, weights)])
    ((alone, _),) = probe([(x[:3], y[:3])])
    assert_close(weighted * len(x) / 6, alone, FOURIER)

    x[:, 60:], short = 0, x[:, :60].copy()
    masking = keras.Sequential(
        [keras.Input((None, 6)), layers.Masking(), *model.layers]
    )
    masking.compile("sgd", "mse")
    probe = Probe(masking, model.layers)
    ((masked, _),) = probe([(x, y)])
    ((alone, _),) = Probe(model, model.layers)([(short, y[:, :60])])
    assert_close(masked, alone, FOURIER)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="it is TensorFlow's trace")
def test_one_trace_for_every_loss_scale(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()
    model.compile("sgd", "mse")
    probe = Probe(model, model.layers)
    for scale in (1.0, 2.0, 4.0):
        probe([(x, y)], scale)
    assert probe._gradients.experimental_get_tracing_count() == 1


def test_an_optimizer_that_is_not_built_yet(rng):
    x, y, _ = planted(rng, 2)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    moved = keras_mgrade.regrow_delays(taps_model(), (x, y), "mse", scaled)
    assert sum(array.sum() for array in moved.values()) > 0


@slow_except_on("torch")
def test_several_inputs_and_outputs(rng):
    x, y, _ = planted(rng, 2)
    a, b = keras.Input((None, 6), name="a"), keras.Input((None, 6), name="b")
    first = DelayConv1D(2, 12, "integer", use_bias=False, name="one")(a)
    second = MGrade(6, 2, 12, "integer", name="two")(b)
    model = keras.Model({"a": a, "b": b}, {"one": first, "two": second})
    model.compile("adam", {"one": "mse", "two": "mse"})
    inputs, targets = {"a": x, "b": x[::-1]}, {"one": y, "two": y}
    regrow = callbacks.RegrowDelays(
        (inputs, targets), probe_batches=1, verbose=0
    )
    model.fit(inputs, targets, 8, 10, verbose=0, callbacks=[regrow])
    assert regrow._probes == 4 and regrow._moved > 6
    assert ops.shape(model.predict(inputs, verbose=0)["one"]) == y.shape

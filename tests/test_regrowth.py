"""Taps that find their delays: the probe, where taps go, what restarts."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from budget import slow_except_on
from control import array
from keras_mgrade import DelayConv1D, MGrade, MinGRU, callbacks
from keras_mgrade.callbacks.scheduled import sync
from keras_mgrade.ops import delay_taps
from keras_mgrade.regrowth import Regrowth, placement
from keras_mgrade.regrowth.probe import Probe
from tolerances import FOURIER, assert_close

SPAN = 12


def planted(rng, delays, channels=6, sequences=24, length=96, span=SPAN):
    """Noise and its response to random taps, each channel its own."""
    x = rng.normal(size=(sequences, length, channels)).astype("float32")
    kernel = np.zeros((span + 1, channels))
    for channel in range(channels):
        places = rng.choice(span + 1, delays, replace=False)
        kernel[places, channel] = rng.choice([-1, 1], delays) * rng.uniform(
            0.4, 1, delays
        )
    y = np.zeros_like(x)
    for n, row in enumerate(kernel.astype("float32")):
        y[:, n:] += row * x[:, : length - n]
    return x, y, kernel


def taps_model(interpolation="integer", taps=4, channels=6, span=SPAN):
    layer = DelayConv1D(taps, span, interpolation, use_bias=False)
    return keras.Sequential([keras.Input((None, channels)), layer])


def variables_of(model):
    return [
        array(v).copy()
        for v in (
            *model.variables,
            *model.metrics_variables,
            *(model.optimizer.variables if model.optimizer else ()),
        )
    ]


@pytest.mark.parametrize("length", [1, 5, 40])
def test_the_fourier_sum_is_the_dense_sum(rng, length):
    x = rng.normal(size=(2, 7 + length, 3)).astype("float32")
    kernel = rng.normal(size=(8, 3)).astype("float32")
    wanted = array(delay_taps.dense_sum(x, ops.convert_to_tensor(kernel)))
    got = delay_taps.fft_sum(ops.convert_to_tensor(x), kernel)
    assert_close(array(got), wanted, FOURIER)


def test_the_autocorrelation(rng):
    x = rng.normal(size=(2, 30, 3)).astype("float32")
    wanted = [
        np.sum(x[:, n:] * x[:, : 30 - n], axis=(0, 1)) / 60 for n in range(8)
    ]
    got = delay_taps.autocorrelation(ops.convert_to_tensor(x), 7)
    assert_close(array(got), np.array(wanted), FOURIER)


def test_the_probe_is_the_gradient_of_a_dense_kernel(rng):
    """Of a mean squared error, which is known in closed form."""
    x, y, _ = planted(rng, 2)
    model = taps_model()
    model.compile("sgd", "mse")
    (layer,) = model.layers
    ((gradient, autocorrelation),) = Probe(model, [layer])([(x, y)])
    # Without the weakest tap of each channel.
    kernel = array(layer.kernel).copy()
    kernel[np.argmin(np.abs(kernel), axis=0), np.arange(6)] = 0
    layer.kernel.assign(kernel)
    error = (array(model(x)) - y).astype("float64")
    wanted = np.zeros_like(gradient)
    for n in range(SPAN + 1):
        wanted[n] = np.sum(error[:, n:] * x[:, : 96 - n], axis=(0, 1))
    assert_close(gradient, 2 * wanted / y.size, FOURIER)
    # Over the sequence and the zeros before it.
    power = (x**2).sum(axis=(0, 1)) / (24 * (SPAN + 96))
    assert_close(autocorrelation[0], power, FOURIER)


def everything(stateful=False):
    """A model with all that a forward pass may write."""
    inputs = keras.Input(batch_shape=(8, None, 3))
    h = layers.GaussianNoise(0.1, seed=1)(inputs)
    h = MGrade(6, 3, SPAN, "integer", normalization="batch", dropout=0.5)(h)
    h = DelayConv1D(2, 5, stateful=stateful)(h)
    h = MinGRU(4, dropout=0.2, stateful=stateful, kernel_regularizer="l2")(h)
    model = keras.Model(inputs, layers.Dense(1)(h))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def test_a_probe_changes_nothing(rng):
    model = everything(stateful=True)
    x = rng.normal(size=(8, 20, 3)).astype("float32")
    y = rng.normal(size=(8, 1)).astype("float32")
    model.fit(x, y, batch_size=8, epochs=2, verbose=0)
    before = variables_of(model)
    regrowth = Regrowth(model, optimizer=model.optimizer)
    assert len(regrowth.layers) == 2
    moved, settled = regrowth.move([(x, y)], layers=[])
    assert moved == settled == {}
    for value, was in zip(variables_of(model), before, strict=True):
        np.testing.assert_array_equal(value, was)


class ProbesOnly(callbacks.RegrowDelays):
    def _move(self, layers):
        sync(self.model)
        self._regrowth.move(self._draw(), [])
        self._probes += 1


@pytest.mark.parametrize(
    "steps_per_execution",
    [1, pytest.param(3, marks=pytest.mark.slow)]
    if keras.backend.backend() != "torch"
    else [1],
)
def test_a_fit_with_probes_and_no_moves_is_the_same_fit(
    rng, steps_per_execution
):
    x = rng.normal(size=(48, 20, 3)).astype("float32")
    y = rng.normal(size=(48, 1)).astype("float32")
    losses, values = [], []
    for probing in (False, True):
        keras.utils.set_random_seed(3)
        model = everything()
        model.compile("adam", "mse", steps_per_execution=steps_per_execution)
        extra = [ProbesOnly((x, y), probe_batches=1, batch_size=8)]
        history = model.fit(
            x,
            y,
            batch_size=8,
            epochs=10,
            verbose=0,
            callbacks=extra if probing else [],
        )
        losses.append(history.history["loss"])
        # Seeds of two models made one after another differ in their names.
        values.append([array(v) for v in model.weights])
        if probing:
            assert extra[0]._probes == 6
    np.testing.assert_array_equal(*losses)
    for with_probes, without in zip(*values, strict=True):
        np.testing.assert_array_equal(with_probes, without)


@slow_except_on("torch")
@pytest.mark.parametrize("interpolation", ["integer", "linear"])
def test_planted_delays_are_found(rng, interpolation):
    x, y, kernel = planted(rng, 3)
    model = taps_model(interpolation)
    regrow = callbacks.RegrowDelays((x, y), batch_size=8, verbose=0)
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    history = model.fit(x, y, 8, 150, verbose=0, callbacks=[regrow])
    assert history.history["loss"][-1] < 1e-3
    found = array(model.layers[0].dense_kernel())
    assert_close(found, kernel, 0.05)
    logs = history.history
    assert logs["taps_moved"][-1] >= 6 and logs["taps_moved"][0] == 0
    # A channel of three delays has one tap to spare, which wanders.
    assert 0 <= logs["channels_settled"][-1] <= 1


@slow_except_on("torch")
def test_delays_are_found_inside_a_network(rng):
    """Behind a frozen layer of delays, which stays as it is."""
    x, y, _ = planted(rng, 2, channels=4)
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            DelayConv1D(1, 2, "integer", use_bias=False),
            DelayConv1D(4, SPAN, use_bias=False),
        ]
    )
    model.layers[0].trainable = False
    frozen = [array(v) for v in model.layers[0].weights]
    model.layers[0].kernel.assign(np.ones((1, 4)))
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    regrow = callbacks.RegrowDelays((x, y), batch_size=8, verbose=0)
    history = model.fit(x, y, 8, 150, verbose=0, callbacks=[regrow])
    assert history.history["loss"][-1] < 1e-3
    np.testing.assert_array_equal(model.layers[0].delays, 4 * frozen[1])


def test_several_layers_move_as_often_as_their_taps_ask():
    model = keras.Sequential(
        [
            keras.Input((None, 2)),
            DelayConv1D(8, 40, "integer"),
            DelayConv1D(2, 9),
        ]
    )
    model.compile("sgd", "mse")
    callback = callbacks.RegrowDelays((np.zeros((4, 60, 2)),) * 2)
    callback.set_model(model)
    callback._prepare()
    schedule = callback._make_schedule(1000)
    assert [step for step, _ in schedule][-1] == 750
    assert sum(0 in due for _, due in schedule) == 16
    assert sum(1 in due for _, due in schedule) == 4
    gaps = np.diff([step for step, due in schedule if 1 in due])
    assert gaps.max() - gaps.min() <= 1
    # Time for three probes: the layer of two taps has one of them.
    with pytest.warns(UserWarning, match="few for 16"):
        schedule = callback._make_schedule(80)
    assert [due for _, due in schedule] == [[0], [0], [0, 1]]


OPTIMIZERS = {
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "RMSprop": lambda: keras.optimizers.RMSprop(momentum=0.9, centered=True),
    "Adam": lambda: keras.optimizers.Adam(amsgrad=True),
    "AdamW": lambda: keras.optimizers.AdamW(),
    "Nadam": lambda: keras.optimizers.Nadam(),
    "Lion": lambda: keras.optimizers.Lion(),
    "averaged": lambda: keras.optimizers.Adam(use_ema=True),
    "accumulating": lambda: keras.optimizers.Adam(
        gradient_accumulation_steps=3
    ),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), initial_scale=8.0
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(
    "interpolation",
    ["integer", pytest.param("linear", marks=slow_except_on("torch"))],
)
def test_moments_of_a_moved_tap_restart(name, interpolation, rng):
    x, y, _ = planted(rng, 2)
    model = taps_model(interpolation)
    optimizer = OPTIMIZERS[name]()
    model.compile(optimizer, "mse")
    # Five steps: one past a step of the accumulated gradients.
    for _ in range(5):
        model.train_on_batch(x, y)
    (layer,) = model.layers
    slots = [
        v
        for v in optimizer.variables
        if tuple(v.shape) == tuple(layer.kernel.shape)
    ]
    wanted = {"SGD": 1, "RMSprop": 3, "Adam": 3, "Lion": 1}.get(name, 2)
    wanted += name in ("averaged", "accumulating")
    assert len(slots) == wanted * (1 if interpolation == "integer" else 2)
    before = [array(v).copy() for v in slots]
    if name == "scaled":
        before_scale = float(array(optimizer.dynamic_scale))
    moved, _ = Regrowth(model, optimizer=optimizer).move([(x, y)])
    (moved,) = moved.values()
    assert moved.sum(axis=0).max() == 1 and moved.any()
    for slot, was in zip(slots, before, strict=True):
        value = array(slot)
        np.testing.assert_array_equal(value[~moved], was[~moved])
        if "average" in slot.path and name == "averaged":
            new = layer.kernel if "kernel" in slot.path else layer._delays
            np.testing.assert_array_equal(value[moved], array(new)[moved])
        else:
            assert (value[moved] == 0).all()
            assert np.abs(was[moved]).max() > 0
    if name == "scaled":
        assert float(array(optimizer.dynamic_scale)) == before_scale
    # And training goes on.
    model.train_on_batch(x, y)


def test_other_optimisers_are_refused_by_name(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()

    class Mine(keras.optimizers.Adam):
        pass

    name = r"(keras\..*\.Adagrad|test_regrowth\.Mine)"
    for optimizer in (keras.optimizers.Adagrad(), Mine()):
        model.compile(optimizer, "mse")
        with pytest.raises(
            ValueError, match=f"Adam, .*Received: optimizer={name}"
        ):
            model.fit(
                x,
                y,
                verbose=0,
                callbacks=[callbacks.RegrowDelays((x, y))],
            )


def test_where_taps_go():
    """Two taps in a span of eight; the second one is the weakest."""
    white = np.eye(9)[:, :1]
    kernel, delays = np.array([[2.0], [0.1]]), np.array([[3.0], [8.0]])

    def best(gradient, autocorrelation=white, **arguments):
        places, moves, settled = placement.place(
            kernel, delays, gradient[:, None], autocorrelation, **arguments
        )
        assert moves[0] != settled[0]
        return int(places[0]), bool(settled[0])

    gradient = np.array([0, 0.1, 0, 9, 0, -0.5, 0, 0, 0.3])
    # Not on the other tap, and by size, not by sign.
    assert best(gradient) == (5, False)
    gradient[8] = 0.6
    assert best(gradient) == (8, True)
    # Two bytes beyond the other tap cost 2 * 0.3; three nearly as good don't.
    assert best(gradient, price=0.1) == (5, False)
    assert best(gradient, price=0.4) == (1, False)
    # What the strong tap explains is not asked for: next to it everything
    # looks like it.
    coloured = 0.9 ** np.arange(9)[:, None]
    smeared = 5 * coloured[np.abs(np.arange(9) - 3), 0]
    smeared[7] += 0.5
    assert best(smeared)[0] in (2, 4)
    assert best(smeared, coloured) == (7, False)
    # Where nothing is known nothing moves, and nothing is settled.
    for unknown in (np.zeros(9), np.where(gradient > 1, np.nan, gradient)):
        _, moves, settled = placement.place(
            kernel, delays, unknown[:, None], white
        )
        assert not moves[0] and not settled[0]


def test_more_taps_than_places_are_settled():
    layer = DelayConv1D(5, 3, "integer", use_bias=False)
    model = keras.Sequential([keras.Input((None, 1)), layer])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(2, 9, 1)).astype("float32")
    layer.set_delays([[0], [1], [2], [3], [0]])
    moved, settled = Regrowth(model).move([(x, x)])
    assert not moved[layer.path].any() and settled[layer.path].all()


@slow_except_on("torch")
@pytest.mark.parametrize("kind", ["arrays", "weights", "dataset", "pydataset"])
def test_any_data_that_fit_takes(kind, rng):
    x, y, _ = planted(rng, 2)
    data = {"arrays": (x, y), "weights": (x, y, np.ones((len(x), 1)))}.get(kind)
    if kind == "dataset":
        tf = pytest.importorskip("tensorflow")
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
    if kind == "pydataset":

        class Batches(keras.utils.PyDataset):
            def __len__(self):
                return 3

            def __getitem__(self, i):
                return x[8 * i : 8 * i + 8], y[8 * i : 8 * i + 8]

        data = Batches()
    model = taps_model(taps=2)
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays(data, probe_batches=2, verbose=0)
    model.fit(x, y, 8, 20, verbose=0, callbacks=[regrow])
    assert regrow._probes == 4 and regrow._moved > 0


def test_weights_of_classes_are_weights_of_their_samples(rng):
    x = rng.normal(size=(30, 40, 2)).astype("float32")
    y = rng.integers(0, 2, 30)
    weights = {0: 0.25, 1: 2.0}
    given = {
        "none": callbacks.RegrowDelays((x, y), verbose=0),
        "classes": callbacks.RegrowDelays(
            (x, y), class_weight=weights, verbose=0
        ),
        "samples": callbacks.RegrowDelays(
            (x, y, np.where(y, 2.0, 0.25)[:, None]), verbose=0
        ),
    }
    gradients = {}
    for name, callback in given.items():
        keras.utils.set_random_seed(1)
        layer = DelayConv1D(2, 9, "integer")
        model = keras.Sequential([keras.Input((None, 2)), layer])
        model.add(layers.GlobalAveragePooling1D())
        model.add(layers.Dense(2, activation="softmax"))
        model.compile("sgd", "sparse_categorical_crossentropy")
        callback.set_model(model)
        callback._total, callback._begun = None, False
        callback.params = {"steps": 40, "epochs": 10}
        callback.on_epoch_begin(0)
        batch = next(callback._batches)
        ((gradients[name], _),) = Probe(model, [layer])([batch])
    assert np.abs(gradients["none"] - gradients["classes"]).max() > 1e-4
    assert_close(gradients["classes"], gradients["samples"], FOURIER)


def test_a_generator_needs_the_number_of_steps(rng):
    x, y, _ = planted(rng, 2)

    def batches():
        while True:
            yield x[:8], y[:8]

    model = taps_model(taps=1)
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays((x, y), probe_batches=1, verbose=0)
    model.fit(
        batches(),
        steps_per_epoch=10,
        epochs=4,
        verbose=0,
        callbacks=[regrow],
    )
    assert regrow._probes == 2
    with pytest.raises(ValueError, match="`total_steps` is needed.*Received"):
        model.fit(
            (batch for batch in [(x[:8], y[:8])] * 4),
            verbose=0,
            callbacks=[regrow],
        )


@slow_except_on("torch")
def test_a_short_fit_warns_once_and_probes_less(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays((x, y), probe_batches=1, verbose=0)
    with pytest.warns(UserWarning, match="30 steps are few for 8") as caught:
        model.fit(x, y, 8, 10, verbose=0, callbacks=[regrow])
    ours = [w for w in caught if "RegrowDelays" in str(w.message)]
    assert len(ours) == 1
    assert regrow._probes == 4  # 15 % of 30 steps
    assert regrow._moved <= 4 * 6


@slow_except_on("torch")
def test_schedules_of_one_fit_after_another(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=1)
    model.compile("adam", "mse")

    def fit(callback, **arguments):
        model.fit(x, y, 8, verbose=0, callbacks=[callback], **arguments)
        return callback._probes

    each = callbacks.RegrowDelays((x, y), probe_batches=1, verbose=0)
    assert [fit(each, epochs=10) for _ in range(2)] == [2, 2]
    spanning = callbacks.RegrowDelays(
        (x, y), probe_batches=1, verbose=0, total_steps=60
    )
    assert [fit(spanning, epochs=10) for _ in range(2)] == [1, 2]
    assert spanning.steps_done == 60
    # One that goes on from an epoch has had what was due before it.
    assert fit(each, epochs=10, initial_epoch=5) == 1


@slow_except_on("torch")
def test_the_same_seed_gives_the_same_taps(rng):
    x, y, _ = planted(rng, 3)
    found = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(5)
        model = taps_model()
        model.compile("adam", "mse")
        regrow = callbacks.RegrowDelays(
            (x, y), probe_batches=1, batch_size=4, seed=seed, verbose=0
        )
        model.fit(x, y, 8, 20, verbose=0, shuffle=False, callbacks=[regrow])
        found.append(model.get_weights())
    for first, again in zip(*found[:2], strict=True):
        np.testing.assert_array_equal(first, again)
    assert any((a != b).any() for a, b in zip(*found[1:], strict=True))


@slow_except_on("torch")
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_regrowth_in_half_precision(policy, rng):
    x, y, kernel = planted(rng, 2)
    layer = DelayConv1D(4, SPAN, "integer", use_bias=False, dtype=policy)
    model = keras.Sequential([keras.Input((None, 6)), layer])
    optimizer = keras.optimizers.Adam(1e-2)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, "mse")
    regrow = callbacks.RegrowDelays((x, y), batch_size=8, verbose=0)
    model.fit(x, y, 8, 150, verbose=0, callbacks=[regrow])
    assert_close(array(layer.dense_kernel()), kernel, 0.1)


def test_the_function_for_other_loops(rng):
    x, y, kernel = planted(rng, 2)
    model = taps_model()
    (layer,) = model.layers
    before = layer.delays
    loss = keras.losses.MeanSquaredError()
    moved = keras_mgrade.regrow_delays(model, (x, y), loss)
    (path,) = moved
    assert path == layer.path
    where = moved[path]
    assert (array(layer.kernel)[where] == 0).all()
    assert (layer.delays != before)[where].all()
    assert (layer.delays == before)[~where].all()
    # A planted delay without a tap is what is asked for.
    for tap, channel in np.argwhere(where):
        others = np.delete(layer.delays[:, channel], tap)
        if set(np.flatnonzero(kernel[:, channel])) - set(others):
            assert kernel[int(layer.delays[tap, channel]), channel] != 0


def test_what_cannot_regrow_is_refused(rng):
    x, y, _ = planted(rng, 2)
    gaussian = taps_model("gaussian")
    frozen = taps_model()
    frozen.trainable = False
    for model in (
        gaussian,
        frozen,
        keras.Sequential([keras.Input((None, 6)), MinGRU(2)]),
    ):
        with pytest.raises(ValueError, match="`model` must.*Received: model="):
            keras_mgrade.regrow_delays(model, (x, y), lambda a, b: a - b)
    for arguments, name in (
        ({"moves": -1}, "moves"),
        ({"until": 1.5}, "until"),
        ({"probe_batches": 0}, "probe_batches"),
        ({"batch_size": 2.5}, "batch_size"),
        ({"total_steps": -1}, "total_steps"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}="):
            callbacks.RegrowDelays((x, y), **arguments)
    with pytest.raises(ValueError, match="at least one batch"):
        keras_mgrade.regrow_delays(taps_model(), [], lambda a, b: a - b)


@slow_except_on("torch")
def test_a_line_at_the_end_says_what_it_found_and_cost(rng, capsys):
    x, y, _ = planted(rng, 2)
    model = taps_model(taps=1)
    model.compile("adam", "mse")
    regrow = callbacks.RegrowDelays((x, y), probe_batches=1)
    model.fit(x, y, 8, 10, verbose=0, callbacks=[regrow])
    line = capsys.readouterr().out
    assert line.startswith("RegrowDelays: 2 probes, ")
    assert "of the channels settled" in line and "% of the training" in line


def test_sample_weights_with_a_loss_of_ones_own(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model()
    weights = np.zeros((len(x), 1), "float32")
    weights[:3] = 1
    loss = keras.losses.MeanSquaredError()
    probe = Probe(model, model.layers, loss)
    ((weighted, _),) = probe([(x, y, weights)])
    ((alone, _),) = probe([(x[:3], y[:3])])
    # The mean is over all samples, those of weight zero among them.
    assert_close(weighted * len(x) / 3, alone, FOURIER)
    with pytest.raises(ValueError, match="sample weights.*Received: loss="):
        keras_mgrade.regrow_delays(
            model, (x, y, weights), lambda a, b: (a - b) ** 2
        )


def test_a_probe_of_a_layer_that_has_snapped_since(rng):
    """It moves the taps that a layer made with whole taps would move."""
    x, y, _ = planted(rng, 2)
    model, loss = taps_model("linear"), keras.losses.MeanSquaredError()
    keras_mgrade.regrow_delays(model, (x, y), loss)
    model.layers[0].snap_delays()
    weights = model.get_weights()
    moved = keras_mgrade.regrow_delays(model, (x, y), loss)
    fresh = taps_model("integer")
    fresh.set_weights(weights)
    wanted = keras_mgrade.regrow_delays(fresh, (x, y), loss)
    np.testing.assert_array_equal(*moved.values(), *wanted.values())
    for ours, theirs in zip(model.weights, fresh.weights, strict=True):
        np.testing.assert_array_equal(array(ours), array(theirs))


def test_widths_narrow_by_equal_factors_and_then_stay(rng):
    x, y, _ = planted(rng, 2)
    model = taps_model("gaussian")
    layer = model.layers[0]
    layer.set_widths(np.full((4, 6), 4.0))
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(layer.widths.max())
    )
    model.compile("sgd", "mse")
    anneal = callbacks.AnnealWidth(0.25, until=0.5)
    model.fit(x, y, 8, 8, verbose=0, callbacks=[anneal, watch])
    np.testing.assert_allclose(seen, [2, 1, 0.5] + 5 * [0.25], rtol=1e-5)
    with pytest.raises(ValueError, match="`end`.*Received: end=0"):
        callbacks.AnnealWidth(0)
    with pytest.raises(ValueError, match="at least 0.1. Received: steps="):
        layer.set_widths(np.zeros((4, 6)))
    whole = taps_model()
    whole.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`model` must.*Received: model="):
        whole.fit(x, y, verbose=0, callbacks=[callbacks.AnnealWidth()])
    with pytest.raises(ValueError, match="Received: interpolation='integer'"):
        whole.layers[0].set_widths(np.ones((4, 6)))

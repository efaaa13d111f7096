"""States carried from call to call, and the states of whole models."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from keras_mgrade import DelayConv1D, MGrade, MinGRU
from tolerances import SAME_SUMS, assert_close

BATCH, LENGTH, CHANNELS, SPAN = 2, 13, 3, 4
LAYERS = {
    "min_gru": lambda **flags: MinGRU(4, return_sequences=True, **flags),
    "backwards": lambda **flags: MinGRU(
        4, return_sequences=True, go_backwards=True, **flags
    ),
    "linear": lambda **flags: DelayConv1D(3, SPAN, **flags),
    "integer": lambda **flags: DelayConv1D(3, SPAN, "integer", **flags),
    "gaussian": lambda **flags: DelayConv1D(3, SPAN, "gaussian", **flags),
    "mgrade": lambda **flags: MGrade(4, 3, SPAN, **flags),
}
# Shorter than the delay line, longer, and of one step.
CHUNKS = (1, 2, 7, 1, 2)


def pair(make, batch=BATCH):
    """A stateful model and the same weights without state."""
    stateful = keras.Sequential(
        [
            keras.Input(batch_shape=(batch, None, CHANNELS)),
            make(stateful=True),
            layers.Dense(2),
        ]
    )
    plain = keras.Sequential(
        [keras.Input((None, CHANNELS)), make(), layers.Dense(2)]
    )
    plain.set_weights(stateful.get_weights())
    return stateful, plain


def array(x):
    return ops.convert_to_numpy(x)


def in_chunks(call, x):
    starts = np.cumsum((0, *CHUNKS))
    assert starts[-1] == x.shape[1]
    chunks = [call(x[:, a:b]) for a, b in zip(starts, starts[1:], strict=False)]
    return np.concatenate(chunks, axis=1)


@pytest.fixture
def x(rng):
    return rng.normal(size=(BATCH, LENGTH, CHANNELS)).astype("float32")


@pytest.mark.parametrize("how", ["eager", "predict"])
@pytest.mark.parametrize("name", sorted(set(LAYERS) - {"backwards"}))
def test_chunks_equal_the_whole(name, how, x):
    stateful, plain = pair(LAYERS[name])
    calls = {
        "eager": lambda chunk: array(stateful(chunk)),
        "predict": lambda chunk: stateful.predict(
            chunk, batch_size=BATCH, verbose=0
        ),
    }
    whole = array(plain(x))
    assert_close(in_chunks(calls[how], x), whole, SAME_SUMS)
    # It goes on from there, until it is told to start anew.
    assert np.abs(calls[how](x) - whole).max() > 1e-3
    keras_mgrade.reset_states(stateful)
    assert_close(in_chunks(calls[how], x), whole, SAME_SUMS)


def test_backwards_chunks_come_last_first(x):
    stateful, plain = pair(LAYERS["backwards"])
    last = array(stateful(x[:, 5:]))
    first = array(stateful(x[:, :5]))
    assert_close(
        np.concatenate([last, first], axis=1), array(plain(x)), SAME_SUMS
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fit_carries_states_over_batches(jit_compile, x):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch compiles nothing here")
    # Four batches of one model's time: the states after `fit` are those of
    # one long sequence, since nothing is learned.
    stateful, plain = pair(LAYERS["mgrade"])
    stateful.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    pieces = np.split(x[:, :12], 4, axis=1)
    stateful.fit(
        np.concatenate(pieces),
        np.zeros((4 * BATCH, 3, 2), "float32"),
        batch_size=BATCH,
        shuffle=False,
        epochs=1,
        verbose=0,
    )
    assert_close(array(stateful(x[:, 12:])), array(plain(x))[:, 12:], SAME_SUMS)


def test_learning_while_states_are_carried(x):
    stateful, _ = pair(LAYERS["mgrade"])
    stateful.compile("adam", "mse")
    history = stateful.fit(
        x, np.ones((BATCH, LENGTH, 2)), batch_size=BATCH, epochs=8, verbose=0
    )
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_states_are_variables_but_not_weights(name, tmp_path):
    stateful, plain = pair(LAYERS[name])
    states = [s for v in keras_mgrade.get_states(stateful).values() for s in v]
    assert len(stateful.weights) == len(plain.weights)
    assert len(stateful.variables) == len(plain.variables) + len(states)
    assert len(stateful.trainable_variables) == len(plain.trainable_variables)
    # Nor are they in files: a file made before a stream is read after it.
    stateful.save_weights(tmp_path / "before.weights.h5")
    stateful(np.ones((BATCH, 3, CHANNELS), "float32"))
    reached = keras_mgrade.get_states(stateful)
    stateful.load_weights(tmp_path / "before.weights.h5")
    for path, values in keras_mgrade.get_states(stateful).items():
        for value, before in zip(values, reached[path], strict=True):
            np.testing.assert_array_equal(value, before)
            assert np.abs(value).max() > 0
    stateful.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for values in keras_mgrade.get_states(loaded).values():
        assert all((value == 0).all() for value in values)


def test_states_of_a_model_are_read_and_written(x, tmp_path):
    stateful, plain = pair(LAYERS["mgrade"])
    stateful(x[:, :5])
    states = keras_mgrade.get_states(stateful)
    (block,) = (layer.path for layer in stateful.layers[:1])
    assert {path: [s.shape for s in v] for path, v in states.items()} == {
        f"{block}/convolution": [(BATCH, SPAN, 4)],
        f"{block}/recurrence": [(BATCH, 4)],
    }
    stateful(x)
    keras_mgrade.set_states(stateful, states)
    assert_close(array(stateful(x[:, 5:])), array(plain(x))[:, 5:], SAME_SUMS)


def test_one_row_starts_anew(x):
    stateful, plain = pair(LAYERS["mgrade"])
    stateful(x[:, :5])
    keras_mgrade.reset_states(stateful, rows=1)
    y = array(stateful(x[:, 5:]))
    assert_close(y[:1], array(plain(x))[:1, 5:], SAME_SUMS)
    assert_close(y[1:], array(plain(x[:, 5:]))[1:], SAME_SUMS)


def test_reset_to_given_states(x):
    for make in (LAYERS["min_gru"], LAYERS["linear"], LAYERS["mgrade"]):
        layer = make(stateful=True, return_state=True)
        _, *states = layer(x[:, :6])
        wanted, *_ = layer(x[:, 6:])
        layer.reset_state([array(s) for s in states])
        y, *_ = layer(x[:, 6:])
        np.testing.assert_array_equal(array(y), array(wanted))
        layer.reset_states()
        assert all((array(s) == 0).all() for s in layer.states)


def test_an_initial_state_takes_the_place_of_the_carried_one(x):
    layer = MinGRU(4, return_state=True, stateful=True)
    given = np.ones((BATCH, 4), "float32")
    wanted, reached = layer(x, initial_state=given)
    layer(x)
    y, _ = layer(x, initial_state=[given])
    np.testing.assert_array_equal(array(y), array(wanted))
    np.testing.assert_array_equal(array(layer.states[0]), array(reached))


def test_rows_of_a_stream_start_anew(x):
    _, plain = pair(LAYERS["mgrade"])
    stream = keras_mgrade.streaming_model(plain, batch_size=BATCH)
    step = keras_mgrade.compile_step(stream)
    states = keras_mgrade.initial_states(stream)
    _, states = step(x[:, :5], states)
    y, _ = step(x[:, 5:], keras_mgrade.reset_rows(states, rows=[0]))
    assert_close(array(y)[:1], array(plain(x[:, 5:]))[:1], SAME_SUMS)
    assert_close(array(y)[1:], array(plain(x))[1:, 5:], SAME_SUMS)


def test_both_directions_carry_their_states(x):
    both = layers.Bidirectional(MinGRU(4, stateful=True))
    model = keras.Sequential([keras.Input(batch_shape=x.shape), both])
    first = array(model(x))
    states = {
        path.rsplit("/")[-1].split("_")[0]: values[0]
        for path, values in keras_mgrade.get_states(model).items()
    }
    both_ways = [states["forward"], states["backward"]]
    np.testing.assert_array_equal(np.concatenate(both_ways, axis=1), first)
    assert np.abs(array(model(x)) - first).max() > 1e-3


def test_a_stateful_model_streams_like_any_other(x):
    stateful, plain = pair(LAYERS["mgrade"])
    stream = keras_mgrade.streaming_model(stateful, batch_size=1)
    step = keras_mgrade.compile_step(stream)
    y, _ = step(x[:1], keras_mgrade.initial_states(stream))
    assert_close(array(y), array(plain(x[:1])), SAME_SUMS)


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_another_batch_size_is_refused(name, x):
    layer = LAYERS[name](stateful=True)
    layer(x)
    with pytest.raises(ValueError, match="batches of 2.*batch_size=1"):
        layer(x[:1])
    with pytest.raises(ValueError, match="batches of 2.*batch_size=5"):
        layer(keras.Input(batch_shape=(5, None, CHANNELS)))


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_an_unknown_batch_size_is_refused(name):
    with pytest.raises(ValueError, match="Received: batch_size=None"):
        LAYERS[name](stateful=True)(keras.Input((None, CHANNELS)))


def test_what_does_not_fit_is_refused(x):
    stateful, plain = pair(LAYERS["mgrade"])
    with pytest.raises(ValueError, match="stateful=True. A.*Received: model="):
        keras_mgrade.get_states(plain)
    states = keras_mgrade.get_states(stateful)
    with pytest.raises(ValueError, match="`states` must have an entry"):
        keras_mgrade.set_states(stateful, {})
    (first, *_) = states
    wrong = {**states, first: [s[:1] for s in states[first]]}
    with pytest.raises(ValueError, match=rf"`states\['{first}'\]`.*shapes="):
        keras_mgrade.set_states(stateful, wrong)
    for rows in (2, [-1], [0.5], "all"):
        with pytest.raises(ValueError, match="`rows` must be.*Received: rows="):
            keras_mgrade.reset_states(stateful, rows)
    with pytest.raises(ValueError, match="Received: stateful=False"):
        MinGRU(4).reset_state([np.zeros((2, 4))])
    with pytest.raises(ValueError, match="`initial_state`.*shape"):
        stateful.layers[0].recurrence.reset_state([np.zeros((3, 4))])


def test_layers_of_one_path_keep_states_of_their_own(x):
    """Two nested models may have layers of one name."""

    def branch(name):
        inputs = keras.Input(batch_shape=x.shape)
        y = MinGRU(4, stateful=True, name="gru")(inputs)
        return keras.Model(inputs, y, name=name)

    inputs = keras.Input(batch_shape=x.shape)
    outputs = [branch("left")(inputs), branch("right")(inputs)]
    model = keras.Model(inputs, layers.Concatenate()(outputs))
    first = array(model(x))
    states = keras_mgrade.get_states(model)
    assert list(states) == ["gru", "gru:2"]
    second = array(model(x))
    keras_mgrade.set_states(model, states)
    np.testing.assert_array_equal(array(model(x)), second)
    keras_mgrade.reset_states(model)
    np.testing.assert_array_equal(array(model(x)), first)


@pytest.mark.parametrize("name", ["min_gru", "linear", "mgrade"])
def test_a_layer_may_stop_being_stateful(name, x):
    layer = LAYERS[name](stateful=True)
    first = array(layer(x))
    layer.stateful = False
    for _ in range(2):
        np.testing.assert_array_equal(array(layer(x)), first)


def test_states_of_a_step_are_checked_and_may_be_arrays(x):
    _, plain = pair(LAYERS["mgrade"])
    stream = keras_mgrade.streaming_model(plain, batch_size=BATCH)
    step = keras_mgrade.compile_step(stream)
    zeros = [np.zeros(s.shape) for s in keras_mgrade.initial_states(stream)]
    # As they come from a file: float64 arrays, for a sample and for a chunk.
    y, _ = step(x, zeros)
    assert_close(array(y), array(plain(x)), SAME_SUMS)
    first, _ = step(x[:, 0], zeros)
    assert_close(array(first), array(y)[:, 0], SAME_SUMS)
    for wrong in (zeros[:1], zeros[0], [zeros[0], zeros[1][:1]], zeros[::-1]):
        with pytest.raises(ValueError, match="`states` must.*Received: states"):
            step(x, wrong)
    with pytest.raises(ValueError, match="`states` must be a list.*Received"):
        keras_mgrade.reset_rows(ops.ones((2, 4)), rows=1)

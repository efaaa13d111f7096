import keras
import numpy as np
import pytest
from keras import ops

import keras_mgrade
import reference
from keras_mgrade import MinGRU, MinGRUCell
from tolerances import SAME_SUMS, assert_close

LENGTH = 9


def layer_and_input(rng, length=LENGTH, **arguments):
    layer = MinGRU(4, return_sequences=True, return_state=True, **arguments)
    x = rng.normal(size=(3, length, 5)).astype("float32")
    layer.build(x.shape)
    h = rng.normal(size=(3, 4)).astype("float32")
    return layer, x, h


def expected(layer, x, h, **arguments):
    weights = [ops.convert_to_numpy(w) for w in layer.trainable_variables]
    return reference.min_gru(x, *weights, h, **arguments)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 64, 129])
def test_equals_the_reference(rng, length):
    layer, x, h = layer_and_input(rng, length)
    y, last = layer(x, initial_state=h)
    truth = expected(layer, x, h)
    assert_close(ops.convert_to_numpy(y), truth, SAME_SUMS)
    assert_close(ops.convert_to_numpy(last), truth[:, -1], SAME_SUMS)


def test_candidate_activation_and_missing_bias(rng):
    layer, x, h = layer_and_input(rng, activation="tanh", use_bias=False)
    (kernel,) = layer.trainable_variables
    truth = reference.min_gru(
        x, ops.convert_to_numpy(kernel), 0.0, h, activation=np.tanh
    )
    assert_close(
        ops.convert_to_numpy(layer(x, initial_state=h)[0]), truth, SAME_SUMS
    )


def test_hard_sigmoid_gate(rng):
    layer, x, h = layer_and_input(rng, recurrent_activation="hard_sigmoid")
    plain = MinGRU(4, return_sequences=True)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    y = ops.convert_to_numpy(layer(x)[0])
    assert np.abs(y - ops.convert_to_numpy(plain(x))).max() > 1e-3
    cell_rnn = keras.layers.RNN(layer.cell, return_sequences=True)
    assert_close(ops.convert_to_numpy(cell_rnn(x)), y, SAME_SUMS)


def test_equals_keras_rnn_around_the_cell(rng):
    layer, x, h = layer_and_input(rng)
    rnn = keras.layers.RNN(layer.cell, return_sequences=True, return_state=True)
    for ours, theirs in zip(
        layer(x, initial_state=h), rnn(x, initial_state=[h]), strict=True
    ):
        assert_close(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), SAME_SUMS
        )


@pytest.mark.parametrize("split", range(1, LENGTH))
def test_two_chunks_equal_the_whole(rng, split):
    layer, x, h = layer_and_input(rng)
    whole, last = layer(x, initial_state=h)
    first, state = layer(x[:, :split], initial_state=h)
    second, state = layer(x[:, split:], initial_state=[state])
    chunks = ops.concatenate([first, second], axis=1)
    assert_close(
        ops.convert_to_numpy(chunks), ops.convert_to_numpy(whole), SAME_SUMS
    )
    assert_close(
        ops.convert_to_numpy(state), ops.convert_to_numpy(last), SAME_SUMS
    )


@pytest.mark.parametrize("chunk", [2, 3, 5])
def test_equal_chunks_equal_the_whole(rng, chunk):
    layer, x, h = layer_and_input(rng)
    whole, _ = layer(x, initial_state=h)
    pieces, state = [], h
    for start in range(0, LENGTH, chunk):
        piece, state = layer(x[:, start : start + chunk], initial_state=state)
        pieces.append(piece)
    assert_close(
        ops.convert_to_numpy(ops.concatenate(pieces, axis=1)),
        ops.convert_to_numpy(whole),
        SAME_SUMS,
    )


def test_steps_equal_the_whole(rng):
    layer, x, h = layer_and_input(rng)
    whole, _ = layer(x, initial_state=h)
    states = [ops.convert_to_tensor(h)]
    for t in range(LENGTH):
        y_t, states = layer.step(ops.convert_to_tensor(x[:, t]), states)
        assert_close(
            ops.convert_to_numpy(y_t),
            ops.convert_to_numpy(whole[:, t]),
            SAME_SUMS,
        )


def test_step_needs_nothing_but_the_initial_state(rng):
    layer, x, _ = layer_and_input(rng)
    states = layer.get_initial_state(3)
    assert [s.shape for s in states] == [(3, 4)]
    assert layer.state_specs == [("hidden", (4,), "recurrent")]
    y_t, _ = layer.step(ops.convert_to_tensor(x[:, 0]), states)
    assert_close(
        ops.convert_to_numpy(y_t),
        ops.convert_to_numpy(layer(x)[0][:, 0]),
        SAME_SUMS,
    )


MASKS = {
    "right": [1, 1, 1, 1, 1, 0, 0, 0, 0],
    "left": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "holes": [1, 0, 1, 1, 0, 0, 1, 0, 1],
    "none valid": [0] * LENGTH,
    "all valid": [1] * LENGTH,
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_masked_step_keeps_the_state(rng, kind):
    layer, x, h = layer_and_input(rng)
    mask = np.array([MASKS[kind], MASKS["holes"], MASKS["all valid"]], bool)
    y, last = layer(x, initial_state=h, mask=mask)
    truth = expected(layer, x, h, mask=mask)
    assert_close(ops.convert_to_numpy(y), truth, SAME_SUMS)
    assert_close(ops.convert_to_numpy(last), truth[:, -1], SAME_SUMS)


def test_the_last_state_is_that_of_the_last_valid_step(rng):
    layer, x, h = layer_and_input(rng)
    mask = np.arange(LENGTH) < np.array([[4], [6], [9]])
    _, last = layer(x, initial_state=h, mask=mask)
    for row, length in enumerate((4, 6, 9)):
        _, alone = layer(
            x[row : row + 1, :length], initial_state=h[row : row + 1]
        )
        assert_close(
            ops.convert_to_numpy(last[row : row + 1]),
            ops.convert_to_numpy(alone),
            SAME_SUMS,
        )


def test_nan_behind_a_mask_stays_out(rng):
    layer, x, h = layer_and_input(rng)
    mask = np.array([MASKS["holes"]] * 3, bool)
    clean = layer(x, initial_state=h, mask=mask)[0]
    x[~mask] = np.nan
    dirty = layer(x, initial_state=h, mask=mask)[0]
    np.testing.assert_array_equal(
        ops.convert_to_numpy(dirty), ops.convert_to_numpy(clean)
    )


def test_masking_layer_in_front(rng):
    x = rng.normal(size=(2, LENGTH, 5)).astype("float32")
    x[0, 5:] = 0
    model = keras.Sequential(
        [keras.Input((None, 5)), keras.layers.Masking(), MinGRU(4)]
    )
    layer = model.layers[-1]
    padded = ops.convert_to_numpy(model(x))
    assert_close(padded[:1], ops.convert_to_numpy(layer(x[:1, :5])), SAME_SUMS)
    assert_close(padded[1:], ops.convert_to_numpy(layer(x[1:])), SAME_SUMS)


@pytest.mark.parametrize("return_sequences", [False, True])
@pytest.mark.parametrize("return_state", [False, True])
def test_output_shapes(rng, return_sequences, return_state):
    layer = MinGRU(
        4, return_sequences=return_sequences, return_state=return_state
    )
    inputs = keras.Input((None, 5))
    symbolic = keras.tree.flatten(layer(inputs))
    y_shape = (None, None, 4) if return_sequences else (None, 4)
    shapes = [y_shape, (None, 4)] if return_state else [y_shape]
    assert [tuple(s.shape) for s in symbolic] == shapes
    x = rng.normal(size=(3, 6, 5)).astype("float32")
    actual = keras.tree.flatten(layer(x))
    shapes = [(3, 6, 4) if return_sequences else (3, 4), (3, 4)]
    assert [tuple(a.shape) for a in actual] == shapes[: len(actual)]


def test_lengths_may_vary_within_one_fit(rng):
    model = keras.Sequential(
        [
            keras.Input((None, 5)),
            MinGRU(4, return_sequences=True),
            MinGRU(3),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")

    def batches():
        for length in (7, 40, 1, 7):
            x = rng.normal(size=(2, length, 5)).astype("float32")
            yield x, x[:, -1, :1]

    before = model.get_weights()
    history = model.fit(batches(), steps_per_epoch=4, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.abs(old - new).max() > 0


def test_initial_state_within_a_functional_model(rng):
    sequence, state = keras.Input((None, 5)), keras.Input((4,))
    layer = MinGRU(4)
    model = keras.Model([sequence, state], layer(sequence, initial_state=state))
    x = rng.normal(size=(3, 6, 5)).astype("float32")
    h = rng.normal(size=(3, 4)).astype("float32")
    assert_close(
        model.predict([x, h], verbose=0),
        expected(layer, x, h)[:, -1],
        SAME_SUMS,
    )


def test_dropout_draws_one_mask_for_all_steps():
    layer = MinGRU(4, dropout=0.5, seed=3, return_sequences=True)
    x = np.ones((2, 50, 5), "float32")
    y = ops.convert_to_numpy(layer(x, training=True))
    # With one mask the inputs are constant, so the state settles.
    np.testing.assert_allclose(y[:, -1], y[:, -2], rtol=1e-2, atol=1e-2)
    quiet = ops.convert_to_numpy(layer(x))
    assert np.abs(y[:, -1] - quiet[:, -1]).max() > 1e-2
    cell_rnn = keras.layers.RNN(layer.cell)
    assert np.isfinite(ops.convert_to_numpy(cell_rnn(x, training=True))).all()


def test_weights_are_the_file_format():
    layer = MinGRU(4)
    layer.build((None, None, 5))
    assert [(w.name, tuple(w.shape)) for w in layer.trainable_variables] == [
        ("kernel", (5, 8)),
        ("bias", (8,)),
    ]


def test_gates_start_uniform():
    layer = MinGRU(4000)
    layer.build((None, None, 1))
    bias = ops.convert_to_numpy(layer.cell.bias)
    gates = np.sort(reference.sigmoid(bias[:4000].astype("float64")))
    # Kolmogorov-Smirnov at the 0.1 % level: 1.95 / sqrt(4000).
    even = (np.arange(4000) + 0.5) / 4000
    assert np.abs(gates - even).max() < 0.031
    assert (bias[4000:] == 0).all()


def test_a_seeded_gate_is_reproducible():
    make = keras_mgrade.initializers.UniformGate
    first, again = make(3)((50,)), make(3)((50,))
    np.testing.assert_array_equal(
        ops.convert_to_numpy(first), ops.convert_to_numpy(again)
    )
    other = ops.convert_to_numpy(make()((50,)))
    assert np.abs(other - ops.convert_to_numpy(first)).max() > 0.1


def test_log_time_constants():
    initializer = keras_mgrade.initializers.LogTimeConstants(2, 200)
    layer = MinGRU(3, gate_bias_initializer=initializer)
    layer.build((None, None, 1))
    bias = ops.convert_to_numpy(layer.cell.bias)[:3].astype("float64")
    constants = -1 / np.log1p(-reference.sigmoid(bias))
    np.testing.assert_allclose(constants, [2, 20, 200], rtol=1e-4)
    with pytest.raises(ValueError, match=r"Received: shortest=3, longest=2"):
        keras_mgrade.initializers.LogTimeConstants(3, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units`.*Received: units=0"),
        ({"units": 2.5}, "`units`.*Received: units=2.5"),
        ({"dropout": 1.0}, "`dropout`.*Received: dropout=1.0"),
        ({"reset_after": True}, "no argument `reset_after`; .*reset gate"),
        ({"unroll": True}, "no argument `unroll`; .*leave it out"),
        ({"recurrent_dropout": 0.1}, "`recurrent_dropout`; .*use `dropout`"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        MinGRU(**{"units": 4, **arguments})


def test_integer_samples_are_cast(rng):
    layer = MinGRU(4)
    counts = rng.integers(-5, 5, (2, 6, 3)).astype("int16")
    whole = ops.convert_to_numpy(layer(counts))
    assert_close(
        ops.convert_to_numpy(layer(counts.astype("float32"))), whole, SAME_SUMS
    )


def test_wrong_rank_is_refused(rng):
    with pytest.raises(ValueError, match="ndim=3"):
        MinGRU(4)(rng.normal(size=(3, 5)))


def test_the_cell_takes_a_bare_state_too(rng):
    cell = MinGRUCell(4)
    x = ops.convert_to_tensor(rng.normal(size=(2, 5)).astype("float32"))
    h = ops.zeros((2, 4))
    cell.build((2, 5))
    bare, bare_state = cell(x, h)
    listed, listed_state = cell(x, [h])
    np.testing.assert_array_equal(
        ops.convert_to_numpy(bare), ops.convert_to_numpy(listed)
    )
    assert bare_state.shape == listed_state[0].shape == (2, 4)

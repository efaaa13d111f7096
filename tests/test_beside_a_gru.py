"""What a GRU does in Keras, ours does too: `keras.layers.GRU` is the control.

Every test that takes `make` runs with both. The cases are those that Keras
tests its own recurrent layers for.
"""

import shutil

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from budget import slow_except_on
from control import BOTH, array, data, gru
from keras_mgrade import DelayConv1D, MinGRU, MinGRUCell
from tolerances import SAME_SUMS, assert_close

CELLS = pytest.mark.parametrize(
    "make_cell",
    [MinGRUCell, lambda units, **a: layers.GRUCell(units, **a)],
    ids=["MinGRUCell", "GRUCell"],
)
FLAGS = [
    {"return_sequences": sequences, "return_state": state}
    for sequences in (False, True)
    for state in (False, True)
]


@slow_except_on("torch")
@BOTH
def test_in_every_kind_of_model(make, rng):
    x, y = data(rng), rng.normal(size=(4, 2)).astype("float32")

    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.gru, self.head = make(5), layers.Dense(2)

        def call(self, inputs):
            return self.head(self.gru(inputs))

    inputs = keras.Input((None, 3))
    for model in (
        keras.Sequential([make(5), layers.Dense(2)]),
        keras.Model(inputs, layers.Dense(2)(make(5)(inputs))),
        Subclassed(),
    ):
        model.compile("adam", "mse")
        model.fit(x, y, epochs=1, batch_size=2, verbose=0)
        before = model.evaluate(x, y, verbose=0)
        for _ in range(20):
            model.train_on_batch(x, y)
        # Any mix of lengths, length 1 among them.
        for length in (1, 4, 9, 2):
            model.train_on_batch(x[:, :length], y)
            assert model.predict(x[:, :length], verbose=0).shape == (4, 2)
        assert model.evaluate(x, y, verbose=0) < before


@pytest.mark.parametrize("jit_compile", [False, True])
@BOTH
def test_jit_compile(make, jit_compile, rng):
    if keras.backend.backend() == "torch" and jit_compile:
        pytest.skip("PyTorch compiles in a test of its own, below")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((9, 3)), make(5, return_sequences=True), layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x = data(rng)
    history = model.fit(x, x[:, :, :1], epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


@BOTH
@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional(make, merge_mode, rng):
    x = data(rng, 2, 6)
    mask = ops.convert_to_tensor(np.arange(6) < np.array([[4], [2]]))
    both = layers.Bidirectional(
        make(4, return_sequences=True), merge_mode=merge_mode
    )
    y = both(x, mask=mask)
    forward = array(both.forward_layer(x, mask=mask))
    backward = array(both.backward_layer(x, mask=mask))[:, ::-1]
    if merge_mode is None:
        got = [array(t) for t in y]
    elif merge_mode == "sum":
        got, forward = [array(y)], forward + backward
    else:
        got = np.split(array(y), 2, axis=-1)
    assert_close(got[0], forward, SAME_SUMS)
    if len(got) == 2:
        assert_close(got[1], backward, SAME_SUMS)
    states = layers.Bidirectional(make(4, return_state=True))(x)
    assert [tuple(s.shape) for s in states] == [(2, 8), (2, 4), (2, 4)]
    model = keras.Sequential([keras.Input((None, 3)), both])
    twin = type(model).from_config(model.get_config())
    twin.set_weights(model.get_weights())
    np.testing.assert_array_equal(
        *(array(keras.tree.flatten(m(x))[0]) for m in (model, twin))
    )


@BOTH
def test_time_distributed_around_and_inside(make, rng):
    x = rng.normal(size=(2, 3, 5, 4)).astype("float32")
    inner = make(6)
    outer = keras.Sequential(
        [keras.Input((3, 5, 4)), layers.TimeDistributed(inner), make(2)]
    )
    assert outer(x).shape == (2, 2)
    each = array(layers.TimeDistributed(inner)(x))
    alone = np.stack([array(inner(x[:, i])) for i in range(3)], axis=1)
    assert_close(each, alone, SAME_SUMS)
    inside = keras.Sequential(
        [
            keras.Input((None, 4)),
            make(6, return_sequences=True),
            layers.TimeDistributed(layers.Dense(2)),
        ]
    )
    assert inside(x[:, 0]).shape == (2, 5, 2)


def test_stacked_cells(rng):
    x = data(rng, 2, 6)
    cells = [MinGRUCell(5), MinGRUCell(4)]
    stacked = layers.RNN(layers.StackedRNNCells(cells), return_sequences=True)
    y = array(stacked(x))
    h = x
    for cell in cells:
        layer = MinGRU(cell.units, return_sequences=True)
        layer.build(h.shape)
        layer.set_weights([array(w) for w in cell.weights])
        h = array(layer(h))
    assert_close(h, y, SAME_SUMS)


@BOTH
def test_initial_states_bare_listed_and_symbolic(make, rng):
    x, h = data(rng, 2), rng.normal(size=(2, 4)).astype("float32")
    layer = make(4)
    bare = array(layer(x, initial_state=ops.convert_to_tensor(h)))
    listed = array(layer(x, initial_state=[ops.convert_to_tensor(h)]))
    np.testing.assert_array_equal(bare, listed)
    inputs, state = keras.Input((None, 3)), keras.Input((4,))
    model = keras.Model([inputs, state], layer(inputs, initial_state=state))
    assert_close(array(model([x, h])), bare, SAME_SUMS)
    assert np.abs(bare - array(layer(x))).max() > 1e-3


@BOTH
def test_dropout_is_one_mask_and_repeats_with_its_seed(make, rng):
    x = np.ones((2, 30, 3), "float32")

    def made():
        layer = make(4, dropout=0.5, seed=3, return_sequences=True)
        layer.build(x.shape)
        return layer

    layer, twin = made(), made()
    twin.set_weights(layer.get_weights())
    first = array(layer(x, training=True))
    np.testing.assert_array_equal(array(twin(x, training=True)), first)
    # Another mask at the next call, none without training.
    second = array(layer(x, training=True))
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(first - array(layer(x))).max() > 1e-4
    # One mask for all steps: equal inputs stay equal, and the state settles.
    steps = np.abs(np.diff(first, axis=1)).max(axis=(0, 2))
    assert steps[-1] < steps[0]
    assert (np.diff(steps)[-5:] <= 1e-6).all()


@CELLS
def test_dropout_of_a_cell_in_rnn(make_cell, rng):
    x = data(rng)
    rnn = layers.RNN(make_cell(4, dropout=0.5, seed=1))
    first = array(rnn(x, training=True))
    assert np.abs(first - array(rnn(x, training=True))).max() > 1e-4
    np.testing.assert_array_equal(array(rnn(x)), array(rnn(x)))


@BOTH
def test_calls_of_a_stateful_layer_go_on_until_it_is_reset(make, rng):
    x = data(rng)
    layer = make(4, stateful=True, return_state=True)
    first, reached = (array(t) for t in layer(x))
    second = array(layer(x)[0])
    assert np.abs(second - first).max() > 1e-3
    given, _ = layer(x, initial_state=ops.convert_to_tensor(reached))
    assert_close(array(given), second, SAME_SUMS)
    layer.reset_state()
    assert_close(array(layer(x)[0]), first, SAME_SUMS)
    assert_close(array(layer(x)[0]), second, SAME_SUMS)


@BOTH
def test_a_stateful_model_refuses_another_batch_size(make, rng):
    inputs = keras.Input(batch_shape=(4, 9, 3))
    model = keras.Model(inputs, make(4, stateful=True)(inputs))
    model(data(rng))
    with pytest.raises(ValueError, match="batch"):
        model(data(rng, batch=1))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="graphs are TensorFlow's"
)
@BOTH
def test_a_stateful_layer_in_a_graph_of_unknown_batch_size(make, rng):
    import tensorflow as tf

    layer, x = make(5, stateful=True), data(rng, 2)
    first = array(layer(x))
    second = array(layer(x))
    layer.reset_state()
    call = tf.function(
        lambda x: layer(x),
        input_signature=[tf.TensorSpec((None, 9, 3), "float32")],
    )
    assert_close(array(call(x)), first, SAME_SUMS)
    assert_close(array(call(x)), second, SAME_SUMS)


@BOTH
@pytest.mark.parametrize("flags", FLAGS)
def test_backwards_is_forwards_on_what_is_flipped(make, flags, rng):
    x, h = data(rng), rng.normal(size=(4, 5)).astype("float32")
    forwards, backwards = make(5, **flags), make(5, go_backwards=True, **flags)
    for layer in (forwards, backwards):
        layer.build(x.shape)
    backwards.set_weights(forwards.get_weights())
    state = ops.convert_to_tensor(h)
    ours = backwards(x, initial_state=state)
    wanted = forwards(x[:, ::-1].copy(), initial_state=state)
    for got, want in zip(
        keras.tree.flatten(ours), keras.tree.flatten(wanted), strict=True
    ):
        assert_close(array(got), array(want), SAME_SUMS)


@BOTH
def test_the_state_is_the_last_of_the_sequence(make, rng):
    x = data(rng)
    for go_backwards in (False, True):
        layer = make(
            4,
            return_sequences=True,
            return_state=True,
            go_backwards=go_backwards,
        )
        sequence, state = layer(x)
        np.testing.assert_array_equal(array(sequence)[:, -1], array(state))


@BOTH
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("shape", [(None, None, 3), (2, None, 3), (2, 6, 3)])
def test_shapes_are_those_of_a_gru(make, flags, shape):
    layer, control = make(4, **flags), gru(4, **flags)
    wanted = control.compute_output_shape(shape)
    assert layer.compute_output_shape(shape) == wanted
    symbolic = layer(keras.Input(batch_shape=shape))
    shapes = [tuple(t.shape) for t in keras.tree.flatten(symbolic)]
    wanted = wanted if flags["return_state"] else [wanted]
    assert shapes == [tuple(s) for s in wanted]


@BOTH
def test_an_encoder_hands_its_state_to_a_decoder(make, rng):
    source, target = keras.Input((None, 3)), keras.Input((None, 2))
    _, state = make(5, return_state=True)(source)
    h = make(5, return_sequences=True)(target, initial_state=state)
    model = keras.Model([source, target], layers.Dense(1)(h))
    model.compile("adam", "mse")
    x, y = data(rng, 4, 7), data(rng, 4, 5, 2)
    before = model.get_weights()
    model.fit([x, y], y[:, :, :1], epochs=1, verbose=0)
    # The encoder learns through the state alone.
    assert np.abs(model.get_weights()[0] - before[0]).max() > 0
    assert model.predict([x, y[:, :2]], verbose=0).shape == (4, 2, 1)


@BOTH
def test_regularizers_and_constraints(make, rng):
    x = data(rng)
    layer = make(
        4,
        kernel_regularizer=keras.regularizers.L2(0.1),
        bias_regularizer=keras.regularizers.L1(0.2),
        bias_initializer="ones",
        activity_regularizer=keras.regularizers.L2(0.3),
    )
    y = array(layer(x))
    kernel, bias = (layer.cell.kernel, layer.cell.bias)
    wanted = 0.1 * np.sum(array(kernel) ** 2) + 0.2 * np.sum(
        np.abs(array(bias))
    )
    wanted += 0.3 * np.sum(y**2) / len(x)
    assert float(array(sum(layer.losses))) == pytest.approx(wanted, rel=1e-5)
    bound = make(
        4,
        kernel_constraint=keras.constraints.MaxNorm(0.01),
        bias_constraint="non_neg",
        bias_initializer=keras.initializers.Constant(-1.0),
    )
    model = keras.Sequential([keras.Input((None, 3)), bound])
    model.compile("sgd", "mse")
    model.fit(x, y, epochs=1, verbose=0)
    norms = np.linalg.norm(array(bound.cell.kernel), axis=0)
    assert (norms < 0.0101).all()
    assert (array(bound.cell.bias) >= 0).all()


@BOTH
def test_files_of_models_with_wrappers(make, rng, tmp_path):
    inputs = keras.Input((3, 5, 2))
    h = layers.TimeDistributed(make(4))(inputs)
    h = layers.Bidirectional(make(3, return_sequences=True))(h)
    h = make(4, return_sequences=True, go_backwards=True)(h)
    model = keras.Model(inputs, layers.RNN(make(2).cell)(h))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = rng.normal(size=(2, 3, 5, 2)).astype("float32")
    np.testing.assert_array_equal(array(loaded(x)), array(model(x)))


@BOTH
@pytest.mark.parametrize("flags", FLAGS)
@pytest.mark.parametrize("merge_mode", ["concat", "sum", "ave", "mul", None])
def test_shapes_of_both_directions(make, flags, merge_mode, rng):
    both = layers.Bidirectional(make(4, **flags), merge_mode=merge_mode)
    x = data(rng)
    shapes = [tuple(y.shape) for y in keras.tree.flatten(both(x))]
    computed = both.compute_output_shape(x.shape)
    if isinstance(computed[0], int):
        computed = [computed]
    assert shapes == [tuple(shape) for shape in computed]


@BOTH
def test_both_directions_take_initial_states(make, rng):
    x, h = data(rng), rng.normal(size=(2, 4, 5)).astype("float32")
    both = layers.Bidirectional(make(5))
    states = [ops.convert_to_tensor(state) for state in h]
    y = array(both(x, initial_state=states))
    ahead = both.forward_layer(x, initial_state=states[0])
    back = both.backward_layer(x, initial_state=states[1])
    assert_close(y, np.concatenate([array(ahead), array(back)], 1), SAME_SUMS)


@BOTH
def test_both_directions_are_reset_together(make, rng):
    x = data(rng)
    both = layers.Bidirectional(make(5, stateful=True))
    first = array(both(x))
    second = array(both(x))
    assert np.abs(second - first).max() > 1e-3
    both.reset_state()
    assert_close(array(both(x)), first, SAME_SUMS)


@BOTH
def test_a_backward_layer_of_its_own(make, rng):
    both = layers.Bidirectional(
        make(3, return_sequences=True),
        backward_layer=make(2, return_sequences=True, go_backwards=True),
    )
    assert both(data(rng)).shape == (4, 9, 5)


@BOTH
def test_masks_in_time_distributed(make, rng):
    """Sentences of tokens: the inner layer sees the mask of the tokens."""
    tokens = np.array([[[1, 2, 0], [3, 0, 0]], [[4, 4, 4], [1, 0, 0]]])
    embedding, inner = layers.Embedding(5, 3, mask_zero=True), make(4)
    sentences = layers.TimeDistributed(keras.Sequential([embedding, inner]))
    y = array(sentences(tokens))
    alone = inner(embedding(tokens[0, :1, :2]))
    assert_close(y[0, :1], array(alone), SAME_SUMS)
    alone = inner(embedding(tokens[1, 1:, :1]))
    assert_close(y[1, 1:], array(alone), SAME_SUMS)


@CELLS
def test_stacked_cells_carry_and_return_their_states(make_cell, rng):
    x = data(rng)
    cells = [make_cell(3), make_cell(5)]
    rnn = layers.RNN(cells, stateful=True, return_state=True)
    y, *states = rnn(x)
    flat = keras.tree.flatten(states)
    assert [tuple(s.shape) for s in flat] == [(4, 3), (4, 5)]
    np.testing.assert_array_equal(array(y), array(flat[-1]))
    second, *_ = rnn(x)
    assert np.abs(array(second) - array(y)).max() > 1e-3
    given, *_ = rnn(x, initial_state=states)
    assert_close(array(given), array(second), SAME_SUMS)
    # Keras's `reset_state` knows no states in lists of lists; this does.
    keras_mgrade.reset_states(keras.Sequential([rnn]))
    assert_close(array(rnn(x)[0]), array(y), SAME_SUMS)
    mask = ops.convert_to_tensor(np.arange(9)[None] < [[4], [9], [1], [6]])
    plain = layers.RNN(cells)
    masked = array(plain(x, mask=mask))
    assert_close(masked[:1], array(plain(x[:1, :4])), SAME_SUMS)


@pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the others compile above"
)
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="it needs a compiler")
@pytest.mark.filterwarnings("ignore")
def test_pytorch_compiles_a_fit(rng):
    """Its own compiler traces the kernels' autograd functions."""
    x, losses = data(rng), []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((9, 3)),
                DelayConv1D(2, 4),
                MinGRU(5, return_sequences=True),
                layers.Dense(1),
            ]
        )
        model.compile("sgd", "mse", jit_compile=jit_compile)
        history = model.fit(x, x[:, :, :1], epochs=3, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)

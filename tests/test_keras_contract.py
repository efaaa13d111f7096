"""Our layers in every place of Keras, a GRU beside them as the control."""

import inspect
import pathlib
import re

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.testing import TestCase

import keras_mgrade
from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    MinGRUCell,
    TemporalPooling,
    initializers,
)
from tolerances import SAME_SUMS, assert_close

CLASSES = (MinGRUCell, MinGRU, DelayConv1D, MGrade, TemporalPooling)
INITIALIZERS = (
    initializers.UniformGate,
    initializers.LogTimeConstants,
    initializers.EvenDelays,
    initializers.UniformDelays,
)
LAYER_TESTS = [
    (MinGRU, {"units": 3}, (2, 3), 2),
    (MinGRU, {"units": 3, "return_sequences": True}, (2, 5, 3), 2),
    (MinGRU, {"units": 3, "use_bias": False}, (2, 3), 1),
    (MinGRU, {"units": 3, "go_backwards": True}, (2, 3), 2),
    (MinGRU, {"units": 3, "activation": "positive"}, (2, 3), 2),
    (
        MinGRU,
        {
            "units": 3,
            "return_sequences": True,
            "zero_output_for_mask": True,
            "kernel_regularizer": "l2",
            "bias_constraint": "unit_norm",
        },
        (2, 5, 3),
        2,
    ),
    (DelayConv1D, {"kernel_size": 2, "max_delay": 3}, (2, 5, 4), 3),
    (
        DelayConv1D,
        {"kernel_size": 2, "max_delay": 3, "use_bias": False},
        (2, 5, 4),
        2,
    ),
    (
        DelayConv1D,
        {
            "kernel_size": 2,
            "max_delay": 3,
            "interpolation": "gaussian",
            "train_width": True,
        },
        (2, 5, 4),
        4,
    ),
    (MGrade, {"units": 4, "kernel_size": 2, "max_delay": 3}, (2, 5, 4), 12),
    (
        MGrade,
        {
            "units": 6,
            "kernel_size": 2,
            "max_delay": 3,
            "convolution_on_input": True,
            "recurrence_dense": True,
            "recurrence_norm": True,
            "convolution_norm": True,
        },
        (2, 5, 6),
        20,
    ),
    (TemporalPooling, {"mode": "last"}, (2, 4), 0),
    (TemporalPooling, {"mode": "mean"}, (2, 4), 0),
    (
        TemporalPooling,
        {"mode": "exponential", "time_constant": 5.0},
        (2, 4),
        0,
    ),
]


@pytest.mark.parametrize(("cls", "arguments", "shape", "weights"), LAYER_TESTS)
def test_keras_own_layer_test(cls, arguments, shape, weights):
    TestCase().run_layer_test(
        cls,
        init_kwargs=arguments,
        input_shape=(2, 5, 4),
        expected_output_shape=shape,
        expected_num_trainable_weights=weights,
        supports_masking=True,
        # Keras warns of a model without weights.
        run_training_check=weights > 0,
        expected_num_losses=1 if "kernel_regularizer" in arguments else 0,
    )


def gru(units, **arguments):
    return layers.GRU(units, reset_after=False, **arguments)


BOTH = pytest.mark.parametrize("make", [MinGRU, gru], ids=["MinGRU", "GRU"])


def array(x):
    return ops.convert_to_numpy(x)


def data(rng, batch=4, length=9, channels=3):
    return rng.normal(size=(batch, length, channels)).astype("float32")


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
        pytest.skip("PyTorch's compiler is not part of this")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((9, 3)), make(5, return_sequences=True), layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=jit_compile)
    x = data(rng)
    history = model.fit(x, x[:, :, :1], epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: MinGRU(5, return_sequences=True),
        lambda: DelayConv1D(2, 4),
        lambda: MGrade(5, 2, 4),
    ],
)
def test_clones_and_summaries(layer, rng):
    model = keras.Sequential([keras.Input((None, 3)), layer()])
    twin = keras.models.clone_model(model)
    assert [w.shape for w in twin.weights] == [w.shape for w in model.weights]
    twin.set_weights(model.get_weights())
    x = data(rng)
    np.testing.assert_array_equal(array(twin(x)), array(model(x)))
    lines = []
    model.summary(print_fn=lines.append)
    text = "\n".join(lines)
    width = model.output_shape[-1]
    assert f"(None, None, {width})" in text
    assert f"{model.count_params():,}" in text


MASKS = {
    "right": [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0]],
    "fully masked row": [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    "none masked": [[1] * 6] * 2,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_masks_as_the_cell_in_rnn(
    name, go_backwards, zero_output_for_mask, rng
):
    """From zero, since Keras's backends differ in what stands before the
    first valid step of a sequence with an initial state."""
    flags = {
        "go_backwards": go_backwards,
        "zero_output_for_mask": zero_output_for_mask,
        "return_sequences": True,
        "return_state": True,
    }
    mask = np.array(MASKS[name], bool)
    x = data(rng, 2, 6)
    rnn = layers.RNN(MinGRUCell(4), **flags)
    y, state = rnn(x, mask=ops.convert_to_tensor(mask))
    layer = MinGRU(4, **flags)
    layer.build(x.shape)
    layer.set_weights(rnn.get_weights())
    # What a mask hides has no influence, be it NaN.
    x[~mask] = np.nan
    got, reached = layer(x, mask=ops.convert_to_tensor(mask))
    assert_close(array(got), array(y), SAME_SUMS)
    assert_close(array(reached), array(state), SAME_SUMS)


@BOTH
def test_masks_from_layers_and_by_hand(make, rng):
    x = data(rng, 3, 6)
    x[0, 4:] = x[1, 2:] = x[2] = 0.0
    layer = make(4)
    masking = layers.Masking()
    by_masking = array(keras.Sequential([masking, layer])(x))
    mask = masking.compute_mask(x)
    assert_close(by_masking, array(layer(x, mask=mask)), SAME_SUMS)
    for row, length in enumerate((4, 2)):
        alone = array(layer(x[row : row + 1, :length]))
        assert_close(by_masking[row : row + 1], alone, SAME_SUMS)
    assert (by_masking[2] == 0).all()
    # The output of a sequence carries its mask on.
    sequence = make(4, return_sequences=True)
    pooled = keras.Sequential(
        [layers.Masking(), sequence, layers.GlobalAveragePooling1D()]
    )
    mean = array(sequence(x[:1, :4])).mean(axis=1)
    assert_close(array(pooled(x))[:1], mean, SAME_SUMS)


def test_masks_from_embeddings(rng):
    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]])
    model = keras.Sequential(
        [layers.Embedding(5, 3, mask_zero=True), MGrade(4, 2, 3), MinGRU(4)]
    )
    y = array(model(tokens))
    assert_close(y[:1], array(model(tokens[:1, :3])), SAME_SUMS)
    assert_close(y[1:], array(model(tokens[1:, :1])), SAME_SUMS)


def test_resuming_a_padded_row(rng):
    """A delay line counts time: pad on the left to go on from a state."""
    x = data(rng, 1, 12)
    layer = DelayConv1D(3, 5, return_state=True)
    whole, _ = layer(x)
    masked = np.zeros((1, 3, 3), "float32") + np.nan
    left = np.concatenate([masked, x[:, :7]], axis=1)
    mask = np.arange(10)[None] >= 3
    _, line = layer(left, mask=ops.convert_to_tensor(mask))
    resumed, _ = layer(x[:, 7:], initial_state=line)
    assert_close(array(resumed), array(whole)[:, 7:], SAME_SUMS)
    # On the right the padding is what came last, and is in the line.
    right = np.concatenate([x[:, :7], masked], axis=1)
    _, line = layer(right, mask=ops.convert_to_tensor(mask[:, ::-1].copy()))
    assert (array(line)[:, -3:] == 0).all()
    padded = np.concatenate([x[:, :7], np.zeros((1, 3, 3)), x[:, 7:]], axis=1)
    shifted, _ = layer(padded.astype("float32"))
    resumed, _ = layer(x[:, 7:], initial_state=line)
    assert_close(array(resumed), array(shifted)[:, 10:], SAME_SUMS)


@BOTH
@pytest.mark.parametrize("merge_mode", ["concat", "sum", None])
def test_bidirectional(make, merge_mode, rng):
    x = data(rng, 2, 6)
    mask = ops.convert_to_tensor(np.array(MASKS["right"], bool))
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


@pytest.mark.parametrize(
    "layer",
    [
        lambda: DelayConv1D(2, 4),
        lambda: MGrade(4, 2, 4),
        lambda: TemporalPooling(),
    ],
)
def test_what_only_looks_back_is_not_bidirectional(layer):
    with pytest.raises(ValueError, match="Bidirectional around a MinGRU"):
        type(layer())(**{**layer().get_config(), "go_backwards": True})
    # Keras wraps the sentence in what failed to be made.
    with pytest.raises(TypeError, match="Bidirectional around a MinGRU"):
        layers.Bidirectional(layer())


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

    def run():
        layer = make(
            4,
            dropout=0.5,
            seed=3,
            return_sequences=True,
            kernel_initializer=keras.initializers.GlorotUniform(seed=1),
        )
        first = array(layer(x, training=True))
        return first, array(layer(x, training=True)), array(layer(x))

    first, second, calm = run()
    again, *_ = run()
    if make is MinGRU:
        bias = keras.initializers.Zeros()
        layer = MinGRU(4, dropout=0.5, seed=3, gate_bias_initializer=bias)
        twin = MinGRU(4, dropout=0.5, seed=3, gate_bias_initializer=bias)
        layer.build(x.shape)
        twin.build(x.shape)
        twin.set_weights(layer.get_weights())
        np.testing.assert_array_equal(
            array(layer(x, training=True)), array(twin(x, training=True))
        )
    else:
        assert again.shape == first.shape
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(first - calm).max() > 1e-4


@pytest.mark.parametrize("cls", CLASSES + INITIALIZERS)
def test_configurations_are_complete(cls):
    needed = {
        "units": 4,
        "kernel_size": 2,
        "max_delay": 3,
        "shortest": 1.0,
        "longest": 9.0,
    }
    parameters = {
        name: p
        for name, p in inspect.signature(cls.__init__).parameters.items()
        if name not in ("self", "kwargs")
    }
    given = {k: v for k, v in needed.items() if k in parameters}
    made = cls(**given)
    config = made.get_config()
    assert set(parameters) <= set(config)
    twin = cls.from_config(config)
    assert twin.get_config() == config
    for name in parameters:
        if cls in CLASSES:
            assert hasattr(made, name), name


@pytest.mark.parametrize("cls", CLASSES + INITIALIZERS)
def test_documented_defaults_are_the_real_ones(cls):
    text = inspect.getdoc(cls)
    arguments = text[text.index("\nArgs:") :]
    arguments = re.split(r"\n\n\S", arguments)[0]
    for name, parameter in inspect.signature(cls).parameters.items():
        if name == "kwargs":
            continue
        found = re.search(
            rf"\n    {name}: (.*?)(?=\n    \S|\Z)", arguments, re.DOTALL
        )
        assert found, f"{name} is not documented"
        words = " ".join(found[1].split())
        if parameter.default is inspect.Parameter.empty:
            assert "Defaults to" not in words
            continue
        default = parameter.default
        shown = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"Defaults to `{shown}`" in words, f"{name}: {words}"


def test_every_constructor_argument_is_in_some_test():
    folder = pathlib.Path(__file__).parent
    text = "\n".join(p.read_text("utf-8") for p in folder.glob("test_*.py"))
    for cls in CLASSES:
        for name in inspect.signature(cls).parameters:
            assert re.search(rf'\b{name}\b"?\s*[=:]', text) or name in (
                # Positional everywhere.
                "kwargs",
            ), f"{cls.__name__}({name}=...)"


@pytest.mark.parametrize(
    "layer",
    [
        lambda **a: MinGRU(3, **a),
        lambda **a: DelayConv1D(2, 3, **a),
        lambda **a: MGrade(3, 2, 3, **a),
    ],
)
def test_frozen_layers_do_not_learn(layer, rng):
    frozen = layer()
    frozen.trainable = False
    model = keras.Sequential(
        [keras.Input((6, 3)), frozen, layers.Flatten(), layers.Dense(1)]
    )
    assert len(model.trainable_variables) == 2
    model.compile("adam", "mse")
    before = [array(w) for w in frozen.weights]
    model.fit(data(rng, 4, 6), np.ones((4, 1)), epochs=2, verbose=0)
    for weight, value in zip(frozen.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)
    fresh = layer(trainable=False)
    fresh.build((None, None, 3))
    assert fresh.weights and not fresh.trainable_weights


def test_an_initializer_given_once_is_not_used_twice():
    kernel = keras.initializers.RandomNormal(seed=3)
    layer = MGrade(4, 2, 3, kernel_initializer=kernel, expansion=1)
    layer.build((None, None, 4))
    first, second = layer.mlp_expansion.kernel, layer.mlp_projection.kernel
    assert np.abs(array(first) - array(second)).max() > 1e-3

    normal = keras.initializers.RandomNormal(seed=3)
    gru = MinGRU(4, bias_initializer=normal, gate_bias_initializer=normal)
    gru.build((None, None, 2))
    gate, candidate = np.split(array(gru.cell.bias), 2)
    assert np.abs(gate - candidate).max() > 1e-3


@pytest.mark.parametrize("cls", [MinGRU, DelayConv1D, MGrade])
def test_quantize_refuses_and_says_what_to_use(cls):
    sizes = {"kernel_size": 2, "max_delay": 3, "units": 4}
    known = inspect.signature(cls).parameters
    layer = cls(**{k: v for k, v in sizes.items() if k in known})
    layer.build((None, None, 3))
    with pytest.raises(NotImplementedError, match="export.to_tflite.*mode="):
        layer.quantize("int8")


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="SavedModel is TensorFlow's; Keras writes it on JAX too",
)
@pytest.mark.filterwarnings("ignore:.*native_serialization")
def test_saved_models(tmp_path, rng):
    tf = pytest.importorskip("tensorflow")
    model = keras.Sequential(
        [keras.Input((None, 3)), MGrade(4, 2, 3), MinGRU(4)]
    )
    x = data(rng)
    model.export(tmp_path / "saved", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "saved")
    assert_close(np.asarray(loaded.serve(x)), array(model(x)), SAME_SUMS)


def test_a_nan_stays_in_its_row(rng):
    x = data(rng, 3)
    model = keras.Sequential(
        [keras.Input((None, 3)), MGrade(4, 2, 3), MinGRU(4)]
    )
    calm = array(model(x))
    for bad in (np.nan, np.inf):
        x[1, 4] = bad
        y = array(model(x))
        assert_close(y[[0, 2]], calm[[0, 2]], SAME_SUMS)
        assert not np.isfinite(y[1]).any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MinGRU(0), "`units`.*units=0"),
        (lambda: MinGRU("four"), "`units`.*'four'"),
        (lambda: MinGRU(4, activation="cube"), "cube"),
        (lambda: MinGRU(4)(np.zeros((2, 3))), "ndim=3"),
        (
            lambda: MinGRU(4)(
                np.zeros((2, 3, 1)), initial_state=np.zeros((2, 5))
            ),
            r"`initial_state`.*\(2, 4\).*\(2, 5\)",
        ),
        (
            lambda: MinGRU(4)(
                np.zeros((2, 3, 1)), initial_state=np.zeros((3, 4))
            ),
            r"`initial_state`.*\(2, 4\).*\(3, 4\)",
        ),
        (
            lambda: MinGRU(4)(
                keras.Input((None, 1)), initial_state=keras.Input((5,))
            ),
            r"`initial_state`.*\(None, 4\).*\(None, 5\)",
        ),
        (lambda: MinGRU(4)(keras.Input((None, None))), "input features"),
        (lambda: DelayConv1D(2, 3)(keras.Input((None, None))), "channels"),
        (lambda: MGrade(2, 2, 3)(keras.Input((None, None))), "channels"),
        (
            lambda: MGrade(2, 2, 3)(
                np.zeros((1, 4, 2)), initial_state=[np.zeros((1, 2))]
            ),
            r"2 states.*initial_state\)=1",
        ),
        (lambda: TemporalPooling("max"), "`mode`.*'max'"),
        (lambda: initializers.UniformDelays(0), "`max_delay`.*max_delay=0"),
    ],
)
def test_bad_input_fails_where_it_enters(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_channel_counts_are_refused():
    for layer in (MinGRU(4), DelayConv1D(2, 3), MGrade(4, 2, 3)):
        layer(np.zeros((1, 4, 3)))
        with pytest.raises(ValueError, match="axis -1"):
            layer(np.zeros((1, 4, 2)))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf_keras is TensorFlow's"
)
def test_tf_keras_models_are_refused():
    tf_keras = pytest.importorskip("tf_keras")
    model = tf_keras.Sequential([tf_keras.layers.GRU(4, input_shape=(5, 3))])
    message = "`model` belongs to tf_keras.*Received: model="
    with pytest.raises(ValueError, match=message):
        keras_mgrade.streaming_model(model)
    with pytest.raises(ValueError, match=message):
        keras_mgrade.memory_report(model)

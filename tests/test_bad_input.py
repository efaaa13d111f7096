"""Bad input fails where it enters, with a sentence that says what to do."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from control import array, data
from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    TemporalPooling,
    initializers,
)
from tolerances import SAME_SUMS, assert_close


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


@pytest.mark.parametrize("cls", [MinGRU, DelayConv1D, MGrade])
def test_quantize_refuses_and_says_what_to_use(cls):
    sizes = {"kernel_size": 2, "max_delay": 3, "units": 4}
    known = inspect.signature(cls).parameters
    layer = cls(**{k: v for k, v in sizes.items() if k in known})
    layer.build((None, None, 3))
    with pytest.raises(NotImplementedError, match="export.to_tflite.*mode="):
        layer.quantize("int8")


BATTERY = {
    "min_gru": lambda: MinGRU(4, return_sequences=True),
    "backwards": lambda: MinGRU(4, return_sequences=True, go_backwards=True),
    "linear": lambda: DelayConv1D(3, 4),
    "integer": lambda: DelayConv1D(3, 4, "integer"),
    "gaussian": lambda: DelayConv1D(3, 4, "gaussian"),
    "mgrade": lambda: MGrade(4, 2, 3),
    "mean": lambda: TemporalPooling("mean"),
    "exponential": lambda: TemporalPooling("exponential", time_constant=3.0),
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", BATTERY)
def test_what_is_not_finite_stays_in_its_row(name, bad, rng):
    x, layer = data(rng, 3), BATTERY[name]()
    calm = array(layer(x))
    x[1, 4] = bad
    y = array(layer(x))
    assert_close(y[[0, 2]], calm[[0, 2]], SAME_SUMS)
    assert not np.isfinite(y[1]).all()


@pytest.mark.parametrize("name", BATTERY)
def test_what_is_not_finite_stays_behind_its_mask(name, rng):
    x, layer = data(rng, 3), BATTERY[name]()
    mask = np.ones((3, 9), bool)
    mask[1, 2:5] = False
    given = ops.convert_to_tensor(mask)
    calm = array(layer(x, mask=given))
    for bad in (np.nan, np.inf):
        x[~mask] = bad
        np.testing.assert_array_equal(array(layer(x, mask=given)), calm)


def zeros(*shape):
    return np.zeros(shape, "float32")


X = zeros(2, 3, 1)
BAD_INPUT = [
    # Sizes.
    (lambda: MinGRU(0), "`units` .*: units=0"),
    (lambda: MinGRU(2.5), "`units` .*: units=2.5"),
    (lambda: MinGRU("four"), "`units` .*: units='four'"),
    (lambda: MGrade(0, 2, 3), "`units` .*: units=0"),
    (lambda: DelayConv1D(0, 3), "`kernel_size` .*: kernel_size=0"),
    (lambda: DelayConv1D(2, 0), "`max_delay` .*: max_delay=0"),
    (lambda: DelayConv1D(2, 2.5), "`max_delay` .*: max_delay=2.5"),
    (lambda: MGrade(4, 0, 3), "`kernel_size` .*: kernel_size=0"),
    (lambda: MGrade(4, 2, 0.5), "`max_delay` .*: max_delay=0.5"),
    (lambda: initializers.UniformDelays(0), "`max_delay` .*: max_delay=0"),
    (lambda: initializers.EvenDelays(1.5), "`max_delay` .*: max_delay=1.5"),
    (lambda: MinGRU(4, dropout="half"), "`dropout` .*: dropout='half'"),
    (lambda: MGrade(4, 2, 3, dropout=1), "`dropout` .*: dropout=1"),
    (
        lambda: DelayConv1D(2, 3, "gaussian", width="wide"),
        "`width` .*: width='wide'",
    ),
    (
        lambda: DelayConv1D(2, 3, "gaussian", width=np.inf),
        "`width` .*: width=inf",
    ),
    (
        lambda: TemporalPooling("exponential", time_constant="5"),
        "`time_constant` .*: time_constant='5'",
    ),
    (
        lambda: initializers.LogTimeConstants("a", 2),
        "`shortest` .*: shortest='a'",
    ),
    (
        lambda: initializers.LogTimeConstants(1, np.inf),
        "`longest` .*: longest=inf",
    ),
    # Names.
    (lambda: MinGRU(4, "cube"), "`activation` .*: activation='cube'"),
    (
        lambda: MinGRU(4, recurrent_activation="cube"),
        "`recurrent_activation` .*: recurrent_activation='cube'",
    ),
    (
        lambda: DelayConv1D(2, 3, activation="cube"),
        "`activation` .*: activation='cube'",
    ),
    (
        lambda: MGrade(4, 2, 3, candidate_activation=3),
        "`candidate_activation` .*: candidate_activation=3",
    ),
    (
        lambda: MinGRU(4, kernel_initializer="flat"),
        "`kernel_initializer` .*: kernel_initializer='flat'",
    ),
    (
        lambda: MinGRU(4, gate_bias_initializer=None),
        "`gate_bias_initializer` .*: gate_bias_initializer=None",
    ),
    (
        lambda: DelayConv1D(2, 3, "cubic"),
        "`interpolation` .*'gaussian'.*: interpolation='cubic'",
    ),
    (
        lambda: MGrade(4, 2, 3, interpolation=None),
        "`interpolation` .*: interpolation=None",
    ),
    (lambda: TemporalPooling("max"), "`mode` .*: mode='max'"),
    # Shapes. Rank and channels are Keras's own checks, with its own words.
    (lambda: MinGRU(4)(X[0]), r"ndim=3.*received: \(3, 1\)"),
    (lambda: DelayConv1D(2, 3)(X[0]), r"ndim=3.*received: \(3, 1\)"),
    (lambda: MGrade(4, 2, 3)(X[0]), r"ndim=3.*received: \(3, 1\)"),
    (lambda: TemporalPooling()(X[0]), r"ndim=3.*received: \(3, 1\)"),
    (lambda: MinGRU(4)(X[:, :0]), r"`sequences` .*shape=\(2, 0, 1\)"),
    (lambda: DelayConv1D(2, 3)(X[:, :0]), r"`inputs` .*shape=\(2, 0, 1\)"),
    (lambda: MGrade(4, 2, 3)(X[:, :0]), r"`inputs` .*shape=\(2, 0, 1\)"),
    (lambda: TemporalPooling()(X[:, :0]), r"`inputs` .*shape=\(2, 0, 1\)"),
    (
        lambda: MinGRU(4)(keras.Input((None, None))),
        r"input features. Received: input_shape=\(None, None, None\)",
    ),
    (
        lambda: DelayConv1D(2, 3)(keras.Input((None, None))),
        r"channels. Received: input_shape=\(None, None, None\)",
    ),
    (
        lambda: MGrade(2, 2, 3)(keras.Input((None, None))),
        r"channels. Received: input_shape=\(None, None, None\)",
    ),
    # Masks, which a backend may broadcast without a word.
    (lambda: MinGRU(4)(X, mask=zeros(2, 4)), r"\(2, 3\).*mask.*\(2, 4\)"),
    (lambda: MinGRU(4)(X, mask=zeros(1, 3)), r"\(2, 3\).*mask.*\(1, 3\)"),
    (lambda: MinGRU(4)(X, mask=zeros(2)), r"\(2, 3\).*mask.*\(2,\)"),
    (
        lambda: DelayConv1D(2, 3)(X, mask=zeros(2, 3, 1)),
        r"\(2, 3\).*mask.*\(2, 3, 1\)",
    ),
    (
        lambda: MGrade(4, 2, 3)(X, mask=zeros(2, 4)),
        r"\(2, 3\).*mask.*\(2, 4\)",
    ),
    (
        lambda: TemporalPooling()(X, mask=zeros(2, 4)),
        r"\(2, 3\).*mask.*\(2, 4\)",
    ),
    # States of another width, another batch, another number.
    (
        lambda: MinGRU(4)(X, initial_state=zeros(2, 5)),
        r"`initial_state`.*\(2, 4\).*shape=\(2, 5\)",
    ),
    (
        lambda: MinGRU(4)(X, initial_state=zeros(3, 4)),
        r"`initial_state`.*\(2, 4\).*shape=\(3, 4\)",
    ),
    (
        lambda: MinGRU(4)(
            keras.Input((None, 1)), initial_state=keras.Input((5,))
        ),
        r"`initial_state`.*\(None, 4\).*shape=\(None, 5\)",
    ),
    (
        lambda: DelayConv1D(2, 3)(X, initial_state=zeros(2, 4, 1)),
        r"`initial_state`.*\(2, 3, 1\).*shape=\(2, 4, 1\)",
    ),
    (
        lambda: MGrade(1, 2, 3)(X, [zeros(2, 3, 1), zeros(2, 2)]),
        r"`initial_state`.*\(2, 1\).*shape=\(2, 2\)",
    ),
    (
        lambda: MGrade(1, 2, 3)(X, initial_state=[zeros(2, 1)]),
        r"2 states.*len\(initial_state\)=1",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD_INPUT)
def test_bad_input_fails_where_it_enters(call, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


@pytest.mark.parametrize(
    "name",
    [
        "unroll",
        "use_cudnn",
        "reset_after",
        "recurrent_dropout",
        "recurrent_initializer",
        "recurrent_regularizer",
        "recurrent_constraint",
    ],
)
def test_what_only_a_gru_has_is_refused_with_advice(name):
    # Nothing of a GRU's signature is left out here or accepted and ignored.
    assert name in inspect.signature(layers.GRU).parameters
    assert name not in inspect.signature(MinGRU).parameters
    with pytest.raises(ValueError, match=f"`{name}`; .*: (leave|use) ?.*"):
        MinGRU(4, **{name: False})


def test_every_other_argument_of_a_gru_is_one_of_ours():
    ours = set(inspect.signature(MinGRU).parameters)
    refused = {"unroll", "use_cudnn", "reset_after"}
    for name in set(inspect.signature(layers.GRU).parameters) - ours - refused:
        assert name.startswith("recurrent_"), name


def test_delays_outside_their_range_are_refused():
    layer = DelayConv1D(1, 4)
    layer.build((None, None, 2))
    for steps in ([[-1, 0]], [[0, 4.5]], [[0, np.nan]], [[1]], [1, 2]):
        with pytest.raises(ValueError, match="from 0 to 4.*Received: steps="):
            layer.set_delays(steps)
    np.testing.assert_array_equal(layer.delays, [[0, 0]])


def test_wrong_channel_counts_are_refused():
    for layer in (MinGRU(4), DelayConv1D(2, 3), MGrade(4, 2, 3)):
        layer(np.zeros((1, 4, 3)))
        with pytest.raises(ValueError, match="axis -1"):
            layer(np.zeros((1, 4, 2)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tf_keras_is_refused():
    import tf_keras

    model = tf_keras.Sequential([tf_keras.layers.GRU(4, input_shape=(5, 3))])
    message = "`model` belongs to tf_keras.*Received: model="
    with pytest.raises(ValueError, match=message):
        keras_mgrade.streaming_model(model)
    with pytest.raises(ValueError, match=message):
        keras_mgrade.memory_report(model)
    for layer in (
        MinGRU(4),
        DelayConv1D(2, 3),
        MGrade(4, 2, 3),
        TemporalPooling(),
    ):
        # On JAX and PyTorch it is tf_keras that speaks first: its symbolic
        # tensors become none of theirs.
        ours = keras.backend.backend() == "tensorflow"
        error = ValueError if ours else TypeError
        message = "belongs to tf_keras.*Received: " if ours else "TF-Keras"
        with pytest.raises(error, match=message):
            layer(tf_keras.Input((5, 3)))
    # Each Keras refuses the other's layers by itself.
    with pytest.raises(ValueError, match="keras.Layer"):
        keras.Sequential([tf_keras.layers.Dense(3), MinGRU(4)])
    with pytest.raises(TypeError, match="instance of class Layer"):
        tf_keras.Sequential([MinGRU(4)])

"""A stream gives what the same weights give on the sequence so far."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    MinGRUCell,
    TemporalPooling,
    compile_step,
    initial_states,
    streaming_model,
)
from keras_mgrade.streaming import state_specs
from tolerances import SAME_SUMS, assert_close

# Longer than the delay lines, so that samples leave them too.
LENGTH = 5
CHANNELS = 3
MAX_DELAY = 3

# Whole and broken delays, some shared between taps.
DELAYS = keras.initializers.RandomUniform(0, MAX_DELAY, seed=1)


def gru(units=4, **arguments):
    arguments = {"return_sequences": True, **arguments}
    return MinGRU(units, **arguments)


def delays(kernel_size=2, **arguments):
    arguments = {"delay_initializer": DELAYS, **arguments}
    return DelayConv1D(kernel_size, MAX_DELAY, **arguments)


def mgrade(units=4, **arguments):
    arguments = {"delay_initializer": DELAYS, **arguments}
    return MGrade(units, 2, MAX_DELAY, **arguments)


def sequential(*parts, **arguments):
    return keras.Sequential(
        [keras.Input((None, CHANNELS)), *parts], **arguments
    )


def functional(function, **arguments):
    x = keras.Input((None, CHANNELS))
    return keras.Model(x, function(x), **arguments)


def scramble(model, rng):
    """No weight keeps a value that hides it, as a zero bias does."""
    for weight in model.weights:
        if weight.name == "delays" or "seed" in weight.path:
            continue
        value = rng.normal(size=weight.shape, scale=0.7)
        if weight.name in ("moving_variance", "width"):
            value = 0.5 + np.abs(value)
        weight.assign(value)


def samples(model, rng, batch_size):
    def one(x):
        size = (batch_size, LENGTH, *x.shape[2:])
        if "int" in x.dtype:
            return rng.integers(0, 5, size=size)
        return rng.normal(size=size).astype(x.dtype)

    return [one(x) for x in model.inputs]


def run(stream, xs, states=None):
    """Every output at every step, `(time, batch, ...)`; the last states."""
    states = initial_states(stream) if states is None else list(states)
    rows = []
    for t in range(xs[0].shape[1]):
        x_t = [ops.convert_to_tensor(x[:, t]) for x in xs]
        flat = keras.tree.flatten(stream([*x_t, *states]))
        count = len(flat) - len(states)
        rows.append([ops.convert_to_numpy(y) for y in flat[:count]])
        states = flat[count:]
    return [np.stack(column) for column in zip(*rows, strict=True)], states


def whole(model, xs, t):
    """The outputs of the whole-sequence model on the steps up to `t`."""
    so_far = [x[:, : t + 1] for x in xs]
    if isinstance(getattr(model, "input", None), dict):
        so_far = dict(zip(sorted(model.input), so_far, strict=True))
    ys = model(so_far if len(xs) > 1 else so_far[0])
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(ys)]


def assert_streams(model, rng, batch_size=2):
    scramble(model, rng)
    xs = samples(model, rng, batch_size)
    stream = streaming_model(model, batch_size=batch_size)
    ours, _ = run(stream, xs)
    assert len(ours) == len(model.outputs)
    timed = [len(y.shape) > 2 and y.shape[1] is None for y in model.outputs]
    # An output with time shows all its steps in one run; two runs show that
    # its length does not matter.
    for t in (2, LENGTH - 1) if all(timed) else range(LENGTH):
        for i, expected in enumerate(whole(model, xs, t)):
            if timed[i]:
                steps = np.swapaxes(expected, 0, 1)
                assert_close(ours[i][: t + 1], steps, SAME_SUMS)
            else:
                assert_close(ours[i][t], expected, SAME_SUMS)
    return stream


def conv(size, dilation=1, **arguments):
    return layers.Conv1D(
        4, size, padding="causal", dilation_rate=dilation, **arguments
    )


def depthwise(size, dilation=1, **arguments):
    """Which Keras has no causal padding for."""
    layer = layers.DepthwiseConv1D(size, dilation_rate=dilation, **arguments)
    padding = layers.ZeroPadding1D(((size - 1) * dilation, 0))
    return keras.Sequential([padding, layer])


RECURRENT = {
    "min_gru": lambda: gru(activation="tanh"),
    "linear taps": delays,
    "integer taps": lambda: delays(interpolation="integer"),
    "gaussian taps": lambda: delays(
        interpolation="gaussian", normalize_kernel=True, activation="tanh"
    ),
    "last step": TemporalPooling,
    "mean": lambda: TemporalPooling("mean"),
    "exponential": lambda: TemporalPooling("exponential", time_constant=2.0),
    "SimpleRNN": lambda: layers.SimpleRNN(4, return_sequences=True),
    "GRU": lambda: layers.GRU(4, return_sequences=True, dropout=0.5),
    "GRU, last step": lambda: layers.GRU(4, reset_after=False),
    "LSTM": lambda: layers.LSTM(4, return_sequences=True),
    "LSTM, last step": lambda: layers.LSTM(4, recurrent_dropout=0.5),
    "RNN of a cell of ours": lambda: layers.RNN(
        MinGRUCell(4), return_sequences=True
    ),
    "RNN of stacked cells": lambda: layers.RNN(
        [layers.LSTMCell(4), layers.GRUCell(2)], return_sequences=True
    ),
    "Conv1D": lambda: conv(3, activation="tanh"),
    "Conv1D, dilated": lambda: conv(2, 3, use_bias=False),
    "Conv1D, groups": lambda: layers.Conv1D(
        6, 2, padding="causal", dilation_rate=2, groups=CHANNELS
    ),
    "Conv1D of one step": lambda: layers.Conv1D(4, 1),
    "DepthwiseConv1D": lambda: depthwise(3, activation="tanh"),
    "DepthwiseConv1D, dilated": lambda: depthwise(
        2, 3, depth_multiplier=2, use_bias=False
    ),
    "GlobalAveragePooling1D": layers.GlobalAveragePooling1D,
}


@pytest.mark.parametrize("layer", RECURRENT)
def test_layers_with_states(layer, rng):
    assert_streams(sequential(RECURRENT[layer]()), rng)


def test_one_stream_alone(rng):
    assert_streams(sequential(delays(), gru()), rng, batch_size=1)


MGRADES = {
    "as it comes": {},
    "batch normalisation": {"normalization": "batch"},
    "no normalisation": {"normalization": None},
    "integer": {"interpolation": "integer"},
    "gaussian": {"interpolation": "gaussian"},
    "convolution alone": {"use_recurrence": False},
    "recurrence alone": {"use_convolution": False},
    "convolution on input": {"convolution_on_input": True},
    "no encoder": {"units": CHANNELS, "convolution_on_input": True},
    "all switches": {
        "normalization": "batch",
        "convolution_norm": True,
        "recurrence_norm": True,
        "recurrence_dense": True,
        "dropout": 0.5,
        "activation": "gelu",
        "candidate_activation": "tanh",
        "recurrent_activation": "hard_sigmoid",
        "output_activation": "silu",
    },
}


@pytest.mark.parametrize("flags", MGRADES)
def test_mgrade(flags, rng):
    stream = assert_streams(sequential(mgrade(**MGRADES[flags])), rng)
    roles = [role for *_, role in state_specs(stream)]
    assert ("delay_line" in roles) == (flags != "recurrence alone")
    assert ("recurrent" in roles) == (flags != "convolution alone")


def normalization():
    return layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 4.0])


POINTWISE = {
    "Activation": lambda: layers.Activation("tanh"),
    "ActivityRegularization": layers.ActivityRegularization,
    "AlphaDropout": lambda: layers.AlphaDropout(0.5),
    "BatchNormalization": layers.BatchNormalization,
    "Dense": lambda: layers.Dense(2, activation="tanh"),
    "Dropout": lambda: layers.Dropout(0.5),
    "ELU": layers.ELU,
    "EinsumDense": lambda: layers.EinsumDense(
        "abc,cd->abd", (None, 2), bias_axes="d"
    ),
    "EinsumDense, any rank": lambda: layers.EinsumDense("...c,cd->...d", (2,)),
    "GaussianDropout": lambda: layers.GaussianDropout(0.5),
    "GaussianNoise": lambda: layers.GaussianNoise(1.0),
    "Identity": layers.Identity,
    "LayerNormalization": layers.LayerNormalization,
    "LeakyReLU": layers.LeakyReLU,
    "Normalization": normalization,
    "RMSNormalization": layers.RMSNormalization,
    "ReLU": layers.ReLU,
    "Rescaling": lambda: layers.Rescaling(2.0, offset=1.0),
    "Softmax": layers.Softmax,
    "SpatialDropout1D": lambda: layers.SpatialDropout1D(0.5),
    "TimeDistributed": lambda: layers.TimeDistributed(layers.Dense(2)),
    "UnitNormalization": layers.UnitNormalization,
}


@pytest.mark.parametrize("layer", POINTWISE)
def test_layers_that_treat_all_steps_alike(layer, rng):
    model = sequential(POINTWISE[layer]())
    assert model.layers[0].__class__.__name__ == layer.split(",")[0]
    assert_streams(model, rng)


def test_tokens(rng):
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, gru()(layers.Embedding(5, CHANNELS)(tokens)))
    stream = assert_streams(model, rng)
    assert stream.inputs[0].shape == (2,)
    assert stream.inputs[0].dtype == "int32"


def test_merges_of_several_inputs_into_several_outputs(rng):
    left = keras.Input((None, CHANNELS))
    right = keras.Input((None, CHANNELS))
    h = gru(CHANNELS)(right)
    merges = (
        layers.Add(),
        layers.Average(),
        layers.Concatenate(),
        layers.Maximum(),
        layers.Minimum(),
        layers.Multiply(),
        layers.Subtract(),
    )
    outputs = [merge([left, h]) for merge in merges]
    assert_streams(keras.Model([left, right], [*outputs, right]), rng)


def test_skips_and_other_sums_written_as_operations(rng):
    def several(x):
        h = gru(CHANNELS)(x)
        return [
            h + x,
            1.0 - h * x,
            ops.maximum(h, x) / np.array([1.0, 2.0, 3.0], "float32"),
            ops.gelu(h) - ops.tanh(x),
            ops.clip(x, -0.5, 0.5) ** 2,
        ]

    assert_streams(functional(several), rng)


def test_inputs_and_outputs_in_dictionaries(rng):
    inputs = {name: keras.Input((None, CHANNELS), name=name) for name in "ba"}
    h = gru()(inputs["a"] - inputs["b"])
    model = keras.Model(inputs, {"z": TemporalPooling()(h), "y": h})
    assert_streams(model, rng)


def test_layer_called_twice_has_states_of_its_own_at_each_call(rng):
    shared = gru(CHANNELS, name="shared")
    model = functional(lambda x: shared(shared(x)))
    stream = assert_streams(model, rng)
    names = [x.name for x in stream.inputs[1:]]
    assert names == ["shared__0__hidden", "shared__1__hidden"]
    assert len(stream.weights) == 2


def nested_sequential(**arguments):
    return sequential(gru(CHANNELS), layers.LayerNormalization(), **arguments)


def nested_functional(**arguments):
    return functional(lambda x: x + delays()(x), **arguments)


def test_sequential_in_functional(rng):
    inner = nested_sequential()
    assert_streams(functional(lambda x: x + inner(x)), rng)


def test_functional_in_sequential(rng):
    inner, outer = nested_functional(), keras.Sequential()
    outer.add(keras.Input((None, CHANNELS)))
    outer.add(inner)
    outer.add(keras.Sequential([nested_sequential(), layers.Dense(2)]))
    assert_streams(outer, rng)


def test_nested_model_called_twice(rng):
    inner = nested_functional(name="inner")
    stream = assert_streams(functional(lambda x: inner(inner(x))), rng)
    assert len(state_specs(stream)) == 2


def test_nested_model_with_several_inputs_and_outputs(rng):
    a, b = (keras.Input((None, CHANNELS), name=name) for name in "ab")
    inner = keras.Model([a, b], [gru(CHANNELS)(a) - b, TemporalPooling()(b)])

    def outer(x):
        sequence, last = inner([x, delays()(x)])
        return [layers.Dense(2)(sequence), layers.Dense(2)(last)]

    assert_streams(functional(outer), rng)


HEADS = {
    "return_sequences=False": lambda: gru(return_sequences=False),
    "last": TemporalPooling,
    "mean": lambda: TemporalPooling("mean"),
    "exponential": lambda: TemporalPooling("exponential", time_constant=3.0),
}


@pytest.mark.parametrize("head", HEADS)
def test_any_layer_passes_after_time_is_gone(head, rng):
    model = sequential(
        gru(),
        HEADS[head](),
        # Its states are not those of the stream.
        layers.RepeatVector(3),
        layers.LSTM(4),
        layers.Reshape((2, 2)),
        layers.Flatten(),
        layers.LayerNormalization(),
        layers.BatchNormalization(),
        layers.Dense(2, activation="softmax"),
    )
    assert_streams(model, rng)


def test_returned_states_are_outputs(rng):
    def several(x):
        y, hidden = gru(CHANNELS, return_state=True)(x)
        z, line = delays(return_state=True)(y)
        return [z, layers.Dense(2)(hidden), line]

    assert_streams(functional(several), rng)


def test_mgrade_returns_its_states(rng):
    model = functional(mgrade(return_state=True))
    assert len(model.outputs) == 3
    assert_streams(model, rng)


@pytest.mark.parametrize("policy_everywhere", ["mixed_bfloat16"], indirect=True)
def test_mixed_precision_leaves_float32_layers_alone(policy_everywhere, rng):
    model = sequential(gru(dtype="float32"), mgrade(dtype="float32"))
    # In bfloat16 this would miss the tolerance a thousandfold.
    assert_streams(model, rng)


def golden_model():
    block = functional(lambda x: mgrade(name="block-1")(x), name="2nd")
    twice = gru(name="shared")
    left = keras.Input((None, CHANNELS), name="left")
    right = keras.Input((None, CHANNELS), name="right")
    h = twice(block(left))
    h = twice(keras.Sequential([delays(name="taps")], name="inner")(h))
    mean = TemporalPooling("mean", name="mean")(right)
    answer = layers.Dense(2, name="answer")(mean)
    return keras.Model([right, left], [answer, h])


def test_names_and_order_of_inputs_and_outputs():
    stream = streaming_model(golden_model())
    assert [x.name for x in stream.inputs] == GOLDEN_INPUTS
    assert stream.output_names == GOLDEN_OUTPUTS
    assert [x.shape for x in stream.outputs[2:]] == [
        x.shape for x in stream.inputs[2:]
    ]
    assert state_specs(stream) == GOLDEN_SPECS


GOLDEN_INPUTS = [
    "right",
    "left",
    "layer_2nd__block_1__convolution__0__delay_line",
    "layer_2nd__block_1__recurrence__0__hidden",
    "shared__0__hidden",
    "inner__taps__0__delay_line",
    "mean__0__sum",
    "mean__0__count",
    "shared__1__hidden",
]
# The step that each output comes from.
GOLDEN_OUTPUTS = [
    "answer",
    "shared",
    "layer_2nd__block_1__convolution",
    "layer_2nd__block_1__recurrence",
    "shared",
    "inner__taps",
    "mean",
    "mean",
    "shared",
]
GOLDEN_SPECS = list(
    zip(
        GOLDEN_INPUTS[2:],
        [(3, 4), (4,), (4,), (3, 4), (3,), (1,), (4,)],
        ["delay_line", "recurrent", "recurrent", "delay_line"]
        + ["accumulator", "accumulator", "recurrent"],
        strict=True,
    )
)


def test_names_are_valid_and_unique_in_c():
    model = sequential(
        gru(name="a-b"), gru(name="a_b"), gru(name="a b"), gru(name="7é")
    )
    names = [x.name for x in streaming_model(model).inputs[1:]]
    assert names == [
        "a_b__0__hidden",
        "a_b__0__hidden_1",
        "a_b__0__hidden_2",
        "layer_7___0__hidden",
    ]
    for name in names:
        assert re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)


def test_an_input_may_be_named_as_a_step_would_be():
    x = keras.Input((None, CHANNELS), name="a_b")
    stream = streaming_model(keras.Model(x, gru(name="a-b")(x)))
    assert [x.name for x in stream.inputs] == ["a_b", "a_b__0__hidden"]


def everything():
    model = sequential(
        mgrade(normalization="batch", dropout=0.5),
        gru(),
        layers.LayerNormalization(),
        TemporalPooling("mean"),
        layers.Dense(2),
    )
    model.compile("sgd", "mse")
    return model


def test_the_weights_are_the_models_own():
    model = everything()
    stream = streaming_model(model)
    assert {id(w) for w in stream.weights} == {id(w) for w in model.weights}


def test_training_the_model_changes_the_stream_and_its_compiled_step(rng):
    model = everything()
    stream = streaming_model(model, batch_size=2)
    step = compile_step(stream)
    (x,) = samples(model, rng, 2)
    before, _ = step(x[:, 0], initial_states(stream))
    before = ops.convert_to_numpy(before)
    model.fit(x, rng.normal(size=(2, 2)), epochs=2, verbose=0)
    after, _ = step(x[:, 0], initial_states(stream))
    expected = ops.convert_to_numpy(model(x[:, :1]))
    assert np.abs(expected - before).max() > 1e-3
    assert_close(ops.convert_to_numpy(after), expected, SAME_SUMS)


def test_streaming_leaves_the_model_as_it_was(rng, tmp_path):
    model = everything()
    (x,) = samples(model, rng, 2)
    before = ops.convert_to_numpy(model(x))
    streaming_model(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for same in (model, loaded):
        assert_close(ops.convert_to_numpy(same(x)), before, SAME_SUMS)


def test_a_stream_is_saved_and_loaded_like_any_model(rng, tmp_path):
    model = golden_model()
    scramble(model, rng)
    stream = streaming_model(model, batch_size=2)
    stream.save(tmp_path / "stream.keras")
    loaded = keras.saving.load_model(tmp_path / "stream.keras")
    assert state_specs(loaded) == state_specs(stream)
    xs = samples(model, rng, 2)
    (ours, states), (theirs, their_states) = run(stream, xs), run(loaded, xs)
    for actual, expected in zip(
        [*theirs, *their_states], [*ours, *states], strict=True
    ):
        actual = ops.convert_to_numpy(actual)
        assert_close(actual, ops.convert_to_numpy(expected), SAME_SUMS)


def test_a_stream_compiles_and_predicts(rng):
    model = everything()
    stream = streaming_model(model, batch_size=2)
    stream.compile("sgd", "mse")
    (x,) = samples(model, rng, 2)
    states = [ops.convert_to_numpy(s) for s in initial_states(stream)]
    for t in range(LENGTH):
        y, *states = stream.predict_on_batch([x[:, t], *states])
    assert_close(y, ops.convert_to_numpy(model(x)), SAME_SUMS)


def test_steps_stay_in_inference_whatever_the_flag(rng):
    model = sequential(
        layers.Dropout(0.5), mgrade(normalization="batch", dropout=0.5)
    )
    scramble(model, rng)
    stream = streaming_model(model, batch_size=2)
    (x,) = samples(model, rng, 2)
    inputs = [ops.convert_to_tensor(x[:, 0]), *initial_states(stream)]
    before = model.get_weights()
    trained = ops.convert_to_numpy(stream(inputs, training=True)[0])
    assert_close(trained, whole(model, [x], 0)[0][:, 0], SAME_SUMS)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_initial_states_are_zeros_of_the_declared_shapes():
    stream = streaming_model(golden_model(), batch_size=2)
    states = initial_states(stream)
    for state, (_, shape, _) in zip(states, GOLDEN_SPECS, strict=True):
        state = ops.convert_to_numpy(state)
        assert state.shape == (2, *shape)
        assert state.dtype == "float32"
        assert not state.any()


def test_chunks_with_carried_states_equal_one_run(rng):
    model = golden_model()
    scramble(model, rng)
    stream = streaming_model(model, batch_size=2)
    xs = samples(model, rng, 2)
    once, last = run(stream, xs)
    first, states = run(stream, [x[:, :2] for x in xs])
    second, states = run(stream, [x[:, 2:] for x in xs], states)
    for i, expected in enumerate(once):
        chunks = np.concatenate([first[i], second[i]])
        np.testing.assert_array_equal(chunks, expected)
    for state, expected in zip(states, last, strict=True):
        state = ops.convert_to_numpy(state)
        np.testing.assert_array_equal(state, ops.convert_to_numpy(expected))


def test_states_that_are_not_zero_equal_an_initial_state(rng):
    block = mgrade()
    model = sequential(block)
    scramble(model, rng)
    stream = streaming_model(model, batch_size=2)
    xs = samples(model, rng, 2)
    states = [
        ops.convert_to_tensor(rng.normal(size=s.shape).astype("float32"))
        for s in initial_states(stream)
    ]
    (ours,), _ = run(stream, xs, states)
    expected = ops.convert_to_numpy(block(*xs, initial_state=states))
    assert_close(ours, np.swapaxes(expected, 0, 1), SAME_SUMS)


def no_states():
    return sequential(layers.Dense(2))


@pytest.mark.parametrize("make", [everything, golden_model, no_states])
def test_the_compiled_step_equals_the_plain_call(make, rng):
    model = make()
    scramble(model, rng)
    stream = streaming_model(model, batch_size=2)
    step = compile_step(stream)
    xs = [x[:, 0] for x in samples(model, rng, 2)]
    states = [ops.convert_to_tensor(s) for s in initial_states(stream)]
    several = len(xs) > 1
    for _ in range(2):
        inputs = [*map(ops.convert_to_tensor, xs), *states]
        expected = keras.tree.flatten(stream(inputs))
        expected = [ops.convert_to_numpy(y) for y in expected]
        y, states = step(xs if several else xs[0], states)
        assert isinstance(y, list) == several
        for actual, truth in zip(
            [*(y if several else [y]), *states], expected, strict=True
        ):
            assert_close(ops.convert_to_numpy(actual), truth, SAME_SUMS)


@keras.saving.register_keras_serializable("test")
class Ratio(layers.Layer):
    """Takes a dictionary, in which a list lies."""

    def call(self, inputs):
        first, second = inputs["pair"]
        return first / (1 + ops.square(second)) + inputs["offset"]


def test_a_layer_without_time_takes_what_it_takes(rng):
    x = keras.Input((None, CHANNELS))
    h = TemporalPooling("last")(gru()(x))
    y = Ratio()({"pair": [h, ops.tanh(h)], "offset": h})
    assert_streams(keras.Model(x, y), rng)


@keras.saving.register_keras_serializable("test")
class Difference(layers.Layer):
    """`x[t] - x[t - 1]`: a layer from outside the package."""

    def build(self, input_shape):
        self.channels = input_shape[-1]

    def call(self, x):
        return x - ops.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]

    @property
    def state_specs(self):
        return [("previous", (self.channels,), "delay_line")]

    def get_initial_state(self, batch_size):
        return [ops.zeros((batch_size, self.channels))]

    def step(self, x_t, states):
        return x_t - states[0], [x_t]


def test_a_layer_from_outside_takes_part(rng):
    model = sequential(Difference(name="difference"), gru())
    stream = assert_streams(model, rng)
    assert state_specs(stream)[0] == (
        "difference__0__previous", (CHANNELS,), "delay_line"
    )  # fmt: skip


# What is refused: the layer or function, the reason, the way out.
UNKNOWN = "not known to treat every time step alike"
ALONG_TIME = r"works along time \(axis=\[?1"
STEP = "give the layer `step`"
REFUSED = {
    "Bidirectional": (
        lambda: layers.Bidirectional(
            layers.GRU(2, return_sequences=True), name="here"
        ),
        UNKNOWN,
        "it needs the future; use its forward layer alone",
    ),
    "Masking": (
        lambda: layers.Masking(name="here"),
        "makes a mask",
        "no padding",
    ),
    "GRU": (
        lambda: layers.GRU(2, go_backwards=True, name="here"),
        r"runs backwards \(go_backwards=True\)",
        "leave go_backwards out",
    ),
    "MinGRU": (
        lambda: MinGRU(2, go_backwards=True, name="here"),
        r"runs backwards \(go_backwards=True\)",
        "leave go_backwards out",
    ),
    "Conv1D": (
        lambda: layers.Conv1D(2, 2, name="here"),
        r"looks ahead or shortens \(padding='valid'\)",
        "use padding='causal'",
    ),
    "Conv1D with strides": (
        lambda: layers.Conv1D(2, 2, 2, padding="causal", name="here"),
        r"skips steps \(strides=2\)",
        "use padding='causal', strides=1",
    ),
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(3, name="here"),
        r"looks ahead or shortens \(padding='valid'\)",
        r"put ZeroPadding1D\(",
    ),
    "SeparableConv1D": (
        lambda: layers.SeparableConv1D(2, 2, name="here"),
        UNKNOWN,
        "use a DepthwiseConv1D followed by Dense",
    ),
    "ZeroPadding1D behind": (
        lambda: layers.ZeroPadding1D((1, 1), name="here"),
        "puts zeros behind",
        "in front",
    ),
    "ZeroPadding1D and a sum": (
        lambda: (
            lambda x: layers.Add(name="here")(
                [layers.ZeroPadding1D((1, 0))(x)] * 2
            )
        ),
        "reads the zeros of a ZeroPadding1D",
        "padding='valid'",
    ),
    "ZeroPadding1D of another length": (
        lambda: (
            lambda x: layers.Conv1D(2, 3, name="here")(
                layers.ZeroPadding1D((1, 0))(x)
            )
        ),
        "looks ahead or shortens",
        "use padding='causal'",
    ),
    "GlobalAveragePooling1D": (
        lambda: layers.GlobalAveragePooling1D(keepdims=True, name="here"),
        "keeps an axis of time",
        "use TemporalPooling",
    ),
    "Flatten": (lambda: layers.Flatten(name="here"), UNKNOWN, STEP),
    "Reshape": (lambda: layers.Reshape((-1, 1), name="here"), UNKNOWN, STEP),
    "LayerNormalization": (
        lambda: layers.LayerNormalization(axis=1, name="here"),
        ALONG_TIME,
        STEP,
    ),
    "BatchNormalization": (
        lambda: layers.BatchNormalization(axis=1, name="here"),
        ALONG_TIME,
        STEP,
    ),
    "Softmax": (
        lambda: layers.Softmax(axis=1, name="here"),
        ALONG_TIME,
        STEP,
    ),
    "Concatenate": (
        lambda: lambda x: layers.Concatenate(axis=1, name="here")([x, x]),
        ALONG_TIME,
        STEP,
    ),
    "Softmax from the end": (
        lambda: layers.Softmax(axis=-2, name="here"),
        r"works along time \(axis=-2\)",
        STEP,
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,bd->adc", (2, CHANNELS), name="here"),
        r"mixes time steps \(equation 'abc,bd->adc'\)",
        STEP,
    ),
    "slice": (
        lambda: lambda x: ops.get_item(x, (slice(None), -1)),
        "not an elementwise operation",
        r"for the last step use TemporalPooling\('last'\)",
    ),
    "sum over time": (
        lambda: lambda x: x + ops.sum(x, axis=1, keepdims=True),
        "not an elementwise operation",
        STEP,
    ),
    "sequence and vector": (
        lambda: lambda x: layers.Add(name="here")([x, TemporalPooling()(x)]),
        "mixes a sequence with a tensor without time",
        "keep the time axis of both",
    ),
}


def test_masking_is_named_and_not_what_its_mask_is_made_of():
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.Masking(), MinGRU(4)]
    )
    with pytest.raises(
        ValueError,
        match=r"Layer 'masking\w*' cannot run as a stream .* makes a mask",
    ):
        streaming_model(model)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_stream_is_refused_by_name(case):
    make, reason, way_out = REFUSED[case]
    x = keras.Input((4, CHANNELS))
    inner = keras.Model(x, make()(x), name="inner")
    name = {"slice": "get_item", "sum over time": "sum"}.get(case, "here")
    message = rf"Layer 'inner/{name}' .* because it .*{reason}.*; .*{way_out}.*"
    with pytest.raises(ValueError, match=message + f"Received: inner/{name}="):
        streaming_model(keras.Model(x, inner(x)))


def test_slicing_is_refused_as_a_slice():
    model = functional(lambda x: x[:, -1])
    with pytest.raises(ValueError, match=r"use TemporalPooling\('last'\)"):
        streaming_model(model)


def test_embedding_that_masks_is_refused():
    tokens = keras.Input((None,), dtype="int32")
    embedding = layers.Embedding(5, 2, mask_zero=True, name="here")
    model = keras.Model(tokens, embedding(tokens))
    with pytest.raises(ValueError, match="'here' .*; set mask_zero=False"):
        streaming_model(model)


def test_tokens_without_a_time_axis_are_refused():
    tokens = keras.Input((4,), dtype="int32")
    model = keras.Model(tokens, gru()(layers.Embedding(5, 2)(tokens)))
    with pytest.raises(ValueError, match=r"keras.Input\(\(None,\)\) for tok"):
        streaming_model(model)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "make", [lambda: keras.Sequential([gru()]), Subclassed]
)
def test_models_without_a_graph_are_refused(make):
    with pytest.raises(ValueError, match="start a Sequential with keras.Inp"):
        streaming_model(make())


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True])
def test_a_batch_size_is_a_positive_integer(batch_size):
    message = f"`batch_size` must be .* Received: batch_size={batch_size}"
    with pytest.raises(ValueError, match=message):
        streaming_model(sequential(gru()), batch_size=batch_size)


@pytest.mark.parametrize("function", [initial_states, compile_step])
def test_what_is_not_a_stream_is_refused(function):
    with pytest.raises(ValueError, match="must be a model made by `streaming"):
        function(sequential(gru()))


def masked(layer):
    x = keras.Input((None, CHANNELS))
    mask = keras.Input((None,), dtype="bool")
    return keras.Model([x, mask], layer(x, mask=mask))


def trained(layer):
    return functional(lambda x: layer(x, training=True))


def started(layer):
    x, state = keras.Input((None, CHANNELS)), keras.Input((4,))
    return keras.Model([x, state], layer(x, initial_state=state))


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: masked(mgrade(name="here")), "mask"),
        (lambda: masked(gru(name="here")), "mask"),
        (lambda: trained(layers.BatchNormalization(name="here")), "training"),
        (lambda: started(gru(name="here")), "initial_state"),
    ],
)
def test_arguments_in_the_graph_are_refused(make, argument):
    with pytest.raises(
        ValueError, match=f"'here'.*called with `{argument}`.*leave.*out"
    ):
        streaming_model(make())


def test_the_first_argument_may_come_by_keyword(rng):
    model = functional(lambda x: layers.Dense(2)(inputs=mgrade()(inputs=x)))
    assert_streams(model, rng)


def test_a_nested_model_takes_a_dictionary_by_name(rng):
    a = keras.Input((None, CHANNELS), name="a")
    b = keras.Input((None, CHANNELS), name="b")
    inner = keras.Model([b, a], gru()(b) - gru()(a), name="inner")
    model = functional(lambda x: inner({"a": x, "b": 10 * x}))
    assert_streams(model, rng)


def test_a_layer_before_and_after_time_is_gone(rng, tmp_path):
    shared = layers.Dense(CHANNELS, name="shared")
    model = functional(lambda x: shared(TemporalPooling("mean")(shared(x))))
    assert_streams(model, rng)
    stream = streaming_model(model)
    stream.save(tmp_path / "stream.keras")
    loaded = keras.models.load_model(tmp_path / "stream.keras")
    assert len(loaded.weights) == len(stream.weights) == 2


def test_names_may_be_used_twice(rng):
    def inner(name):
        return functional(
            lambda x: layers.Dense(2, name="head")(
                MinGRU(3, name="gru")(x + layers.Dense(3, name="d")(x))
            ),
            name=name,
        )

    parts = [inner("left"), inner("right")]
    model = functional(
        lambda x: layers.Dense(2, name="head")(parts[0](x) + parts[1](x))
    )
    assert_streams(model, rng)


def test_sums_inside_a_block_beside_those_of_a_model_from_a_file(rng, tmp_path):
    def skips(x):
        return MGrade(CHANNELS, 2, 4)(x + 1.0) + x

    # Keras numbers its operations anew in every process.
    path = tmp_path / "model.keras"
    keras.backend.clear_session()
    functional(skips).save(path)
    keras.backend.clear_session()
    assert_streams(keras.models.load_model(path), rng)


class Cumulative(layers.Dense):
    def call(self, inputs, training=None):
        return ops.cumsum(super().call(inputs), axis=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Cumulative(2),
        lambda: layers.Rescaling([[1.0], [2.0], [3.0], [4.0]]),
        lambda: layers.EinsumDense("abc,cd->abd", (4, 2), bias_axes="bd"),
        lambda: layers.EinsumDense("...bc,bd->...dc", (4, 3)),
    ],
)
def test_what_tells_time_steps_apart_is_refused(make):
    x = keras.Input((4, CHANNELS))
    with pytest.raises(ValueError, match="cannot run as a stream"):
        streaming_model(keras.Model(x, make()(x)))


class FromFive(layers.Layer):
    state_specs = [("sum", (CHANNELS,), "accumulator")]

    def get_initial_state(self, batch_size):
        return [5 * ops.ones((batch_size, CHANNELS))]

    def step(self, x_t, states):
        return states[0] + x_t, [states[0] + x_t]

    def call(self, inputs):
        return 5 + ops.cumsum(inputs, axis=1)


def test_a_stream_that_does_not_start_from_zero_is_refused():
    with pytest.raises(ValueError, match="initial state is not zero"):
        streaming_model(sequential(FromFive()))


def test_operations_alone_are_no_stream():
    with pytest.raises(ValueError, match="no layer that could be streamed"):
        streaming_model(functional(lambda x: 2 * x))


def test_compile_step_checks_its_samples(rng):
    stream = streaming_model(sequential(gru()))
    step, states = compile_step(stream), initial_states(stream)
    y, _ = step(rng.normal(size=(1, CHANNELS)), states)
    assert "float32" in str(y.dtype)
    for bad in (np.zeros(CHANNELS), np.zeros((3, CHANNELS))):
        with pytest.raises(ValueError, match=r"shape \(1, 3\).*Received"):
            step(bad, states)
    a, b = (keras.Input((None, CHANNELS), name=n) for n in "ab")
    stream = streaming_model(keras.Model([b, a], gru()(b) - gru()(a)))
    step, states = compile_step(stream), initial_states(stream)
    left, right = rng.normal(size=(2, 1, CHANNELS))
    listed, _ = step([left, right], states)
    named, _ = step({"a": right, "b": left}, states)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(listed), ops.convert_to_numpy(named)
    )
    with pytest.raises(ValueError, match="list of 2 samples"):
        step(left, states)

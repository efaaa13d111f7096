"""Precisions: half in between, float32 where it is summed or carried."""

import os

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_mgrade
from budget import slow_except_on
from keras_mgrade import DelayConv1D, MGrade, MinGRU, MinGRUCell
from keras_mgrade.layers import TemporalPooling
from tolerances import EXACT, HALF, SAME_SUMS, assert_close

# Runs on JAX in the float64 process that tests/test_gradients.py starts.
in_float64 = pytest.mark.skipif(
    keras.backend.backend() == "jax"
    and os.environ.get("JAX_ENABLE_X64") != "1",
    reason="JAX has float64 in a process of its own: tests/test_gradients.py",
)
POLICIES = ("mixed_float16", "mixed_bfloat16")
MAKERS = {
    "min_gru": lambda **flags: MinGRU(
        6, return_sequences=True, return_state=True, **flags
    ),
    "linear": lambda **flags: DelayConv1D(3, 9, return_state=True, **flags),
    "integer": lambda **flags: DelayConv1D(
        3, 9, "integer", return_state=True, **flags
    ),
    "gaussian": lambda **flags: DelayConv1D(
        3, 9, "gaussian", return_state=True, **flags
    ),
    "mgrade": lambda **flags: MGrade(6, 3, 9, return_state=True, **flags),
}


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def kind(x):
    return keras.backend.standardize_dtype(x.dtype)


def twin(name, policy, shape=(2, 40, 4)):
    """One layer in two precisions, with the same weights."""
    made = []
    for dtype in (policy, "float32"):
        layer = MAKERS[name](dtype=dtype)
        layer.build(shape)
        made.append(layer)
    made[1].set_weights(made[0].get_weights())
    return made


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_close_to_float32(name, policy, rng):
    half, full = twin(name, policy)
    x = rng.normal(size=(2, 40, 4)).astype("float32")
    y, *states = half(x)
    wanted, *wanted_states = full(x)
    assert kind(y) == half.compute_dtype
    assert_close(array(y), array(wanted), HALF[policy])
    for state, wanted_state in zip(states, wanted_states, strict=True):
        assert kind(state) == "float32"
        assert_close(array(state), array(wanted_state), HALF[policy])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_symbolic_calls_know_the_dtypes(name, policy):
    outputs = MAKERS[name](dtype=policy)(keras.Input((None, 4)))
    eager = twin(name, policy)[0](np.zeros((2, 40, 4), "float32"))
    assert [kind(y) for y in outputs] == [kind(y) for y in eager]
    for symbolic, real in zip(outputs, eager, strict=True):
        assert tuple(symbolic.shape)[2:] == tuple(real.shape)[2:]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_given_states_are_not_rounded(name, policy, rng):
    """One part in a thousand is below what half precision resolves at 1."""
    layer, _ = twin(name, policy)
    states = [
        1 + 1e-3 * rng.normal(size=s.shape).astype("float32")
        for s in layer.get_initial_state(2)
    ]
    assert {kind(s) for s in layer.get_initial_state(2)} == {"float32"}
    # A state that is kept comes back as it was: gates closed, nothing read.
    mask = ops.zeros((2, 3), dtype="bool")
    _, *reached = layer(np.zeros((2, 3, 4), "float32"), states, mask=mask)
    if name == "min_gru":
        np.testing.assert_array_equal(array(reached[0]), states[0])
    else:
        np.testing.assert_array_equal(
            array(reached[0])[:, :-3], states[0][:, 3:]
        )


def test_slow_states_do_not_forget_in_half_precision(rng):
    """A gate of 1/1000 in float16 sums would lose most of its input."""
    layer = MinGRU(
        2,
        gate_bias_initializer=keras.initializers.Constant(-6.9),
        kernel_initializer="zeros",
        bias_initializer="ones",
        dtype="mixed_float16",
    )
    y = array(layer(np.zeros((1, 4000, 3), "float32")))
    gate = 1 / (1 + np.exp(6.9))
    assert_close(y, np.full((1, 2), 1 - (1 - gate) ** 4000), 2e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_cell_in_short_fast_sequences(policy, rng):
    """`keras.layers.RNN` rounds the state to half precision at every step."""
    cell = MinGRUCell(
        5,
        gate_bias_initializer=keras.initializers.RandomUniform(-2, 2),
        dtype=policy,
    )
    rnn = layers.RNN(cell, return_sequences=True, dtype=policy)
    x = rng.normal(size=(2, 32, 3)).astype("float32")
    stepped = array(rnn(x))
    layer = MinGRU(5, return_sequences=True, dtype=policy)
    layer.build(x.shape)
    layer.set_weights(rnn.get_weights())
    assert_close(array(layer(x)), stepped, 4 * HALF[policy])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_cell_gives_back_the_dtype_it_was_given(dtype, rng):
    cell = MinGRUCell(5)
    x, h = ops.ones((2, 3)), ops.ones((2, 5), dtype=dtype)
    y, states = cell(x, [h])
    assert kind(y) == kind(states[0]) == dtype


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_streams_in_half_precision(name, policy, rng):
    inputs = keras.Input((None, 4))
    outputs = MAKERS[name](dtype=policy)(inputs)[0]
    outputs = TemporalPooling("mean", dtype=policy)(outputs)
    model = keras.Model(inputs, outputs)
    stream = keras_mgrade.streaming_model(model, batch_size=2)
    count = len(keras_mgrade.streaming.state_specs(stream))
    assert {t.dtype for t in stream.inputs[-count:]} == {"float32"}
    x = rng.normal(size=(2, 20, 4)).astype("float32")
    step = keras_mgrade.compile_step(stream)
    states = keras_mgrade.initial_states(stream)
    for t in range(20):
        y, states = step(x[:, t], states)
    assert kind(y) == keras.DTypePolicy(policy).compute_dtype
    # The same roundings in both: sums differ, and at most the last digit.
    assert_close(array(y), array(model(x)), HALF[policy])


@pytest.mark.parametrize("mode", ["last", "mean", "exponential"])
def test_pooling_sums_in_float32(mode, rng):
    constant = 50.0 if mode == "exponential" else None
    pools = [
        TemporalPooling(mode, time_constant=constant, dtype=dtype)
        for dtype in ("mixed_float16", "float32")
    ]
    # In float16 a sum of 4,000 ones would stop growing at 2,048.
    x = np.ones((1, 4000, 2), "float32")
    assert kind(pools[0](x)) == "float16"
    assert_close(array(pools[0](x)), array(pools[1](x)), 1e-3)


@pytest.mark.parametrize(
    "policy_everywhere",
    [
        "mixed_float16",
        pytest.param("mixed_bfloat16", marks=slow_except_on("torch")),
    ],
    indirect=True,
)
def test_a_fit_learns(policy_everywhere, rng):
    model = keras.Sequential(
        [
            keras.Input((None, 4)),
            MGrade(8, 3, 9),
            MinGRU(8),
            layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    # `compile` scales the loss where half precision would underflow.
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy_everywhere == "mixed_float16")
    x = rng.normal(size=(64, 20, 4)).astype("float32")
    y = x[:, -3, :1] - x[:, -7, 1:2]
    history = model.fit(x, y, batch_size=16, epochs=15, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.5 * losses[0]
    assert kind(model.layers[0].convolution._delays) == "float32"
    assert model.layers[0].compute_dtype != "float32"


FLAGS = {
    "min_gru": [{"go_backwards": True}, {"zero_output_for_mask": True}],
    "mgrade": [{"convolution_on_input": True}, {"normalization": None}],
}


@in_float64
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_float64_is_float64_throughout(name, rng):
    x = rng.normal(size=(2, 12, 4))
    mask = ops.convert_to_tensor(np.arange(12)[None] < [[7], [12]])
    for flags in ({}, *FLAGS.get(name, ())):
        layer = MAKERS[name](dtype="float64", **flags)
        outputs = layer(x, mask=mask)
        assert {kind(t) for t in outputs} == {"float64"}
        twin = type(layer).from_config(layer.get_config())
        assert twin.state_dtype == "float64"


@in_float64
@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"mgrade"}))
def test_float64_chunks_of_a_stateful_layer(name, rng):
    """Not MGrade: Keras's own Dense passes through float32 on PyTorch."""
    x = rng.normal(size=(2, 12, 4))
    layer = MAKERS[name](dtype="float64", stateful=True)
    whole, *_ = layer(x)
    assert {kind(v) for v in layer.states} == {"float64"}
    layer.reset_state()
    chunks = [layer(x[:, a : a + 4])[0] for a in (0, 4, 8)]
    chunks = np.concatenate([ops.convert_to_numpy(c) for c in chunks], axis=1)
    assert_close(chunks, ops.convert_to_numpy(whole), EXACT)


@in_float64
def test_float64_cells_and_streams(rng):
    h = ops.ones((2, 5), dtype="float64")
    y, states = MinGRUCell(5)(ops.ones((2, 3)), [h])
    assert kind(y) == kind(states[0]) == "float64"
    inputs = keras.Input((None, 4), dtype="float64")
    h = DelayConv1D(3, 9, dtype="float64")(inputs)
    h = MinGRU(5, return_sequences=True, dtype="float64")(h)
    model = keras.Model(inputs, TemporalPooling("mean", dtype="float64")(h))
    stream = keras_mgrade.streaming_model(model, batch_size=2)
    x = rng.normal(size=(2, 20, 4))
    step = keras_mgrade.compile_step(stream)
    y, states = step(x, keras_mgrade.initial_states(stream))
    assert {kind(t) for t in (y, *states)} == {"float64"}
    last = ops.convert_to_numpy(y)[:, -1]
    assert_close(last, ops.convert_to_numpy(model(x)), EXACT)


def test_integers_are_cast(rng):
    counts = rng.integers(-4, 4, (2, 10, 4))
    for name in MAKERS:
        layer = MAKERS[name]()
        whole, *_ = layer(counts)
        floats, *_ = layer(counts.astype("float32"))
        assert_close(array(whole), array(floats), SAME_SUMS)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_half_precision_all_through(name, dtype, rng):
    """Not mixed: the kernels of Dense and MinGRU are in half precision too."""
    layer = MAKERS[name](dtype=dtype)
    y, *states = layer(rng.normal(size=(2, 12, 4)).astype(np.float32))
    assert kind(y) == dtype
    assert {kind(state) for state in states} == {"float32"}
    assert np.isfinite(array(y)).all()
    for weight in layer.weights:
        if weight.name == "delays":
            assert kind(weight) == "float32"

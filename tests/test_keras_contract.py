"""The contract of a Keras layer: its own test, arguments, weights, files."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.testing import TestCase

from arguments import ARGUMENTS, parameters
from control import array, data
from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    MinGRUCell,
    TemporalPooling,
)
from tolerances import SAME_SUMS, assert_close

CLASSES = (MinGRUCell, MinGRU, DelayConv1D, MGrade, TemporalPooling)
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


NEGATIVE = keras.initializers.Constant(-1.0)
# What an argument needs beside it to mean anything.
BESIDE = {
    "width": {"interpolation": "gaussian"},
    "train_width": {"interpolation": "gaussian"},
    "normalize_kernel": {"interpolation": "gaussian"},
    "seed": {"dropout": 0.5},
    "zero_output_for_mask": {"return_sequences": True},
    "time_constant": {"mode": "exponential", "time_constant": 2.0},
    "bias_regularizer": {"bias_initializer": NEGATIVE},
    "bias_constraint": {"bias_initializer": NEGATIVE},
    "use_convolution": {"use_convolution": True},
    "use_recurrence": {"use_recurrence": True},
}
LAYER_ARGUMENTS = [
    (cls, name)
    for cls in CLASSES
    for name in parameters(cls)
    # Those say what the layer is.
    if name not in ("units", "kernel_size", "max_delay")
]


def fingerprint(cls, arguments, x):
    """All that a layer does and has, as arrays."""
    keras.utils.set_random_seed(0)
    layer = cls(**arguments)
    mask = ops.convert_to_tensor(np.arange(7)[None] < [[4], [7]])
    seen = []
    for training in (False, True):
        if cls is MinGRUCell:
            y = layer(x[:, 0], [ops.ones((2, 4))], training=training)
        elif cls in (DelayConv1D, TemporalPooling):
            y = layer(x, mask=mask)
        else:
            y = layer(x, mask=mask, training=training)
        seen += [*keras.tree.flatten(y), sum(layer.losses)]
    for weight in layer.weights:
        bound = weight.constraint(weight) if weight.constraint else weight
        seen += [weight, bound, ops.convert_to_tensor(weight.trainable)]
    return [np.asarray(ops.convert_to_numpy(value)) for value in seen]


@pytest.mark.skipif(
    keras.backend.backend() == "jax",
    reason="JAX compiles every operation of every layer: 40 s, same code",
)
@pytest.mark.parametrize(("cls", "name"), LAYER_ARGUMENTS)
def test_no_argument_is_accepted_and_ignored(cls, name, rng):
    x = data(rng, 2, 7)
    signature = parameters(cls)
    base = {
        n: ARGUMENTS[cls][n]
        for n, p in signature.items()
        if p.default is p.empty
    }
    base.update(BESIDE.get(name, {}))
    # The other modes of pooling need no argument beside them.
    value = "mean" if name == "mode" else ARGUMENTS[cls].get(name, False)
    before = fingerprint(cls, base, x)
    after = fingerprint(cls, {**base, name: value}, x)
    assert len(before) != len(after) or any(
        a.shape != b.shape or not np.array_equal(a, b)
        for a, b in zip(before, after, strict=True)
    )


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


@pytest.mark.filterwarnings("ignore")
def test_exported_models(tmp_path, rng):
    """SavedModel from TensorFlow and JAX, PyTorch's own format from PyTorch,
    where Keras fixes batch and length to those of the input."""
    on_torch = keras.backend.backend() == "torch"
    inputs = keras.Input(batch_shape=(1, 9, 3) if on_torch else (None, None, 3))
    model = keras.Model(inputs, MinGRU(4)(MGrade(4, 2, 3)(inputs)))
    x = data(rng, 1)
    wanted = array(model(x))
    if on_torch:
        import torch

        model.export(tmp_path / "model.pt2", format="torch", verbose=False)
        module = torch.export.load(tmp_path / "model.pt2").module()
        y = module(torch.tensor(x)).detach()
    else:
        import tensorflow as tf

        model.export(tmp_path / "saved", verbose=False)
        loaded = tf.saved_model.load(tmp_path / "saved")
        y = loaded.serve(x)
        assert loaded.serve(data(rng, 3, 5)).shape == (3, 4)
    assert_close(np.asarray(y), wanted, SAME_SUMS)


def test_initializers_may_be_arrays_and_have_seed_generators(rng):
    kernel = rng.normal(size=(3, 8)).astype("float32")
    for given in (kernel, ops.convert_to_tensor(kernel)):
        layer = MinGRU(4, kernel_initializer=given)
        layer.build((None, None, 3))
        np.testing.assert_array_equal(array(layer.cell.kernel), kernel)
    delays = np.array([[0, 1, 2], [3, 4, 4]], "float32")
    taps = DelayConv1D(2, 4, delay_initializer=delays)
    taps.build((None, None, 3))
    np.testing.assert_array_equal(taps.delays, delays)
    seed = keras.random.SeedGenerator(1)
    normal = keras.initializers.RandomNormal(seed=seed)
    MinGRU(4, bias_initializer=normal)(np.ones((1, 5, 3)))
    MGrade(4, 2, 3, kernel_initializer=normal)(np.ones((1, 5, 3)))


@pytest.mark.filterwarnings("ignore:.*is not quantized in place")
@pytest.mark.filterwarnings("ignore:.*does not have a .quantize")
def test_what_quantizes_a_model_leaves_our_layers_alone(tmp_path, rng):
    model = keras.Sequential(
        [keras.Input((None, 3)), MGrade(4, 2, 3), MinGRU(4)]
    )
    x = data(rng)
    before = array(model(x))
    model.quantize("int8")
    np.testing.assert_array_equal(array(model(x)), before)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(loaded(x)), before)


def test_a_price_on_delays_counts_once_and_not_when_frozen():
    layer = DelayConv1D(2, 3, delay_regularizer="l1")
    inputs = keras.Input((None, 2))
    model = keras.Model(inputs, layer(layer(inputs)))
    model(np.ones((1, 4, 2), "float32"))
    steps = 0.01 * layer.delays.sum()
    assert float(array(sum(model.losses))) == pytest.approx(steps)
    layer.trainable = False
    assert not model.losses

"""What layers of one shape have in common in a TensorFlow graph, and what not.

The recurrence and the taps are functions of a graph that is traced once and
called by every layer, with whatever length and values it has.
"""

import itertools
import time

import keras
import numpy as np
import pytest

import keras_mgrade
from tolerances import OTHER_BACKEND, SAME_SUMS, THROUGH_LAYERS, assert_close

if keras.backend.backend() != "tensorflow":
    pytest.skip("graphs of TensorFlow", allow_module_level=True)
import tensorflow as tf  # noqa: E402

CHANNELS = 4


def make_model(depth):
    return keras.Sequential(
        [keras.Input((None, CHANNELS))]
        + [keras_mgrade.MGrade(CHANNELS, 3, 5) for _ in range(depth)]
    )


def gradients(model, compiled, **options):
    @tf.function(jit_compile=compiled, **options)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x)
            # Not the sum, which a normalisation keeps at zero.
            loss = tf.reduce_sum(tf.sin(y))
        return y, tape.gradient(loss, [x, *model.trainable_variables])

    return run


def parts_of(run):
    """The functions of a graph, by the name of what was traced."""
    graph = run.get_concrete_function(tf.TensorSpec((2, 40, CHANNELS))).graph
    names = [f.signature.name for f in graph.as_graph_def().library.function]
    kinds = ("block_by_block", "sum_of_taps", "tap_gradients")
    return {kind: sum(kind in name for name in names) for kind in kinds}


def test_layers_share_their_functions():
    # Forwards and in the gradient: the recurrence is run both ways.
    once = {"block_by_block": 2, "sum_of_taps": 1, "tap_gradients": 1}
    for depth in (1, 5):
        assert parts_of(gradients(make_model(depth), compiled=False)) == once


def test_what_does_not_train_has_none():
    """Converters (to LiteRT, to ONNX) know no functions in a graph."""
    assert not any(parts_of(tf.function(make_model(2))).values())


@pytest.mark.parametrize(
    "order, compiled",
    [
        ((None, 7, 40), False),
        ((40, 7, None), True),
        pytest.param((None, 7, 40), True, marks=pytest.mark.slow),
        pytest.param((40, 7, None), False, marks=pytest.mark.slow),
    ],
)
def test_lengths_are_not_mixed_up(order, compiled, rng):
    """A function traced for any length must not stand in for a known one."""
    model = make_model(2)
    eagerly = gradients(model, False).python_function
    runs = {}
    for known in order:
        signature = [tf.TensorSpec((2, known, CHANNELS))]
        runs[known] = gradients(model, compiled, input_signature=signature)
        y, (d_x, *_) = runs[known].get_concrete_function().structured_outputs
        assert y.shape == d_x.shape == (2, known, CHANNELS)
    for known, length in itertools.product(runs, (7, 40)):
        if known not in (None, length):
            continue
        x = rng.normal(size=(2, length, CHANNELS)).astype("float32")
        y, found = runs[known](tf.constant(x))
        expected, wanted = eagerly(tf.constant(x))
        assert_close(y.numpy(), expected.numpy(), OTHER_BACKEND)
        for mine, theirs in zip(found, wanted, strict=True):
            assert_close(np.array(mine), np.array(theirs), THROUGH_LAYERS)


def test_layers_of_a_shape_keep_their_values(rng):
    model = make_model(2)
    first, second = model.layers
    second.set_weights(
        [w + rng.uniform(0, 0.3, w.shape) for w in second.get_weights()]
    )
    assert not np.array_equal(
        first.convolution.delays, second.convolution.delays
    )
    x = rng.normal(size=(2, 40, CHANNELS)).astype("float32")
    y = tf.function(model)(x)
    assert_close(y.numpy(), second(first(x)).numpy(), SAME_SUMS)


def test_taps_that_move_compile_nothing(rng):
    """XLA makes a new program for every value that it takes for constant."""
    model = make_model(1)
    run = gradients(model, compiled=True)
    x = tf.constant(rng.normal(size=(2, 40, CHANNELS)).astype("float32"))

    def seconds():
        start = time.perf_counter()
        run(x)
        return time.perf_counter() - start

    first = seconds()
    layer = model.layers[0].convolution
    moved = []
    for shift in (1, 2, 3):
        layer.set_delays((layer.delays + shift) % layer.max_delay)
        moved.append(seconds())
    # A compilation takes hundreds of times as long as a step.
    assert max(moved) < first / 5


def test_a_graph_can_be_saved_and_loaded(rng, tmp_path):
    model = make_model(2)
    x = rng.normal(size=(2, 40, CHANNELS)).astype("float32")
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(tmp_path / "model")
    assert_close(loaded.serve(x).numpy(), model(x).numpy(), SAME_SUMS)

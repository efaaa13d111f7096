import keras
import numpy as np
import pytest
from keras import ops

import reference
from keras_mgrade.ops import linear_recurrence
from tolerances import SAME_SUMS, assert_close


def coefficients(rng, length, channels=4):
    shape = (3, length, channels)
    a = rng.uniform(0, 1, shape).astype("float32")
    b = rng.normal(size=shape).astype("float32")
    return a, b, rng.normal(size=(3, channels)).astype("float32")


# Around the block lengths of the kernels, and lengths no block divides.
@pytest.mark.parametrize("method", ["auto", "sequential", "parallel"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 31, 32, 33, 64, 129, 1000])
def test_equals_the_loop(rng, length, reverse, method):
    a, b, h = coefficients(rng, length)
    states, last = linear_recurrence(a, b, h, reverse, method)
    expected, expected_last = reference.linear_recurrence(a, b, h, reverse)
    assert_close(ops.convert_to_numpy(states), expected, SAME_SUMS)
    assert_close(ops.convert_to_numpy(last), expected_last, SAME_SUMS)


@pytest.mark.parametrize("method", ["auto", "sequential", "parallel"])
def test_no_row(method):
    for length in (1, 40):
        empty = np.zeros((0, length, 3), "float32")
        states, last = linear_recurrence(empty, empty, method=method)
        assert tuple(states.shape) == empty.shape
        assert tuple(last.shape) == (0, 3)


def test_starts_from_zero(rng):
    a, b, h = coefficients(rng, 5)
    states, _ = linear_recurrence(a, b)
    expected, _ = reference.linear_recurrence(a, b, np.zeros_like(h))
    assert_close(ops.convert_to_numpy(states), expected, SAME_SUMS)


def test_gates_at_their_ends(rng):
    """Gates of exactly 0 and 1 over a long time: nothing overflows."""
    a, b, h = coefficients(rng, 500)
    a[:, :, 0], a[:, :, 1], a[:, :, 2] = 0, 1, 1e-20
    b[:, :, 1] = 0
    states, _ = linear_recurrence(a, b, h)
    expected, _ = reference.linear_recurrence(a, b, h)
    assert_close(ops.convert_to_numpy(states), expected, SAME_SUMS)
    states = ops.convert_to_numpy(states)
    np.testing.assert_array_equal(states[:, :, 0], b[:, :, 0])
    np.testing.assert_array_equal(states[:, -1, 1], h[:, 1])


def test_a_row_keeps_its_nan(rng):
    a, b, h = coefficients(rng, 70)
    clean, _ = linear_recurrence(a, b, h)
    b[1, 40] = np.nan
    dirty, _ = linear_recurrence(a, b, h)
    clean, dirty = ops.convert_to_numpy(clean), ops.convert_to_numpy(dirty)
    np.testing.assert_array_equal(dirty[[0, 2]], clean[[0, 2]])
    np.testing.assert_array_equal(dirty[1, :40], clean[1, :40])
    assert np.isnan(dirty[1, 40:]).all()


def test_more_steps_than_a_block_of_blocks(rng):
    a, b, h = coefficients(rng, 5000, channels=2)
    for reverse in (False, True):
        states, last = linear_recurrence(a, b, h, reverse, "parallel")
        expected, end = reference.linear_recurrence(a, b, h, reverse)
        assert_close(ops.convert_to_numpy(states), expected, SAME_SUMS)
        assert_close(ops.convert_to_numpy(last), end, SAME_SUMS)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="graphs")
def test_graphs_of_unknown_length(rng, compiled):
    """One trace for all lengths; XLA gets the loop, a graph the blocks."""
    import tensorflow as tf

    @tf.function(
        jit_compile=compiled,
        input_signature=[tf.TensorSpec((None, None, 4))] * 2
        + [tf.TensorSpec((None, 4))],
    )
    def run(a, b, h):
        with tf.GradientTape() as tape:
            tape.watch((a, b, h))
            states, _ = linear_recurrence(a, b, h)
        return states, tape.gradient(states, (a, b, h))

    for length in (1, 40, 200):
        inputs = [tf.constant(x) for x in coefficients(rng, length)]
        states, gradients = run(*inputs)
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            expected, _ = linear_recurrence(*inputs, method="sequential")
        assert_close(states.numpy(), expected.numpy(), SAME_SUMS)
        for mine, theirs in zip(
            gradients, tape.gradient(expected, inputs), strict=True
        ):
            assert_close(mine.numpy(), theirs.numpy(), SAME_SUMS)
    assert run.experimental_get_tracing_count() == 1
    graph = run.get_concrete_function().graph
    assert ("TensorListSetItem" in operators(graph)) is compiled


def operators(graph):
    functions = graph.as_graph_def().library.function
    return {node.op for f in functions for node in f.node_def}


def test_refuses_an_unknown_method(rng):
    a, b, _ = coefficients(rng, 5)
    with pytest.raises(ValueError, match="`method`.*Received: method='fast'"):
        linear_recurrence(a, b, method="fast")


def test_refuses_other_shapes(rng):
    a, b, _ = coefficients(rng, 5)
    with pytest.raises(ValueError, match=r"`a` and `b`.*Received: a.shape"):
        linear_recurrence(a, b[:, :4])
    with pytest.raises(ValueError, match=r"`a` and `b`.*Received: a.shape"):
        linear_recurrence(a[0], b[0])

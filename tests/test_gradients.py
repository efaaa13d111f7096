"""Every gradient against central differences, in float64.

JAX has to be told of float64 before its first array, so this file runs in a
process of its own there: `test_in_a_float64_process` starts it.
"""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from budget import slow_except_on
from gradients import (
    autodiff,
    central_differences,
    compile_penalty,
    gradient_penalty,
)
from keras_mgrade import DelayConv1D, MGrade, MinGRU
from keras_mgrade.ops import delay_taps, linear_recurrence
from tolerances import DIFFERENCES, DIFFERENCES_THROUGH_FLOAT32, assert_close

ON_JAX = keras.backend.backend() == "jax"
FLOAT64 = not ON_JAX or os.environ.get("JAX_ENABLE_X64") == "1"
in_float64 = pytest.mark.skipif(
    not FLOAT64, reason="runs in the process that test_in_a_float64_process "
    "starts with JAX_ENABLE_X64=1"
)  # fmt: skip


@pytest.mark.skipif(FLOAT64, reason="this process computes in float64 already")
def test_in_a_float64_process(request):
    precision = pathlib.Path(__file__).with_name("test_mixed_precision.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", __file__, precision]
        + ["-k", "test_gradients or float64"]
        + ["-m", request.config.option.markexpr],
        env={**os.environ, "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    # Skipped is what starts the process, and nothing else.
    assert " passed, 1 skipped" in done.stdout, done.stdout[-5000:]


def check(loss, arrays, step=1e-5, tolerance=DIFFERENCES):
    found = autodiff(loss, arrays)
    truths = central_differences(loss, arrays, step)
    for ours, truth in zip(found, truths, strict=True):
        assert ours.dtype == np.float64
        assert np.abs(truth).max() > 0
        assert_close(ours, truth, tolerance)


def weighted(rng, shape):
    """A random linear read-out, so that no gradient cancels by symmetry."""
    weights = rng.normal(size=shape)
    return lambda y: ops.sum(y * ops.convert_to_tensor(weights))


# 40 steps go through the blocked form of the kernels, 3 through the plain one.
@in_float64
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [3, 40])
@pytest.mark.parametrize("method", ["sequential", "parallel"])
def test_linear_recurrence(rng, length, reverse, method):
    shape = (2, length, 2)
    read_states, read_last = weighted(rng, shape), weighted(rng, (2, 2))

    def loss(a, b, h):
        states, last = linear_recurrence(a, b, h, reverse, method)
        return read_states(ops.square(states)) + read_last(last)

    a = rng.uniform(0.1, 1, shape)
    check(loss, [a, rng.normal(size=shape), rng.normal(size=(2, 2))])


@in_float64
def test_tapped_sum(rng):
    read = weighted(rng, (2, 5, 3))
    delays = ops.convert_to_tensor(rng.integers(0, 5, (3, 3)).astype("int32"))

    def loss(x, weights):
        return read(ops.square(delay_taps.tapped_sum(x, weights, delays, 4)))

    check(loss, [rng.normal(size=(2, 9, 3)), rng.normal(size=(3, 3))])


def check_layer(rng, layer, x, differences=(1e-5, DIFFERENCES), **call):
    """Input, initial states and every trainable weight."""
    if not layer.built:
        layer.build(x.shape)
    states = [
        rng.normal(size=(len(x), *shape)) for _, shape, _ in layer.state_specs
    ]
    variables = layer.trainable_variables
    weights = [ops.convert_to_numpy(v).astype("float64") for v in variables]
    fixed = [v.value for v in layer.non_trainable_variables]
    outputs = layer(x, initial_state=states, **call)
    reads = [weighted(rng, tuple(y.shape)) for y in outputs]

    def loss(x, *rest):
        given, values = rest[: len(states)], rest[len(states) :]
        scope = keras.StatelessScope(
            state_mapping=[
                *zip(variables, values, strict=True),
                *zip(layer.non_trainable_variables, fixed, strict=True),
            ]
        )
        with scope:
            outputs = layer(x, initial_state=list(given), **call)
        return sum(
            read(ops.square(y)) for read, y in zip(reads, outputs, strict=True)
        )

    check(loss, [x, *states, *weights], *differences)


@in_float64
@pytest.mark.parametrize("activation", [None, "softsign"])
def test_min_gru(rng, activation):
    layer = MinGRU(
        2,
        activation=activation,
        return_sequences=True,
        return_state=True,
        dtype="float64",
    )
    check_layer(rng, layer, rng.normal(size=(2, 5, 3)))


@in_float64
def test_min_gru_behind_a_mask(rng):
    layer = MinGRU(2, return_sequences=True, return_state=True, dtype="float64")
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1]], bool)
    check_layer(rng, layer, rng.normal(size=(2, 5, 3)), mask=mask)


@in_float64
@pytest.mark.parametrize(
    "arguments",
    [
        {"interpolation": "linear"},
        {"interpolation": "integer"},
        {"interpolation": "gaussian", "train_width": True},
        {
            "interpolation": "gaussian",
            "train_width": True,
            "normalize_kernel": True,
        },
    ],
    ids=["linear", "integer", "gaussian", "normalized"],
)
def test_delay_conv1d(rng, arguments):
    layer = DelayConv1D(3, 4, return_state=True, dtype="float64", **arguments)
    layer.build((None, None, 2))
    if arguments["interpolation"] != "integer":
        # Away from whole steps and from the ends, where the slope has corners.
        layer.set_delays(rng.integers(0, 4, (3, 2)) + rng.uniform(0.2, 0.8))
    check_layer(rng, layer, rng.normal(size=(2, 6, 2)))


@in_float64
@pytest.mark.parametrize(
    "make",
    [
        lambda: MinGRU(2, return_sequences=True, dtype="float64"),
        lambda: MinGRU(
            2, return_sequences=True, go_backwards=True, dtype="float64"
        ),
        lambda: DelayConv1D(2, 3, dtype="float64"),
        lambda: DelayConv1D(2, 3, "integer", dtype="float64"),
    ],
    ids=["MinGRU", "backwards", "linear", "integer"],
)
def test_gradients_of_gradients(rng, make):
    """Gradient penalties and Hessians go through the kernels twice."""
    layer, x = make(), rng.normal(size=(2, 6, 2))
    layer.build(x.shape)

    def loss(x):
        return ops.sum(ops.square(layer(x)))

    _, slope = gradient_penalty(loss, x)
    # In two directions of all numbers at once.
    for direction in rng.normal(size=(2, *x.shape)) * 1e-5:
        above, below = (
            gradient_penalty(loss, x + sign * direction)[0] for sign in (1, -1)
        )
        truth = (above - below) / 2
        scale = np.sum(np.abs(slope * direction))
        assert abs(truth) > 1e-3 * scale > 0
        assert abs(np.sum(slope * direction) - truth) < DIFFERENCES * scale


@in_float64
@pytest.mark.parametrize(
    "method, compiled",
    [
        ("sequential", False),
        ("parallel", True),
        pytest.param("sequential", True, marks=pytest.mark.slow),
        pytest.param("parallel", False, marks=slow_except_on("torch")),
    ],
)
def test_gradients_of_gradients_over_blocks(rng, method, compiled):
    """More steps than a block has, compiled and not."""
    if keras.backend.backend() == "torch" and compiled:
        pytest.skip("PyTorch runs it as it stands")

    def loss(x):
        states, _ = linear_recurrence(x, ops.square(x), method=method)
        return ops.sum(ops.square(states))

    check_penalty(rng, loss, rng.uniform(0.2, 0.9, (2, 40, 2)), compiled)


@in_float64
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_of_gradients_of_taps(rng, compiled):
    if keras.backend.backend() == "torch" and compiled:
        pytest.skip("PyTorch runs it as it stands")
    weights = rng.normal(size=(3, 2))
    delays = ops.convert_to_tensor(rng.integers(0, 5, (3, 2)).astype("int32"))

    def loss(x):
        y = delay_taps.tapped_sum(x, ops.convert_to_tensor(weights), delays, 4)
        return ops.sum(y * y * y)

    check_penalty(rng, loss, rng.normal(size=(2, 12, 2)), compiled)


def check_penalty(rng, loss, x, compiled):
    """Its gradient along one direction, against differences."""
    penalty = compile_penalty(loss, compiled)
    _, slope = penalty(x)
    direction = rng.normal(size=x.shape)
    step = 1e-5
    values = [penalty(x + s * step * direction)[0] for s in (1, -1)]
    truth = (values[0] - values[1]) / (2 * step)
    assert abs(np.sum(slope * direction) - truth) <= DIFFERENCES * abs(truth)


@in_float64
@pytest.mark.parametrize(
    "normalization",
    [
        pytest.param("layer", marks=pytest.mark.slow),
        pytest.param("batch", marks=slow_except_on("torch")),
        None,
    ],
)
def test_mgrade(rng, normalization):
    layer = MGrade(
        4,
        1,
        3,
        activation="silu",
        normalization=normalization,
        recurrence_dense=True,
        return_state=True,
        dtype="float64",
    )
    layer.build((None, None, 1))
    layer.convolution.set_delays([[0.3, 1.6, 2.2, 0.7]])
    # A longer step: Keras's own Dense and normalisations pass through float32
    # on PyTorch and JAX.
    differences = (2e-3, DIFFERENCES_THROUGH_FLOAT32)
    check_layer(rng, layer, rng.normal(size=(2, 4, 1)), differences)


# At whole steps, at both ends and outside, where differences would straddle a
# corner: the slope is x[t - i - 1] - x[t - i], and outside the range only
# gradients that lead back pass.
@in_float64
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("delay", [-0.2, 0, 3, 3.5, 4, 4.2])
def test_the_slope_in_the_delay(delay, sign):
    span, x = 4, np.arange(8.0) ** 2
    layer = DelayConv1D(
        1,
        span,
        depthwise_initializer="ones",
        use_bias=False,
        dtype="float64",
    )
    layer.build((None, None, 1))
    kernel, delays = layer.trainable_variables
    fixed = ops.convert_to_tensor(np.ones((1, 1)))

    def loss(stored):
        with keras.StatelessScope(
            state_mapping=[(kernel, fixed), (delays, stored)]
        ):
            y = layer(ops.convert_to_tensor(x[None, :, None]))
        return sign * y[0, -1, 0]

    value = sign * float(
        ops.convert_to_numpy(loss(ops.convert_to_tensor([[delay / 4]])))
    )
    read = min(max(delay, 0), span)
    i = min(int(read), span - 1)
    newer, older = x[7 - i], x[7 - i - 1]
    np.testing.assert_allclose(
        value, newer + (read - i) * (older - newer), rtol=1e-12
    )

    (slope,) = autodiff(loss, [np.array([[delay / 4]])])
    expected = sign * 4 * (older - newer)
    outward = (delay < 0 and expected > 0) or (delay > span and expected < 0)
    np.testing.assert_allclose(
        slope, [[0 if outward else expected]], rtol=1e-12
    )

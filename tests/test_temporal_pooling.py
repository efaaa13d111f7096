import keras
import numpy as np
import pytest
from keras import ops

from keras_mgrade import TemporalPooling
from tolerances import SAME_SUMS, assert_close

MODES = [("last", None), ("mean", None), ("exponential", 4.0)]


def expected(x, mode, time_constant):
    """One row, its valid steps only, in float64."""
    x = x.astype("float64")
    if len(x) == 0:
        return np.zeros(x.shape[1])
    if mode == "last":
        return x[-1]
    if mode == "mean":
        return x.mean(axis=0)
    h = np.zeros(x.shape[1])
    for x_t in x:
        h += (1 - np.exp(-1 / time_constant)) * (x_t - h)
    return h


@pytest.mark.parametrize(("mode", "time_constant"), MODES)
@pytest.mark.parametrize("length", [1, 7, 40])
def test_equals_the_reference(rng, mode, time_constant, length):
    x = rng.normal(size=(2, length, 3)).astype("float32")
    y = TemporalPooling(mode, time_constant)(x)
    truth = np.stack([expected(row, mode, time_constant) for row in x])
    assert_close(ops.convert_to_numpy(y), truth, SAME_SUMS)


@pytest.mark.parametrize(("mode", "time_constant"), MODES)
def test_masks_count_valid_steps_only(rng, mode, time_constant):
    x = rng.normal(size=(4, 7, 3)).astype("float32")
    mask = np.array(
        [
            [1, 1, 1, 0, 0, 0, 0],
            [0, 0, 1, 1, 1, 1, 1],
            [0, 1, 0, 1, 1, 0, 0],
            [0] * 7,
        ],
        bool,
    )
    truth = np.stack(
        [
            expected(row[valid], mode, time_constant)
            for row, valid in zip(x, mask, strict=True)
        ]
    )
    x[~mask] = np.nan
    y = TemporalPooling(mode, time_constant)(x, mask=mask)
    assert_close(ops.convert_to_numpy(y), truth, SAME_SUMS)


@pytest.mark.parametrize(("mode", "time_constant"), MODES)
def test_steps_equal_every_prefix(rng, mode, time_constant):
    layer = TemporalPooling(mode, time_constant)
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    layer.build(x.shape)
    states = layer.get_initial_state(2)
    assert [tuple(s.shape[1:]) for s in states] == [
        shape for _, shape, _ in layer.state_specs
    ]
    for t in range(9):
        y_t, states = layer.step(ops.convert_to_tensor(x[:, t]), states)
        assert_close(
            ops.convert_to_numpy(y_t),
            ops.convert_to_numpy(layer(x[:, : t + 1])),
            SAME_SUMS,
        )


def test_time_is_gone_and_so_is_the_mask():
    inputs = keras.Input((None, 3))
    masked = keras.layers.Masking()(inputs)
    pooled = TemporalPooling("mean")(masked)
    assert tuple(pooled.shape) == (None, 3)
    assert getattr(pooled, "_keras_mask", None) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "max"}, "'last', 'mean', 'exponential'.*Received"),
        ({"mode": "exponential"}, "`time_constant`.*time_constant=None"),
        ({"mode": "mean", "time_constant": 3}, "no other mode"),
        ({"mode": "exponential", "time_constant": 0}, "time_constant=0"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        TemporalPooling(**arguments)

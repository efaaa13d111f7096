import keras
import numpy as np
import pytest
from keras import ops

import reference
from keras_mgrade import DelayConv1D
from keras_mgrade.ops import delay_taps
from tolerances import FOURIER, SAME_SUMS, assert_close

SPAN = 6
LENGTH = 11
INTERPOLATIONS = ("linear", "integer", "gaussian")


def layer_and_input(rng, interpolation, length=LENGTH, **arguments):
    """A layer with random weights and delays, an input, a full delay line."""
    layer = DelayConv1D(4, SPAN, interpolation, return_state=True, **arguments)
    x = rng.normal(size=(2, length, 3)).astype("float32")
    layer.build(x.shape)
    delays = rng.uniform(0, SPAN, (4, 3))
    delays[0], delays[1] = 0, SPAN
    if interpolation == "integer":
        delays = np.round(delays)
    layer.set_delays(delays)
    if layer.use_bias:
        layer.bias.assign(rng.normal(size=3))
    line = rng.normal(size=(2, SPAN, 3)).astype("float32")
    return layer, x, line


def expected(layer, x, line=None):
    if line is not None:
        x = np.concatenate([line, x], axis=1)
    kernel = ops.convert_to_numpy(layer.kernel)
    bias = ops.convert_to_numpy(layer.bias) if layer.use_bias else 0.0
    arguments = (x, kernel, layer.delays)
    if layer.interpolation == "gaussian":
        width = np.full(kernel.shape, layer.width)
        y = reference.gaussian_conv1d(
            *arguments, width, bias, SPAN, layer.normalize_kernel
        )
    else:
        y = reference.delay_conv1d(*arguments, bias, SPAN)
    return y if line is None else y[:, SPAN:]


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("length", [1, 3, SPAN, 25])
def test_equals_the_reference(rng, interpolation, length):
    layer, x, line = layer_and_input(rng, interpolation, length)
    y, new_line = layer(x)
    assert_close(ops.convert_to_numpy(y), expected(layer, x), SAME_SUMS)
    y, new_line = layer(x, initial_state=[line])
    assert_close(ops.convert_to_numpy(y), expected(layer, x, line), SAME_SUMS)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(new_line),
        np.concatenate([line, x], axis=1)[:, -SPAN:],
    )


@pytest.mark.parametrize("width", [0.3, 2.0])
def test_normalized_gaussians(rng, width):
    layer, x, _ = layer_and_input(
        rng,
        "gaussian",
        normalize_kernel=True,
        width=width,
        use_bias=False,
        activation="relu",
    )
    truth = np.maximum(expected(layer, x), 0)
    assert_close(ops.convert_to_numpy(layer(x)[0]), truth, SAME_SUMS)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("split", range(1, LENGTH))
def test_two_chunks_equal_the_whole(rng, interpolation, split):
    layer, x, line = layer_and_input(rng, interpolation)
    whole, last = layer(x, initial_state=line)
    first, state = layer(x[:, :split], initial_state=line)
    second, state = layer(x[:, split:], initial_state=state)
    chunks = ops.concatenate([first, second], axis=1)
    assert_close(
        ops.convert_to_numpy(chunks), ops.convert_to_numpy(whole), SAME_SUMS
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(state), ops.convert_to_numpy(last)
    )


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_steps_equal_the_whole(rng, interpolation):
    layer, x, line = layer_and_input(rng, interpolation)
    whole, last = layer(x, initial_state=line)
    states = [ops.convert_to_tensor(line)]
    for t in range(LENGTH):
        y_t, states = layer.step(ops.convert_to_tensor(x[:, t]), states)
        assert_close(
            ops.convert_to_numpy(y_t),
            ops.convert_to_numpy(whole[:, t]),
            SAME_SUMS,
        )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(states[0]), ops.convert_to_numpy(last)
    )
    assert layer.state_specs == [("delay_line", (SPAN, 3), "delay_line")]
    assert layer.get_initial_state(2)[0].shape == (2, SPAN, 3)


def test_delays_in_a_row_are_a_causal_depthwise_convolution(rng):
    """kernel_size=k and delays 0..k-1: Keras's own DepthwiseConv1D."""
    layer = DelayConv1D(
        4, 4, "integer", delay_initializer=lambda shape, dtype: ops.cast(
            ops.broadcast_to(ops.reshape(ops.arange(4), (4, 1)), shape), dtype
        )
    )  # fmt: skip
    x = rng.normal(size=(2, 12, 3)).astype("float32")
    y = ops.convert_to_numpy(layer(x))
    keras_layer = keras.layers.DepthwiseConv1D(4)
    keras_layer.build((2, 15, 3))
    kernel = ops.convert_to_numpy(layer.kernel)[::-1, :, None]
    keras_layer.set_weights([kernel, np.zeros(3)])
    padded = np.pad(x, ((0, 0), (3, 0), (0, 0)))
    assert_close(y, ops.convert_to_numpy(keras_layer(padded)), SAME_SUMS)


@pytest.mark.parametrize("interpolation", ["linear", "integer"])
def test_receptive_field_is_exactly_the_taps(rng, interpolation):
    """What one input moves is what the taps read, bit for bit."""
    layer, x, _ = layer_and_input(rng, interpolation, length=25)
    clean = ops.convert_to_numpy(layer(x)[0])
    at = 8
    x[:, at] += 100
    moved = ops.convert_to_numpy(layer(x)[0]) != clean
    for c in range(3):
        reads = set()
        for delay in layer.delays[:, c]:
            reads.add(at + int(np.floor(delay)))
            reads.add(at + int(np.ceil(delay)))
        assert set(np.flatnonzero(moved[0, :, c])) == reads


def by_fft(layer, length):
    x = np.zeros((1, SPAN + length, 3), "float32")
    return delay_taps.fft_is_faster(x, layer.dense_kernel())


def test_gaussians_do_not_look_ahead(rng):
    """Bit for bit; to the rounding where Fourier transforms are taken."""
    layer, x, _ = layer_and_input(rng, "gaussian", length=25)
    clean = ops.convert_to_numpy(layer(x)[0])
    x[:, 8] += 100
    moved = np.abs(ops.convert_to_numpy(layer(x)[0]) - clean)
    rounding = FOURIER * moved.max() if by_fft(layer, 25) else 0
    assert moved[:, :8].max() <= rounding
    assert moved[:, 8 + SPAN + 1 :].max() <= rounding


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_dense_kernel_is_the_response_to_an_impulse(rng, interpolation):
    layer, _, _ = layer_and_input(rng, interpolation, use_bias=False)
    impulse = np.zeros((1, SPAN + 3, 3), "float32")
    impulse[:, 0] = 1
    response = ops.convert_to_numpy(layer(impulse)[0])[0]
    kernel = ops.convert_to_numpy(layer.dense_kernel())
    assert_close(response[: SPAN + 1], kernel, SAME_SUMS)
    rounding = 0
    if interpolation == "gaussian" and by_fft(layer, SPAN + 3):
        rounding = FOURIER * np.abs(kernel).max()
    assert np.abs(response[SPAN + 1 :]).max() <= rounding


def test_masked_inputs_read_as_zeros_and_time_moves_on(rng):
    layer, x, line = layer_and_input(rng, "linear")
    mask = rng.random((2, LENGTH)) < 0.6
    zeroed = np.where(mask[:, :, None], x, 0)
    x[~mask] = np.nan
    y, new_line = layer(x, initial_state=line, mask=mask)
    assert_close(
        ops.convert_to_numpy(y), expected(layer, zeroed, line), SAME_SUMS
    )
    np.testing.assert_array_equal(
        ops.convert_to_numpy(new_line),
        np.concatenate([line, zeroed], axis=1)[:, -SPAN:],
    )


@pytest.mark.parametrize("trained", ["linear", "gaussian"])
def test_fit_trains_the_delays(rng, trained):
    x = rng.normal(size=(32, 40, 1)).astype("float32")
    y = np.pad(x, ((0, 0), (3, 0), (0, 0)))[:, :40]
    start = keras.initializers.Constant(2.5)
    layer = DelayConv1D(
        1,
        SPAN,
        trained,
        depthwise_initializer="ones",
        delay_initializer=start,
    )
    model = keras.Sequential([keras.Input((None, 1)), layer])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, y, epochs=5, batch_size=4, verbose=0)
    np.testing.assert_allclose(layer.delays, [[3]], atol=0.2)


@pytest.mark.parametrize(("push", "end"), [(10, 0), (-10, SPAN)])
def test_fit_keeps_delays_in_range(rng, push, end):
    layer = DelayConv1D(
        2, SPAN, delay_regularizer=lambda delays: push * ops.sum(delays)
    )
    model = keras.Sequential([keras.Input((None, 1)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = rng.normal(size=(4, 10, 1)).astype("float32")
    model.fit(x, x, epochs=2, verbose=0)
    stored = 4 * ops.convert_to_numpy(layer.trainable_variables[1])
    np.testing.assert_array_equal(stored, np.full((2, 1), end))


def test_integer_delays_stay_untrainable(rng):
    layer, x, _ = layer_and_input(rng, "integer")
    layer.trainable = False
    layer.trainable = True
    assert [w.name for w in layer.trainable_variables] == ["kernel", "bias"]
    assert [w.name for w in layer.non_trainable_variables] == ["delays"]


def test_clipping_outside_the_range(rng):
    """Delays put out of range by a foreign optimiser read at the ends."""
    layer, x, _ = layer_and_input(rng, "linear")
    outside = rng.uniform(-3, SPAN + 3, (4, 3))
    layer._delays.assign(outside / 4)
    y = ops.convert_to_numpy(layer(x)[0])
    layer.set_delays(np.clip(outside, 0, SPAN))
    assert_close(y, ops.convert_to_numpy(layer(x)[0]), SAME_SUMS)
    assert layer.delays.min() >= 0 and layer.delays.max() <= SPAN


def test_whole_delays_come_back_exactly():
    layer = DelayConv1D(101, 100, "integer")
    layer.build((None, None, 1))
    layer.set_delays(np.arange(101)[:, None])
    np.testing.assert_array_equal(layer.delays[:, 0], np.arange(101))


def test_even_delays():
    linear = DelayConv1D(4, 10)
    linear.build((None, None, 2))
    np.testing.assert_array_equal(linear.delays[:, 1], [0, 2.5, 5, 7.5])
    whole = DelayConv1D(4, 10, "integer")
    whole.build((None, None, 2))
    np.testing.assert_array_equal(whole.delays[:, 1], [0, 2, 5, 8])


def test_more_taps_than_positions(rng):
    layer = DelayConv1D(5, 2, "integer")
    x = rng.normal(size=(2, 9, 3)).astype("float32")
    layer.build(x.shape)
    truth = reference.delay_conv1d(
        x, ops.convert_to_numpy(layer.kernel), layer.delays, 0.0, 2
    )
    assert_close(ops.convert_to_numpy(layer(x)), truth, SAME_SUMS)


def test_longest_delays_and_multiply_adds_count_what_is_read():
    layer = DelayConv1D(3, 8, "linear", depthwise_initializer="ones")
    layer.build((None, None, 3))
    layer.set_delays([[0, 1.5, 2], [0, 3, 8], [0, 7, 4]])
    kernel = ops.convert_to_numpy(layer.kernel)
    kernel[2, 1] = 0
    layer.kernel.assign(kernel)
    np.testing.assert_array_equal(layer.longest_delays(), [0, 3, 8])
    assert layer.multiply_adds == 1 + 3 + 3


def test_the_delay_regularizer_sees_clipped_steps():
    seen = []

    def price(delays):
        seen.append(ops.convert_to_numpy(delays))
        return 0.5 * ops.sum(delays)

    layer = DelayConv1D(2, 8, delay_regularizer=price)
    layer.build((None, None, 1))
    layer._delays.assign([[-1.0], [3.0]])
    assert len(layer.losses) == 1
    np.testing.assert_array_equal(seen[-1], [[0], [8]])
    assert float(ops.convert_to_numpy(layer.losses[0])) == 4.0


def test_shapes_are_known_before_the_data():
    inputs = keras.Input((None, 3))
    y, line = DelayConv1D(2, SPAN, return_state=True)(inputs)
    assert tuple(y.shape) == (None, None, 3)
    assert tuple(line.shape) == (None, SPAN, 3)


def test_narrow_normalized_gaussians_are_finite(rng):
    layer = DelayConv1D(
        1, 4, "gaussian", width=0.1, normalize_kernel=True, use_bias=False
    )
    layer.build((None, None, 1))
    layer.set_delays([[1.5]])
    layer.kernel.assign([[2.0]])
    kernel = ops.convert_to_numpy(layer.dense_kernel())[:, 0]
    np.testing.assert_allclose(kernel, [0, 1, 1, 0, 0], atol=1e-6)


def test_an_unbuilt_layer_says_so_and_can_be_saved(tmp_path):
    layer = DelayConv1D(2, 4)
    with pytest.raises(ValueError, match="before it is built"):
        _ = layer.delays
    with pytest.warns(UserWarning, match="has not yet been built"):
        keras.Sequential([layer]).save(tmp_path / "unbuilt.keras")


def test_a_file_of_another_kind_is_refused(rng, tmp_path):
    layer, x, _ = layer_and_input(rng, "gaussian")
    keras.Sequential([keras.Input((None, 3)), layer]).save_weights(
        tmp_path / "gaussian.weights.h5"
    )
    linear = keras.Sequential(
        [keras.Input((None, 3)), DelayConv1D(4, SPAN, return_state=True)]
    )
    with pytest.raises(ValueError, match="has weights.*must hold just these"):
        linear.load_weights(tmp_path / "gaussian.weights.h5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_size": 0}, "`kernel_size`.*Received: kernel_size=0"),
        ({"max_delay": 0}, "`max_delay`.*Received: max_delay=0"),
        ({"max_delay": 2.5}, "`max_delay`.*Received: max_delay=2.5"),
        ({"interpolation": "cubic"}, "'linear', 'integer', 'gaussian'"),
        ({"train_width": True}, "belong to interpolation='gaussian'"),
        (
            {"interpolation": "gaussian", "width": 0},
            "`width`.*at least 0.1. Received: width=0",
        ),
        ({"width": 2.0}, "belong to interpolation='gaussian'"),
        (
            {"interpolation": "integer", "delay_regularizer": "l2"},
            "`delay_regularizer`.*have none",
        ),
        ({"kernel_size": "four"}, "`kernel_size`.*Received.*'four'"),
        ({"go_backwards": True}, "looks back in time.*go_backwards=True"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        DelayConv1D(**{"kernel_size": 2, "max_delay": 4, **arguments})


def test_bad_delays_and_states_are_refused(rng):
    layer, x, line = layer_and_input(rng, "integer")
    for steps in (np.full((4, 3), SPAN + 1), np.full((4, 3), -1.0)):
        with pytest.raises(ValueError, match="whole steps from 0 to 6"):
            layer.set_delays(steps)
    with pytest.raises(ValueError, match="whole steps from 0 to 6"):
        layer.set_delays(np.full((4, 3), 1.5))
    with pytest.raises(ValueError, match=r"shape \(4, 3\)"):
        layer.set_delays(np.zeros(3))
    with pytest.raises(ValueError, match=r"`initial_state`.*\(2, 6, 3\)"):
        layer(x, initial_state=line[:, :-1])
    with pytest.raises(ValueError, match="axis -1"):
        layer(x[:, :, :2])

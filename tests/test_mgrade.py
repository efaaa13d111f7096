import keras
import numpy as np
import pytest
from keras import ops

import reference
from keras_mgrade import MGrade
from tolerances import SAME_SUMS, assert_close

SPAN = 5
LENGTH = 9

VARIANTS = {
    "default": {},
    "batch": {"normalization": "batch"},
    "no normalisation": {"normalization": None},
    "integer": {"interpolation": "integer"},
    "gaussian": {"interpolation": "gaussian"},
    "no convolution": {"use_convolution": False},
    "no recurrence": {"use_recurrence": False},
    "on input": {"convolution_on_input": True},
    "on input, batch": {
        "convolution_on_input": True,
        "normalization": "batch",
    },
    "every bracket": {
        "convolution_norm": True,
        "recurrence_norm": True,
        "recurrence_dense": True,
        "dropout": 0.3,
        "output_activation": "relu",
        "candidate_activation": "tanh",
        "recurrent_activation": "hard_sigmoid",
    },
    "every bracket, batch": {
        "normalization": "batch",
        "recurrence_norm": True,
        "recurrence_dense": True,
    },
}


def layer_and_input(rng, channels=3, **arguments):
    """A layer whose statistics and scales are not those of the start."""
    layer = MGrade(4, 3, SPAN, return_state=True, **arguments)
    x = rng.normal(size=(2, LENGTH, channels)).astype("float32")
    layer.build(x.shape)
    for weight in layer.weights:
        if weight.name in ("gamma", "moving_variance"):
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        elif weight.name in ("beta", "moving_mean", "bias"):
            weight.assign(rng.normal(size=weight.shape))
    states = [
        rng.normal(size=(2, *shape)).astype("float32")
        for _, shape, _ in layer.state_specs
    ]
    return layer, x, states


def numbers(layer):
    return {
        f"{part.name}.{weight.name}": ops.convert_to_numpy(weight)
        for part in layer._flatten_layers(include_self=False)
        for weight in part.weights
    }


def test_equals_the_paper_s_equations(rng):
    layer, x, _ = layer_and_input(rng)
    w = numbers(layer)

    def norm(x, name):
        epsilon = layer.mlp_normalization.epsilon
        return reference.layer_norm(
            x, w[f"{name}.gamma"], w[f"{name}.beta"], epsilon
        )

    def dense(x, name):
        return x @ w[f"{name}.kernel"] + w[f"{name}.bias"]

    h = dense(x.astype("float64"), "encoder")
    h = h + reference.delay_conv1d(
        h, w["convolution.kernel"], layer.convolution.delays, 0.0, SPAN
    )
    h = h + reference.min_gru(
        h, w["min_gru_cell.kernel"], w["min_gru_cell.bias"], np.zeros((2, 4))
    )
    hidden = dense(norm(h, "mlp_normalization"), "mlp_expansion")
    h = h + dense(np.maximum(hidden, 0), "mlp_projection")
    truth = norm(h, "output_normalization")
    assert_close(ops.convert_to_numpy(layer(x)[0]), truth, SAME_SUMS)


def test_convolution_on_input_comes_before_the_encoder(rng):
    layer, x, _ = layer_and_input(rng, convolution_on_input=True)
    plain, _, _ = layer_and_input(rng, use_convolution=False)
    for ours, theirs in (
        (layer.encoder, plain.encoder),
        (layer.recurrence, plain.recurrence),
        (layer.mlp_normalization, plain.mlp_normalization),
        (layer.mlp_expansion, plain.mlp_expansion),
        (layer.mlp_projection, plain.mlp_projection),
        (layer.output_normalization, plain.output_normalization),
    ):
        theirs.set_weights(ours.get_weights())
    kernel = ops.convert_to_numpy(layer.convolution.kernel)
    assert kernel.shape == (3, 3)
    read = reference.delay_conv1d(
        x, kernel, layer.convolution.delays, 0.0, SPAN
    )
    assert_close(
        ops.convert_to_numpy(layer(x)[0]),
        ops.convert_to_numpy(plain((x + read).astype("float32"))[0]),
        SAME_SUMS,
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_and_steps_equal_the_whole(rng, variant):
    layer, x, start = layer_and_input(rng, **VARIANTS[variant])
    whole, *last = layer(x, initial_state=start)
    assert tuple(whole.shape) == (2, LENGTH, 4)

    first, *states = layer(x[:, :4], initial_state=start)
    second, *states = layer(x[:, 4:], initial_state=states)
    chunks = ops.concatenate([first, second], axis=1)
    assert_close(
        ops.convert_to_numpy(chunks), ops.convert_to_numpy(whole), SAME_SUMS
    )
    for ours, theirs in zip(states, last, strict=True):
        assert_close(
            ops.convert_to_numpy(ours), ops.convert_to_numpy(theirs), SAME_SUMS
        )

    states = [ops.convert_to_tensor(state) for state in start]
    for t in range(LENGTH):
        y_t, states = layer.step(ops.convert_to_tensor(x[:, t]), states)
        assert_close(
            ops.convert_to_numpy(y_t),
            ops.convert_to_numpy(whole[:, t]),
            SAME_SUMS,
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_symbolic_shapes_equal_actual_ones(rng, variant):
    layer, x, states = layer_and_input(rng, **VARIANTS[variant])
    symbolic = layer(keras.Input((None, 3)))
    actual = layer(x)
    for spec, tensor in zip(symbolic, actual, strict=True):
        assert len(spec.shape) == len(tensor.shape)
        assert all(
            s in (None, n)
            for s, n in zip(spec.shape, tensor.shape, strict=True)
        )
    assert [s.shape for s in layer.get_initial_state(2)] == [
        s.shape for s in states
    ]


def test_no_encoder_where_the_widths_agree(rng):
    layer, _, _ = layer_and_input(rng, channels=4)
    assert layer.encoder is None


def test_published_widths_of_the_parts(rng):
    """L 6, H 32, K 8 of the paper has 41,290 - 768 parameters at K 4 (std
    apart); six layers, an encoder from 1 channel, a decoder to 10 classes."""
    layer = MGrade(32, 4, 64)
    layer.build((None, None, 32))
    assert 6 * layer.count_params() + 2 * 32 + 32 * 10 + 10 == 41290 - 768


def test_batch_normalisation_sees_the_mask(rng):
    layer, x, _ = layer_and_input(rng, normalization="batch")
    mask = np.arange(LENGTH) < np.array([[4], [LENGTH]])
    layer(x, mask=mask, training=True)
    first = numbers(layer)["convolution_normalization.moving_mean"]
    layer, y, _ = layer_and_input(
        np.random.default_rng(7), normalization="batch"
    )
    before = numbers(layer)["convolution_normalization.moving_mean"]
    layer(y, training=True)
    unmasked = numbers(layer)["convolution_normalization.moving_mean"]
    assert np.abs(first - unmasked).max() > 1e-6
    assert np.abs(before - unmasked).max() > 1e-6


def test_masked_rows_end_in_the_state_of_their_last_valid_step(rng):
    layer, x, _ = layer_and_input(rng, use_convolution=False)
    mask = np.arange(LENGTH) < np.array([[4], [LENGTH]])
    _, state = layer(x, mask=mask)
    _, alone = layer(x[:1, :4])
    assert_close(
        ops.convert_to_numpy(state[:1]),
        ops.convert_to_numpy(alone),
        SAME_SUMS,
    )


def test_parts_of_one_shape_start_from_different_weights(rng):
    layer, _, _ = layer_and_input(rng, channels=4)
    w = numbers(layer)
    one, other = w["min_gru_cell.kernel"], w["mlp_expansion.kernel"]
    assert one.shape == other.shape
    assert np.abs(one - other).max() > 0.1


def test_seeded_parts_start_from_different_weights_too(rng):
    initializer = keras.initializers.GlorotUniform(seed=3)
    layer, _, _ = layer_and_input(
        rng, channels=4, kernel_initializer=initializer
    )
    w = numbers(layer)
    one, other = w["min_gru_cell.kernel"], w["mlp_expansion.kernel"]
    assert np.abs(one - other).max() > 0.1


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_a_frozen_layer_stays_as_it_is(rng, tmp_path, normalization):
    """Frozen by the constructor, before or after build, through a file."""

    def model_of(layer):
        return keras.Sequential([keras.Input((None, 3)), layer])

    born = model_of(MGrade(4, 3, SPAN, normalization=normalization))
    born.layers[0].trainable = False
    early = MGrade(4, 3, SPAN, normalization=normalization)
    early.trainable = False
    given = MGrade(4, 3, SPAN, normalization=normalization, trainable=False)
    born.save(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras")
    models = [born, model_of(early), model_of(given), loaded]
    models.append(keras.models.clone_model(born))
    x = rng.normal(size=(4, LENGTH, 3)).astype("float32")
    for model in models:
        assert not model.trainable_variables
    before = loaded.get_weights()
    loaded(x, training=True)
    for old, new in zip(before, loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nan_behind_a_mask_reaches_no_gradient(rng):
    x = rng.normal(size=(2, LENGTH, 3)).astype("float32")
    mask = np.arange(LENGTH) < np.array([[4], [6]])
    x[~mask] = np.nan
    inputs, given = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
    outputs = MGrade(4, 3, SPAN)(inputs, mask=given)
    model = keras.Model([inputs, given], outputs)
    model.compile("sgd", "mse")
    target = np.zeros((2, LENGTH, 4), "float32")
    weights = mask.astype("float32")
    model.fit([x, mask], target, sample_weight=weights, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_learns(rng):
    """An echo of seven steps ago, which only the delays can hold exactly."""
    x = rng.normal(size=(64, 40, 1)).astype("float32")
    y = np.pad(x, ((0, 0), (4, 0), (0, 0)))[:, :40]
    model = keras.Sequential(
        [
            keras.Input((None, 1)),
            MGrade(8, 4, 8, normalization=None),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    loss = model.fit(x, y, epochs=12, batch_size=8, verbose=0).history["loss"]
    assert loss[-1] < 0.1 * loss[0]


def test_lengths_may_vary_within_one_fit(rng):
    """Also shorter than the delay line, and a single step."""
    model = keras.Sequential(
        [keras.Input((None, 3)), MGrade(4, 3, SPAN), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")

    def batches():
        for length in (LENGTH, 40, 1):
            x = rng.normal(size=(2, length, 3)).astype("float32")
            yield x, x[:, :, :1]

    history = model.fit(batches(), steps_per_epoch=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units`.*Received: units=0"),
        ({"kernel_size": 0}, "`kernel_size`"),
        ({"max_delay": 0}, "`max_delay`"),
        ({"expansion": 0}, "`expansion`"),
        ({"normalization": "group"}, "'layer', 'batch', None"),
        (
            {"use_convolution": False, "convolution_on_input": True},
            "`convolution_on_input` needs `use_convolution`",
        ),
        (
            {"normalization": None, "recurrence_norm": True},
            "`recurrence_norm` needs `normalization`",
        ),
        (
            {"normalization": "batch", "recurrence_norm": True},
            "`recurrence_norm` needs `recurrence_dense`",
        ),
        (
            {"use_convolution": False, "use_recurrence": False},
            "its convolution, its recurrence or both",
        ),
        ({"go_backwards": True}, "looks back in time.*go_backwards=True"),
    ],
)
def test_bad_arguments_say_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        MGrade(**{"units": 4, "kernel_size": 2, "max_delay": 4, **arguments})


def test_a_wrong_number_of_states_is_refused(rng):
    layer, x, states = layer_and_input(rng)
    with pytest.raises(ValueError, match=r"2 states.*initial_state\)=1"):
        layer(x, initial_state=states[:1])

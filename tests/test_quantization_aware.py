"""Models that round in training as their file does on the device."""

import keras
import numpy as np
import pytest

import keras_mgrade
import tolerances
from budget import slow_except_on
from keras_mgrade import export
from keras_mgrade.compression import Pruning, quantization_aware
from keras_mgrade.compression.products import Taps
from keras_mgrade.export import flatbuffer as fb
from test_export import RUNNERS, once, pytestmark  # noqa: F401

# Of the rms of the answers, file beside model: where a value lies half way
# between two integers, they may take one each; that is a step of 1/256 of a
# range in a few places, over some ten operators.
FILE = {"mixed": 0.02, "int16x8": 0.005, "int8": 0.25}


def make_model(**words):
    words = {"normalization": "batch", "interpolation": "linear", **words}
    model = keras.Sequential(
        [
            keras.Input((None, 6)),
            keras_mgrade.MGrade(8, 4, 16, **words),
            keras_mgrade.MinGRU(8, return_sequences=True),
            keras.layers.Dense(5),
        ]
    )
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if "moving_variance" in weight.path:
            weight.assign(rng.uniform(0.5, 2, weight.shape))
        if weight.path.endswith("bias"):
            weight.assign(weight + rng.normal(scale=0.1, size=weight.shape))
    return model


def sequences():
    rng = np.random.default_rng(4)
    return rng.normal(size=(4, 120, 6)).astype("float32")


def plain(model):
    """The same model without any rounding."""
    layer = model.layers[-1]
    for point in layer.points:
        point.call = lambda x, training=None: x
    for product in layer.products.values():
        product.rounding = None
    y = keras.ops.convert_to_numpy(layer(sequences()))
    for point in layer.points:
        del point.call
    return y


@pytest.fixture(scope="module")
def pair():
    keras.utils.set_random_seed(1)
    model = make_model()
    return model, quantization_aware(model, sequences())


def rms(values):
    return np.sqrt(np.mean(np.square(values)))


def deviation(model, path, runner, x):
    """How far a file lies from a model, of the rms of its answers."""
    runner = runner(path)
    answers = []
    for sequence in x:
        runner.reset()
        answers.append(runner.run(sequence))
    wanted = model.predict(x, verbose=0)
    return rms(np.array(answers) - wanted) / rms(wanted), wanted, answers


def test_without_rounding_it_is_the_model(pair):
    model, _ = pair
    config = pair[1].layers[-1].get_config()
    again = type(pair[1].layers[-1]).from_config(config)
    inputs = keras.Input((None, 6))
    twin = keras.Model(inputs, again(inputs))
    wanted = model.predict(sequences(), verbose=0)
    np.testing.assert_allclose(
        plain(twin),
        wanted,
        rtol=0,
        atol=tolerances.SAME_SUMS * np.abs(wanted).max(),
    )


def test_training_moves_weights_and_ranges_and_zeros_stay(pair):
    _, model = pair
    layer = model.layers[-1]
    kernel = next(iter(layer.products.values())).kernel
    kernel.assign(kernel * (np.arange(kernel.shape[1]) % 2))
    zeros = keras.ops.convert_to_numpy(kernel) == 0
    ranges = [float(p.maximum) for p in layer.points]
    x = sequences()
    y = np.cumsum(x[..., :5], axis=1) * 0.1
    model.compile(keras.optimizers.Adam(0.01), "mse")
    losses = model.fit(
        x, y, epochs=20, verbose=0, callbacks=[Pruning()]
    ).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    after = keras.ops.convert_to_numpy(kernel)
    assert np.all(after[zeros] == 0) and np.any(after)
    moved = [float(p.maximum) for p in layer.points] != np.array(ranges)
    fixed = layer.program.fixed
    assert not any(moved[i] for i in fixed) and any(moved)


def test_matrices_are_pruned_and_taps_stay(pair):
    _, model = pair
    before = model.get_weights()
    model.compile("sgd", "mse")
    x = sequences()
    y = np.zeros((*x.shape[:2], 5))
    model.fit(x, y, verbose=0, callbacks=[Pruning(0.5)])
    kinds = set()
    for product in model.layers[-1].products.values():
        zeros = np.mean(keras.ops.convert_to_numpy(product.kernel) == 0)
        taps = isinstance(product, Taps)
        assert zeros == pytest.approx(0 if taps else 0.5, abs=0.05)
        kinds.add(taps)
    assert kinds == {False, True}
    model.set_weights(before)


def test_it_comes_back_from_its_file(pair, tmp_path):
    _, model = pair
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        again.predict(sequences(), verbose=0),
        model.predict(sequences(), verbose=0),
    )


def test_as_a_stream_it_gives_the_same(pair):
    """In mixed files states are float, and nothing depends on the chunk."""
    _, model = pair
    stream = keras_mgrade.streaming_model(model)
    step = keras_mgrade.compile_step(stream)
    states = keras_mgrade.initial_states(stream)
    x = sequences()[:1, :40]
    answers = []
    for t in range(x.shape[1]):
        y, states = step(x[:, t], states)
        answers.append(keras.ops.convert_to_numpy(y)[0])
    wanted = model.predict(x, verbose=0)[0]
    scale = model.layers[-1].points[-1]
    # A value between two integers may go to either.
    off = np.abs(np.array(answers) - wanted)
    width = float(scale.maximum) - float(scale.minimum)
    assert np.quantile(off, 0.99) < 1e-3 * width


def steps_apart(result, wanted, answers):
    """In the 256 steps that eight bits make of the answers' range."""
    scale = next(t for t in result.outputs if t.name == "output").scale
    return np.abs(np.array(answers) - wanted) / (256 * scale)


@once
@pytest.mark.parametrize("bits", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_it_rounds_where_the_file_does(bits, tmp_path):
    """In LiteRT: TFLite Micro rounds each product twice."""
    # With a constant of eight bits besides kernels and biases.
    model = make_model(convolution_on_input=True)
    words = {"per_axis": True, "symmetric": True, "narrow_range": True}
    weights = {"kind": "LastValueQuantizer", "num_bits": bits, **words}
    made = quantization_aware(model, sequences(), weight_quantizer=weights)
    result = export.to_tflite(made, tmp_path / "m.tflite", proof_steps=100)
    _, *found = deviation(made, result.path, export.LiteRTRunner, sequences())
    # A value half way between two integers may go to either, and stays in
    # the state for a while.
    assert np.mean(steps_apart(result, *found) <= 0.05) >= 0.97


@slow_except_on("torch")
def test_the_converted_file_needs_no_calibration(pair, tmp_path):
    _, model = pair
    result = export.to_tflite(model, tmp_path / "m.tflite", proof_steps=300)
    x = sequences()
    for runner in RUNNERS:
        off, wanted, answers = deviation(model, result.path, runner, x)
        assert off < FILE["mixed"]
        assert np.mean(steps_apart(result, wanted, answers) <= 3) >= 0.999
    with pytest.raises(ValueError, match="quantisation-aware with.*int8"):
        export.to_tflite(model, tmp_path / "n.tflite", "int8")


@once
@pytest.mark.parametrize(
    "precision, words, options",
    [
        pytest.param(
            "int16x8",
            {"normalization": "layer"},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "int8",
            {"recurrent_activation": "hard_sigmoid"},
            {},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "mixed", {}, {"state_dtype": "int16"}, marks=pytest.mark.slow
        ),
        pytest.param(
            "mixed",
            {"interpolation": "integer"},
            {"delay_line": "application"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_files(precision, words, options, tmp_path):
    model = quantization_aware(
        make_model(**words), sequences(), precision, **options
    )
    x = sequences()
    y = np.cumsum(x[..., :5], axis=1) * 0.1
    model.compile(keras.optimizers.Adam(0.003), "mse")
    model.fit(x, y, epochs=5, verbose=0)
    result = export.to_tflite(
        model, tmp_path / "m.tflite", precision, proof_steps=300, **options
    )
    for runner in RUNNERS:
        off = deviation(model, result.path, runner, x)[0]
        assert off < FILE[precision]
    # Step by step the model rounds its states, as the file does.
    bound = {"int8": 0.15}.get(precision, FILE[precision])
    assert all(found.rms < bound for found in result.deviations[:2])


@once
def test_convolutions_and_several_inputs_and_outputs(tmp_path, rng):
    inputs = [keras.Input((None, 5), name="a"), keras.Input((None, 2))]
    x = keras.layers.Concatenate()(inputs)
    for dilation in (1, 2):
        x = keras.layers.Conv1D(
            6, 3, padding="causal", dilation_rate=dilation, activation="relu"
        )(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    # One kernel in two operators, and two lines of one tensor.
    shared = keras.layers.Dense(6, bias_initializer="ones")
    x = shared(shared(x))
    x = keras_mgrade.DelayConv1D(3, 6)(x) + keras_mgrade.DelayConv1D(2, 9)(x)
    x = keras_mgrade.MinGRU(5, return_sequences=True)(x)
    last = keras_mgrade.TemporalPooling("last")(x)
    each = keras.layers.Dense(3)(x)
    answers = {"whole": keras.layers.Dense(2)(last), "each": each}
    model = keras.Model(inputs, answers)
    data = [rng.normal(size=(6, 80, n)).astype("float32") for n in (5, 2)]
    made = quantization_aware(model, list(zip(*data, strict=True)))
    layer = made.get_layer("quantized")
    assert len(layer.uses) == len(layer.products) + 1
    assert len(layer.lines) == 4
    found, wanted = (m.predict(data, verbose=0) for m in (made, model))
    for name in answers:
        apart = np.std(found[name] - wanted[name])
        assert apart < 0.05 * np.std(wanted[name])
    # Losses by name, as those of the model are given.
    made.compile("adam", {"whole": "mse", "each": "mae"})
    zeros = {"whole": np.zeros((6, 2)), "each": np.zeros((6, 80, 3))}
    made.fit(data, zeros, verbose=0)
    made.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.evaluate(data, zeros, verbose=0) == pytest.approx(
        made.evaluate(data, zeros, verbose=0)
    )
    result = export.to_tflite(made, tmp_path / "m.tflite", proof_steps=200)
    assert [t.name for t in result.outputs[:2]] == ["output_0", "output_1"]
    for found in result.deviations[:2]:
        assert not found.steps or found.rms < FILE["mixed"]


@once
def test_what_cannot_train_is_named():
    gru = keras.Sequential([keras.Input((None, 6)), keras.layers.GRU(4)])
    with pytest.raises(ValueError, match="Take a MinGRU .* Received"):
        quantization_aware(gru, sequences())
    inputs = [keras.Input((None, 3)), keras.Input((2,), name="still")]
    y = keras_mgrade.MinGRU(4)(inputs[0])
    model = keras.Model(inputs, keras.layers.Concatenate()([y, inputs[1]]))
    with pytest.raises(ValueError, match="without time .*'still': .None, 2"):
        quantization_aware(model, None)
    words = keras.layers.Embedding(9, 4, name="words")
    model = keras.Sequential([keras.Input((None,)), words])
    with pytest.raises(ValueError, match="Embedding.* Received: layer='words"):
        quantization_aware(model, None)


@once
def test_one_that_rounds_already_is_named(pair, tmp_path):
    _, model = pair
    with pytest.raises(ValueError, match="aware already.* Received: model="):
        quantization_aware(model, sequences())
    outer = keras.Sequential([keras.Input((None, 6)), model])
    with pytest.raises(ValueError, match="aware already"):
        quantization_aware(outer, sequences())
    outer.add(keras.layers.ReLU())
    with pytest.raises(ValueError, match="stand alone"):
        export.to_tflite(outer, tmp_path / "m.tflite")


@once
def test_a_model_whose_file_is_poor_can_be_trained():
    """`to_tflite` would refuse it for what it deviates."""
    model = make_model()
    for weight in model.weights:
        if weight.path.endswith("kernel"):
            weight.assign(weight * 8.0)
    made = quantization_aware(model, sequences())
    answers = made.predict(sequences(), verbose=0)
    wanted = model.predict(sequences(), verbose=0)
    assert rms(answers - wanted) > 0.25 * rms(wanted)


def test_wrong_quantizers_are_refused():
    def words(**others):
        return {"kind": "LastValueQuantizer", **others}

    for name, wrong in (
        ("weight_quantizer", words()),
        (
            "weight_quantizer",
            words(num_bits=16, symmetric=True, narrow_range=True),
        ),
        ("activation_quantizer", words(num_bits=4)),
        ("activation_quantizer", words(symmetric=True)),
        ("weight_quantizer", {}),
        ("activation_quantizer", False),
        ("activation_quantizer", words(num_bits=7.5)),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must .* Received"):
            quantization_aware(None, None, **{name: wrong})


def test_batches_of_zeros_leave_the_ranges_of_the_file(pair):
    _, model = pair
    layer = model.layers[-1]
    before = model.get_weights()
    for point in layer.points:
        point.minimum.assign(0.0)
        point.maximum.assign(0.0)
    found = fb.load(layer.tflite_bytes()).subgraphs[0].tensors
    for tensor, known in zip(found, layer.program.tensors, strict=True):
        if known.point is not None:
            np.testing.assert_allclose(
                tensor.quantization.scale, known.scale, rtol=1e-6
            )
    model.set_weights(before)

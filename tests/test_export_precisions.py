"""The precisions of a file, and where its states are."""

import keras
import numpy as np
import pytest

import keras_mgrade
import test_export as exports
from keras_mgrade import export
from keras_mgrade.export import (
    calibration,
    describe,
    flatbuffer,
    operators,
    prove,
)
from keras_mgrade.export.options import Options
from test_export import RUNNERS, keras_stream, once, sequences

pytestmark = [exports.pytestmark, once]

PRECISIONS = ["float32", "mixed", "int8", "int16x8"]
# Of the output's rms, over a stream of the test: what eight and sixteen bits
# cost a small model with random weights. A wrong scale costs 20 % and more.
RMS = {"float32": 1e-5, "mixed": 0.05, "int8": 0.15, "int16x8": 0.03}
STEPS = 600


def to_tflite(model, folder, precision=PRECISIONS, **options):
    options = {"calibration": sequences(), "proof_steps": STEPS, **options}
    path = folder / "m_{precision}.tflite"
    return export.to_tflite(model, path, precision, **options)


def types(result):
    """Element types that the operators of a file write."""
    model = flatbuffer.load(result.path.read_bytes())
    tensors = model.subgraphs[0].tensors
    return {
        flatbuffer.dtype_name(tensors[i])
        for op in model.subgraphs[0].operators
        for i in flatbuffer.outputs_of(op)
    }


def deviation(result, wanted, runner):
    """Of the outputs over the test's stream, in shares of the rms."""
    outputs = runner(result.path).run(sequences(1, 300)[0])
    error = np.sqrt(np.mean(np.square(outputs - wanted)))
    return error / np.sqrt(np.mean(np.square(wanted)))


@pytest.fixture(scope="module")
def model():
    return exports.make_model(interpolation="integer", normalization="batch")


@pytest.fixture(scope="module")
def wanted(model):
    return keras_stream(model, sequences(1, 300)[0])[0]


@pytest.fixture(scope="module")
def explicit(model, tmp_path_factory):
    return to_tflite(model, tmp_path_factory.mktemp("explicit"))


@pytest.fixture(scope="module")
def internal(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("internal")
    return to_tflite(model, folder, state_io="internal")


@pytest.fixture(scope="module")
def application(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("application")
    return to_tflite(model, folder, delay_line="application")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_gives_the_stream(explicit, wanted, precision, runner):
    error = deviation(explicit[precision], wanted, runner)
    assert error < RMS[precision]
    assert precision == "float32" or error > 1e-4


def test_types_of_each_precision(explicit):
    found = {name: types(result) for name, result in explicit.items()}
    assert found["float32"] == {"float32"}
    # The answer, a product of what the recurrence gives, has 16 bits.
    assert found["mixed"] == {"float32", "int8", "int16"}
    assert found["int8"] == {"int8"}
    assert found["int16x8"] == {"int16"}
    for result in explicit.values():
        file = flatbuffer.load(result.path.read_bytes())
        assert operators.unsupported_operators(file) == []


def test_dense_weights_of_int16x8_have_one_scale(explicit):
    """The kernels for Cortex-M refuse one scale a row."""
    model = flatbuffer.load(explicit["int16x8"].path.read_bytes())
    tensors = model.subgraphs[0].tensors
    scales = [
        len(tensors[flatbuffer.inputs_of(op)[1]].quantization.scale)
        for op in model.subgraphs[0].operators
        if flatbuffer.operator_name(model, op) == "FULLY_CONNECTED"
    ]
    assert len(scales) > 5 and set(scales) == {1}


def test_sixteen_bits_for_states_only(model, wanted, tmp_path):
    result = to_tflite(model, tmp_path, ["mixed"], state_dtype="int16")["mixed"]
    assert types(result) == {"int8", "int16"}
    kinds = {t.name: t.dtype for t in result.inputs}
    assert [kinds[s.name] for s in result.states] == ["int8", "int16", "int16"]
    for runner in RUNNERS:
        assert deviation(result, wanted, runner) < RMS["mixed"]


def test_proof_is_in_the_result(explicit):
    for precision, result in explicit.items():
        runtimes = [d.runtime for d in result.deviations]
        assert runtimes[0] == "LiteRT"
        for found in result.deviations:
            if found.steps:
                assert found.steps == STEPS
                assert found.last_rms < 3 * found.first_rms + 1e-6
        assert sum(result.content.values()) == result.bytes
        assert result.step_us > 0
        recurrent = {state.name for state in result.states[1:]}
        assert set(result.gates) == recurrent
        assert "us a step" in str(result), precision


def test_slow_gates_warn_in_int8(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((None, 5)), keras_mgrade.MinGRU(4, name="slow")]
    )
    bias = np.array([-7, 0, 0, 0] + 4 * [0], "float32")
    model.layers[0].cell.bias.assign(bias)
    results = to_tflite(model, tmp_path, ["mixed", "int8"])
    # 1 / (1 + exp(7)), about.
    gate = results["int8"].gates["slow__0__hidden"]
    assert 3e-4 < gate < 3e-3
    (warning,) = results["int8"].warnings
    assert "slow__0__hidden" in warning and "100% of its range" in warning
    assert results["mixed"].warnings == ()
    assert warning in str(results["int8"])


@pytest.mark.parametrize(("apart", "told"), [(0.21, 1), (0.09, 0)])
def test_runtimes_that_do_not_agree_are_told(explicit, apart, told):
    """Golden vectors say little then."""
    file, options = explicit["float32"], Options(("float32",))
    deviation = prove.Deviation(
        "TFLM beside LiteRT", 9, apart, apart, apart, apart
    )
    proof = prove.Proof((deviation,), 1, 1, "", 1.0)
    columns = [sequences(1)[0]]
    result = describe.describe(
        file.path, "float32", file.states, proof, {}, options, columns
    )
    found = [w for w in result.warnings if "21%" in w and "golden" in w]
    assert len(result.warnings) == len(found) == told


@pytest.mark.parametrize(
    "bias", [pytest.param(0, marks=pytest.mark.slow), -3.1]
)
def test_hard_gates_are_fused(tmp_path, bias):
    """A product with RELU6 in it, of sixteen bits where the gate is slow."""
    keras.utils.set_random_seed(0)
    layer = keras_mgrade.MinGRU(
        4,
        recurrent_activation="hard_sigmoid",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.2),
        gate_bias_initializer=keras.initializers.Constant(bias),
    )
    model = keras.Sequential([keras.Input((None, 5)), layer])
    results = to_tflite(model, tmp_path, ["mixed", "int8"])
    for result in results.values():
        assert "RELU6" not in result.operators
        assert result.operator_counts["FULLY_CONNECTED"] == 2
        assert result.operator_counts["MUL"] == 2
    slow = min(results["mixed"].gates.values()) < 0.02
    assert slow == (bias < -3)
    assert ("int16" in types(results["mixed"])) == slow


def test_states_tend_to_where_their_candidate_is(tmp_path):
    """A state slower than the calibration must not be cut off after it."""
    layer = keras_mgrade.MinGRU(
        1,
        kernel_initializer="zeros",
        bias_initializer="ones",
        gate_bias_initializer=keras.initializers.Constant(-6),
    )
    model = keras.Sequential([keras.Input((None, 1)), layer])
    model.layers[0].cell.kernel.assign([[0.0, 1.0]])
    steps = np.full((1, 40, 1), 0.5, "float32")
    steps[0, 0] = 0.4
    results = to_tflite(
        model, tmp_path, ["int8", "int16x8"], calibration=steps, proof_steps=40
    )
    for result in results.values():
        state = next(t for t in result.inputs if t.name.endswith("hidden"))
        limits = np.iinfo(state.dtype)
        assert (limits.max - state.zero_point) * state.scale > 1.45


def slow_model(kind):
    """A state whose time constants are far beyond 60 steps."""
    if kind == "pooling":
        state = keras_mgrade.TemporalPooling("exponential", time_constant=1000)
    else:
        state = keras.layers.GRU(4)
    layers = [keras.Input((None, 3)), state, keras.layers.Dense(3)]
    model = keras.Sequential(layers)
    if kind == "GRU":
        bias = np.zeros(state.cell.bias.shape, "float32")
        bias[0, :4] = 5.0
        state.cell.bias.assign(bias)
    return model


@pytest.mark.parametrize("kind", ["pooling", "GRU"])
def test_states_slower_than_the_calibration_settle(kind, rng, tmp_path):
    """Long after it, too, neither they nor what reads them is cut off."""
    model = slow_model(kind)
    x = rng.normal(loc=1.0, size=(1, 60, 3)).astype("float32")
    results = to_tflite(
        model,
        tmp_path,
        ["mixed", "int16x8", "int8"],
        calibration=x,
        proof_steps=60,
    )
    stream = np.tile(x[0], (100, 1))
    wanted = model.predict(stream[None], verbose=0)[0]
    for precision, result in results.items():
        (gate,) = result.gates.values()
        assert gate < 0.01
        told = any("the slowest gate is" in text for text in result.warnings)
        assert told == (precision == "int8")
        if precision != "int8":
            last = export.LiteRTRunner(result.path).run(stream)[-1]
            # Cut off, they would end at a half of it and less.
            off = np.abs(last - wanted).max()
            assert off < 0.05 * np.abs(wanted).max()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_internal_states(explicit, internal, precision, runner):
    """Bit by bit what the explicit file gives; `reset` starts anew."""
    result = internal[precision]
    assert [t.name for t in result.inputs] == ["input"]
    assert [t.name for t in result.outputs] == ["output"]
    sequence = sequences(1, 60)[0]
    inside = runner(result.path)
    outputs = inside.run(sequence)
    expected = runner(explicit[precision].path).run(sequence)
    np.testing.assert_array_equal(outputs, expected)
    assert np.any(inside.run(sequence) != expected)
    inside.reset()
    np.testing.assert_array_equal(inside.run(sequence), expected)
    assert inside.states == {}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_delay_line_of_the_program(application, wanted, precision, runner):
    result = application[precision]
    line = result.states[0]
    # Even taps of 12 steps: 0, 4 and 8, of which 0 is read in the graph.
    assert line.steps is None and line.shape == (1, 2, 1, exports.UNITS)
    assert line.delays == [[8] * exports.UNITS, [4] * exports.UNITS]
    assert "STRIDED_SLICE" not in result.operators
    assert deviation(result, wanted, runner) < RMS[precision]


def test_delay_line_of_the_program_takes_less_arena(explicit, application):
    for precision in PRECISIONS:
        pair = explicit[precision], application[precision]
        if pair[0].arena_bytes is not None:
            assert pair[1].arena_bytes < pair[0].arena_bytes
        # A ring of eight bytes a channel and its position, of two.
        assert pair[1].state_bytes == (pair[0].state_bytes + 2 * exports.UNITS)


def test_delay_line_of_the_program_wants_whole_delays(tmp_path):
    with pytest.raises(ValueError, match=r"snap_delays\(\).*'linear'"):
        to_tflite(exports.make_model(), tmp_path, delay_line="application")


def test_channels_with_fewer_taps(tmp_path):
    """Each channel's ring is as long as its own longest delay."""
    layer = keras_mgrade.DelayConv1D(3, 9, "integer")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    layer.set_delays([[0, 1, 9, 0, 4], [0, 2, 5, 3, 4], [0, 7, 0, 0, 6]])
    kernel = np.random.default_rng(0).normal(size=(3, 5))
    kernel[1, 3] = 0
    layer.kernel.assign(kernel)
    results = to_tflite(model, tmp_path, ["float32"], delay_line="application")
    delays = np.array(results["float32"].states[0].delays)
    assert delays.max(0).tolist() == [0, 7, 9, 0, 6]
    assert np.count_nonzero(delays, 0).tolist() == [0, 3, 2, 0, 2]


def tcn(x):
    for dilation in (1, 2, 4):
        h = keras.layers.Conv1D(
            8, 3, dilation_rate=dilation, padding="causal", activation="relu"
        )(x)
        x = keras.layers.Conv1D(5, 1)(h) + x
    return x


def depthwise(x):
    x = keras.layers.ZeroPadding1D((6, 0))(x)
    return keras.layers.DepthwiseConv1D(3, dilation_rate=3, depth_multiplier=2)(
        x
    )


# One conversion takes some seconds: layers side by side in one model. Made anew
# for each model: Keras counts names from the start of a session.
RECURRENT = {
    "simple": lambda x: keras.layers.SimpleRNN(8)(x),
    "gru": lambda x: keras.layers.GRU(8, return_sequences=True)(x),
    "first_reset": lambda x: keras.layers.GRU(8, reset_after=False)(x),
    "lstm": lambda x: keras.layers.LSTM(8, return_sequences=True)(x),
}
CONVOLUTIONS = {
    "tcn": tcn,
    "depthwise": depthwise,
    "groups": lambda x: keras.layers.Conv1D(
        10, 2, dilation_rate=2, padding="causal", groups=5
    )(x),
}
POOLING = {
    "average": lambda x: keras.layers.GlobalAveragePooling1D()(x),
    "exponential": lambda x: keras_mgrade.TemporalPooling(
        "exponential", time_constant=9.0
    )(x),
    "last": lambda x: keras_mgrade.TemporalPooling()(x),
}


def side_by_side(branches):
    keras.utils.set_random_seed(0)
    x = keras.Input((None, 5))
    outputs = [keras.layers.Dense(3)(branch(x)) for branch in branches.values()]
    return keras.Model(x, outputs)


@pytest.mark.parametrize(
    ("branches", "line"),
    [
        (RECURRENT, "graph"),
        pytest.param(CONVOLUTIONS, "graph", marks=pytest.mark.slow),
        (CONVOLUTIONS, "application"),
        pytest.param(POOLING, "graph", marks=pytest.mark.slow),
    ],
    ids=["recurrent", "convolutions", "rings", "pooling"],
)
def test_layers_of_keras(branches, line, tmp_path):
    """Proved before they are handed out; the worst output counts."""
    model = side_by_side(branches)
    precisions = [
        p for p in PRECISIONS if branches is not POOLING or p != "int8"
    ]
    results = to_tflite(model, tmp_path, precisions, delay_line=line)
    for precision, result in results.items():
        assert len(result.outputs) == len(branches) + len(result.states)
        for found in result.deviations[:2]:
            assert not found.steps or found.rms < RMS[precision]
        if line == "application":
            assert "STRIDED_SLICE" not in result.operators


def test_a_state_that_only_a_product_reads(tmp_path):
    """It comes out in sixteen bits and must go in so."""
    x = keras.Input((None, 5))
    model = keras.Model(x, keras.layers.SimpleRNN(6)(x))
    result = to_tflite(model, tmp_path, ["mixed"], state_dtype="int16")["mixed"]
    assert result.inputs[1].dtype == result.outputs[1].dtype == "int16"
    for found in result.deviations[:2]:
        assert not found.steps or found.rms < RMS["mixed"]


@pytest.mark.slow
def test_a_large_model(tmp_path):
    """Above 256 kB the quantiser puts values behind the flatbuffer."""
    x = keras.Input((None, 5))
    h = keras_mgrade.MinGRU(48, return_sequences=True)(x)
    model = keras.Model(x, keras.layers.Dense(5600)(h))
    result = to_tflite(model, tmp_path, ["mixed"], proof_steps=40)["mixed"]
    assert 1 << 18 < result.content["weights"] < result.bytes
    for found in result.deviations[:2]:
        assert not found.steps or found.rms < RMS["mixed"]


def test_names_that_c_or_tensorflow_does_not_take(tmp_path):
    keras.utils.set_random_seed(0)
    x = h = keras.Input((None, 5), name="3d accel-x")
    # TensorFlow takes none of these as names of scopes.
    for name in ("d 1", "_d", "\u00e9"):
        h = keras.layers.Dense(4, name=name)(h)
    model = keras.Model(x, keras_mgrade.MinGRU(4, name="1 gru")(h))
    result = to_tflite(model, tmp_path, ["float32"])["float32"]
    names = [t.name for t in result.inputs]
    assert names == ["input_3d_accel_x", "layer_1_gru__0__hidden"]


def test_tokens_beside_features(tmp_path):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    # Keras's own type, which means integers all the same.
    more = keras.Input((None,), name="more")
    x = keras.Input((None, 5), name="x")
    embedded = [keras.layers.Embedding(7, 4)(t) for t in (tokens, more)]
    h = keras.layers.Concatenate()([*embedded, x])
    model = keras.Model([tokens, more, x], keras_mgrade.MinGRU(4)(h))
    words = np.random.default_rng(0).integers(0, 7, (2, 3, 150))
    pairs = list(zip(*words, sequences(), strict=True))
    results = to_tflite(model, tmp_path, calibration=pairs)
    for precision, result in results.items():
        kinds = [t.dtype for t in result.inputs[:2]]
        assert kinds == ["int32", "int32"]
        for found in result.deviations[:2]:
            assert not found.steps or found.rms < RMS[precision]
    results["mixed"].save_bundle(tmp_path / "bundle")
    header = (tmp_path / "bundle" / "golden.h").read_text()
    assert "KERAS_MGRADE_INT32" in header


def test_running_mean_is_refused_in_int8(tmp_path):
    model = keras.Sequential(
        [keras.Input((None, 5)), keras_mgrade.TemporalPooling("mean")]
    )
    with pytest.raises(ValueError, match="running mean.*'int8'.*sum"):
        to_tflite(model, tmp_path, ["int8"])


def test_operator_that_stays_in_float_is_named(tmp_path):
    """Not the conversion beside it."""
    x = keras.Input((None, 5))
    h = keras.layers.LeakyReLU()(keras.layers.Dense(4)(x))
    model = keras.Model(x, keras_mgrade.MinGRU(4)(h))
    with pytest.raises(ValueError, match="operator=LEAKY_RELU"):
        to_tflite(model, tmp_path, ["int8"])


def test_logarithm_is_refused_in_int8(tmp_path):
    x = keras.Input((None, 5))
    model = keras.Model(
        x, keras_mgrade.MinGRU(4)(keras.ops.log1p(keras.ops.abs(x)))
    )
    with pytest.raises(ValueError, match="LOG does not.*precision='mixed'"):
        to_tflite(model, tmp_path, ["int8"])


def test_calibration_that_stands_still_is_refused(model, tmp_path):
    zeros = np.zeros((2, 50, exports.FEATURES), "float32")
    with pytest.raises(ValueError, match="never leaves zero.*training data"):
        to_tflite(model, tmp_path, ["mixed"], calibration=zeros)
    still = sequences()
    still[:, :, [1, 3]] = 0.25
    with pytest.raises(ValueError, match=r"stay what they are: \[1, 3\]"):
        to_tflite(model, tmp_path, ["int8"], calibration=still)
    # In float32 it sets no ranges.
    result = to_tflite(model, tmp_path, ["float32"], calibration=still)
    assert result["float32"].gates == {}
    for single in (still[0, :1], np.zeros(1, "int32")):
        with pytest.raises(ValueError, match="1 step for the input 'x'"):
            calibration.check_moves([single], ["x"])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"state_dtype": "int8"}, "state_dtype='int8'"),
        ({"state_dtype": "int16"}, "belongs to precision='mixed'"),
        ({"state_io": "hidden"}, "state_io='hidden'"),
        ({"delay_line": "both"}, "delay_line='both'"),
        ({"proof_steps": 0}, "proof_steps=0"),
        (
            {"state_io": "internal", "delay_line": "application"},
            "goes with state_io='explicit'",
        ),
    ],
)
def test_options_are_checked(model, tmp_path, options, match):
    with pytest.raises(ValueError, match=match):
        to_tflite(model, tmp_path, **options)


class TestWindow:
    """A whole window in one file, for phones."""

    def run(self, result, *values):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(result.path))
        run = interpreter.get_signature_runner("serving_default")
        names = [t.name for t in result.inputs]
        kinds = [t.dtype for t in result.inputs]
        values = map(np.asarray, values, kinds)
        return run(**dict(zip(names, values, strict=True)))

    def test_equals_the_whole_sequence(self, tmp_path):
        model = exports.make_model()
        x = sequences(1, 90)
        results = to_tflite(model, tmp_path, ["float32", "mixed"], window=90)
        wanted = keras.ops.convert_to_numpy(model(x))
        for precision, bound in (("float32", 1e-5), ("mixed", 0.05)):
            result = results[precision]
            assert result.inputs[0].shape == (1, 90, exports.FEATURES)
            assert result.states == () and "WHILE" not in result.operators
            error = np.abs(self.run(result, x)["output"] - wanted).max()
            assert error < bound * np.abs(wanted).max()
            assert "for phones" in str(result)
        assert results["mixed"].bytes < results["float32"].bytes
        with pytest.raises(ValueError, match="for microcontrollers"):
            results["mixed"].save_bundle(tmp_path / "bundle")

    @pytest.mark.slow
    def test_with_time_and_without(self, tmp_path):
        """As in the trained model, in an order that is not the alphabet's."""
        layers = keras.layers
        shapes = {"b": (None, 5), "a": (None, 2), "words": (None,), "c": (3,)}
        inputs = [keras.Input(s, name=name) for name, s in shapes.items()]
        b, a, words, c = inputs
        h = layers.Concatenate()([b, a, layers.Embedding(7, 4)(words)])
        y, hidden = keras_mgrade.MinGRU(3, return_state=True)(h)
        # To two days of three numbers.
        ahead = layers.Reshape((2, 3))(layers.Dense(6, activation="gelu")(y))
        sequence, *states = keras_mgrade.MGrade(
            5, kernel_size=2, max_delay=4, return_state=True
        )(b)
        both = layers.Concatenate()([y, layers.Dense(2)(c)])
        cells = layers.LSTM(4, return_state=True)(h)
        model = keras.Model(
            inputs,
            [hidden, layers.Dense(2)(both), ahead, sequence, *states, *cells],
        )
        x = sequences(3, 15)
        tokens = np.random.default_rng(0).integers(0, 7, (3, 15))
        rows = [x, x[..., :2], tokens, x[..., 1:4]]
        results = to_tflite(
            model,
            tmp_path,
            ["float32", "mixed"],
            window=15,
            calibration=list(zip(*rows, strict=True)),
        )
        result = results["float32"]
        assert [t.name for t in result.inputs] == list(shapes)
        assert [t.dtype for t in result.inputs] == ["float32"] * 2 + [
            "int32",
            "float32",
        ]
        assert result.inputs[-1].shape == (1, 3)
        values = [*(row[:1] for row in rows[:3]), rows[3][:1, -1]]
        found = self.run(result, *values)
        for i, wanted in enumerate(model(values)):
            wanted = keras.ops.convert_to_numpy(wanted)
            answer = found[f"output_{i}"]
            assert answer.shape == wanted.shape, i
            np.testing.assert_allclose(answer, wanted, atol=1e-5)

    @pytest.mark.slow
    def test_layers(self, tmp_path):
        branches = {
            **{k: RECURRENT[k] for k in ("gru", "simple")},
            **{k: CONVOLUTIONS[k] for k in ("tcn", "depthwise")},
            **POOLING,
        }
        model = side_by_side(branches)
        result = to_tflite(model, tmp_path, ["float32"], window=20)["float32"]
        x = sequences(1, 20)
        found = self.run(result, x)
        for i, wanted in enumerate(model(x)):
            wanted = keras.ops.convert_to_numpy(wanted)
            answer = found[f"output_{i}"]
            assert answer.shape == wanted.shape, list(branches)[i]
            np.testing.assert_allclose(answer, wanted, atol=1e-5)

    @pytest.mark.parametrize(
        ("options", "match"),
        [
            ({"window": 0}, "window=0"),
            ({"state_io": "internal"}, "state_io='internal'"),
            ({"delay_line": "application"}, "delay_line='application'"),
            ({"precision": ["int8"]}, "for phones.*'int8'"),
        ],
    )
    def test_options(self, model, tmp_path, options, match):
        options = {"precision": ["float32"], "window": 9, **options}
        with pytest.raises(ValueError, match=match):
            to_tflite(model, tmp_path, **options)

"""`keras_mgrade.export`: what is exported is what was trained."""

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_mgrade
from budget import slow_except_on
from keras_mgrade import export
from keras_mgrade.export import flatbuffer, operators

BACKEND = keras.backend.backend()
MISSING = [
    name
    for name in ("tensorflow", "ai_edge_litert", "ai_edge_quantizer")
    if importlib.util.find_spec(name) is None
]
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"the export needs {MISSING}"
)
once = pytest.mark.skipif(
    # Which has the quickest of the other tests.
    BACKEND != "torch",
    reason="the exported file is the same whatever the backend",
)
RUNNERS = [export.LiteRTRunner]
if importlib.util.find_spec("tflite_micro") is not None:
    RUNNERS.append(export.TFLMRunner)

FEATURES = 5
UNITS = 8
HIDDEN = ("m_grade__recurrence__0__hidden", "min_gru__0__hidden")
LINE = "m_grade__convolution__0__delay_line"


def sequences(count=3, steps=150, features=FEATURES):
    walk = np.random.default_rng(0).normal(size=(count, steps, features))
    return np.sin(0.3 * walk.cumsum(axis=1)).astype("float32")


def make_model(**arguments):
    """Two recurrent states of equal shape, so that a mix-up would show."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((None, FEATURES)),
            keras_mgrade.MGrade(
                UNITS, kernel_size=3, max_delay=12, **arguments
            ),
            keras_mgrade.MinGRU(UNITS, return_sequences=True),
            keras.layers.Dense(4),
        ]
    )
    generator = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.gamma.shape
            layer.moving_mean.assign(generator.normal(size=shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, shape))
            layer.gamma.assign(generator.uniform(0.5, 2, shape))
            layer.beta.assign(generator.normal(size=shape))
    return model


def keras_stream(model, sequence):
    """Outputs and last states of the Keras stream, step by step."""
    stream = keras_mgrade.streaming_model(model)
    step = keras_mgrade.compile_step(stream)
    states, outputs = keras_mgrade.initial_states(stream), []
    for sample in sequence:
        y, states = step(sample[None], states)
        outputs.append(keras.ops.convert_to_numpy(y)[0])
    names = [tensor.name for tensor in stream.inputs[1:]]
    states = [keras.ops.convert_to_numpy(state) for state in states]
    return np.stack(outputs), dict(zip(names, states, strict=True))


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def reference(model):
    return keras_stream(model, sequences(1, 300)[0])


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model_{precision}.tflite"
    return export.to_tflite(
        model, path, ["float32", "mixed"], calibration=sequences()
    )


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Two inputs, two outputs, and the states of a running mean."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    a = keras.Input((None, FEATURES), name="accelerometer")
    b = keras.Input((None, 2), name="gyroscope")
    x = keras.layers.Concatenate()([a, b])
    h = keras_mgrade.MinGRU(6, return_sequences=True)(x)
    pooled = keras_mgrade.TemporalPooling("mean")(h)
    # After time is gone, in its form for the device all the same.
    y = keras.layers.Dense(3)(keras.layers.LayerNormalization()(pooled))
    model = keras.Model([a, b], [y, h])
    path = tmp_path_factory.mktemp("several") / "several.tflite"
    pairs = [(s, s[:, :2]) for s in sequences()]
    return model, export.to_tflite(model, path, calibration=pairs)


# PyTorch's are those of the other tests, JAX's that of the quickstart.
@slow_except_on("tensorflow")
def test_export_from_this_backend(tmp_path):
    model = make_model(normalization="batch", convolution_norm=True)
    result = export.to_tflite(model, tmp_path / "m.tflite", "float32")
    sequence = sequences(1, 200)[0]
    wanted, _ = keras_stream(model, sequence)
    for runner in RUNNERS:
        outputs = runner(result.path).run(sequence)
        np.testing.assert_allclose(outputs, wanted, atol=1e-4, rtol=0)
    if BACKEND != "tensorflow":
        return
    # Batch normalisation leaves no operator behind.
    plain = export.to_tflite(
        make_model(normalization=None), tmp_path / "n.tflite", "float32"
    )
    assert result.operators == plain.operators


@pytest.mark.skipif(BACKEND == "tensorflow", reason="there it is imported")
def test_import_needs_no_tensorflow():
    code = (
        "import sys, keras_mgrade.export\n"
        "heavy = {'tensorflow', 'ai_edge_litert', 'ai_edge_quantizer'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": BACKEND},
        check=True,
    )


@once
class TestFloat:
    @pytest.mark.parametrize("runner", RUNNERS)
    def test_outputs_and_states_equal_keras(self, exported, reference, runner):
        wanted, states = reference
        runner = runner(exported["float32"].path)
        outputs = runner.run(sequences(1, 300)[0])
        bound = 1e-4 * np.abs(wanted).max()
        np.testing.assert_allclose(outputs, wanted, atol=bound, rtol=0)
        steps = exported["float32"].states[0].steps
        line = states[LINE][:, -steps:].reshape(1, steps, 1, -1)
        np.testing.assert_allclose(runner.states[LINE], line, atol=1e-5)
        assert runner.states[HIDDEN[0]].shape == runner.states[HIDDEN[1]].shape
        for name in HIDDEN:
            np.testing.assert_allclose(
                runner.states[name], states[name], atol=1e-5
            )

    def test_result(self, exported):
        result = exported["float32"]
        names = [LINE, *HIDDEN]
        assert [t.name for t in result.inputs] == ["input", *names]
        assert [t.name for t in result.outputs] == ["output", *names]
        assert {t.dtype for t in result.inputs + result.outputs} == {"float32"}
        line = result.states[0]
        assert line.role == "delay_line"
        assert line.keras_shape == (1, 12, UNITS)
        # Even taps: 0, 4 and 8 of 12 steps.
        assert line.shape == (1, line.steps, 1, UNITS) and line.steps == 8
        assert result.bytes == result.path.stat().st_size
        assert set(result.operator_counts) <= set(operators.SUPPORTED)
        assert all(d.maximum < 1e-4 for d in result.deviations if d.steps)
        assert "FULLY_CONNECTED x" in str(result)
        if export.TFLMRunner in RUNNERS:
            assert 1_000 < result.arena_bytes < 100_000
        else:
            assert result.arena_bytes is None
            assert "not run" in result.arena_note

    def test_file_is_in_canonical_order(self, exported):
        graph = flatbuffer.load(exported["float32"].path.read_bytes())
        graph = graph.subgraphs[0]
        names = [graph.tensors[i].name.decode() for i in graph.inputs]
        assert names == ["input", LINE, *HIDDEN]
        names = [graph.tensors[i].name.decode() for i in graph.outputs]
        assert names == ["output", *(f"{n}__next" for n in (LINE, *HIDDEN))]


@once
class TestMixed:
    def test_dtypes(self, exported):
        result = exported["mixed"]
        # The answer is a product of what the recurrence gives in float32.
        for tensors, first in (
            (result.inputs, "int8"),
            (result.outputs, "int16"),
        ):
            kinds = [t.dtype for t in tensors]
            assert kinds == [first, "int8", "float32", "float32"]

    def test_sums_beside_recurrence_and_normalisation_are_float(self, exported):
        """In the one scale of an int8 skip quiet passages drown."""
        model = flatbuffer.load(exported["mixed"].path.read_bytes())
        tensors = model.subgraphs[0].tensors
        sums = [
            {
                flatbuffer.dtype_name(tensors[i])
                for i in flatbuffer.outputs_of(op)
            }
            for op in model.subgraphs[0].operators
            if flatbuffer.operator_name(model, op) == "ADD"
            and not any(
                flatbuffer.is_constant(model, i)
                for i in flatbuffer.inputs_of(op)
            )
        ]
        # Three skips of the block, two updates of a state.
        assert len(sums) == 5
        assert all(kinds == {"float32"} for kinds in sums)

    def test_states_come_out_as_they_go_in(self, exported):
        result = exported["mixed"]
        for before, after in zip(
            result.inputs[1:], result.outputs[1:], strict=True
        ):
            assert before.name == after.name
            assert before.shape == after.shape
            assert before.scale == after.scale
            assert before.zero_point == after.zero_point

    def test_operators(self, exported):
        result = exported["mixed"]
        model = flatbuffer.load(result.path.read_bytes())
        assert operators.unsupported_operators(model) == []
        graph = model.subgraphs[0]
        for op in graph.operators:
            name = flatbuffer.operator_name(model, op)
            read = flatbuffer.inputs_of(op)[0]
            kind = flatbuffer.dtype_name(graph.tensors[read])
            if flatbuffer.outputs_of(op)[0] == result.outputs[0].index:
                assert kind == "int16"
            elif name in ("FULLY_CONNECTED", "DEPTHWISE_CONV_2D"):
                assert kind == "int8"
            # Recurrence and layer normalisation.
            if name in ("LOGISTIC", "RSQRT", "MEAN", "SUB"):
                assert kind == "float32"

    @pytest.mark.parametrize("runner", RUNNERS)
    def test_deviation(self, exported, reference, runner):
        wanted, _ = reference
        outputs = runner(exported["mixed"].path).run(sequences(1, 300)[0])
        error = np.sqrt(np.mean((outputs - wanted) ** 2))
        assert 0 < error < 0.1 * np.sqrt(np.mean(wanted**2))

    @pytest.mark.parametrize("runner", RUNNERS)
    def test_several_inputs_and_outputs(self, several, runner):
        model, result = several
        assert [t.name for t in result.inputs[:2]] == [
            "accelerometer",
            "gyroscope",
        ]
        roles = {s.role for s in result.states}
        assert roles == {"recurrent", "accumulator"}
        assert {t.dtype for t in result.inputs[2:]} == {"float32"}
        sequence = sequences(1, 150)[0]
        columns = [sequence, sequence[:, :2]]
        outputs = runner(result.path).run(columns)
        wanted = model([column[None] for column in columns])
        assert [o.shape for o in outputs] == [(150, 3), (150, 6)]
        last = keras.ops.convert_to_numpy(wanted[0])[0]
        np.testing.assert_allclose(outputs[0][-1], last, atol=0.05)
        hidden = keras.ops.convert_to_numpy(wanted[1])[0]
        np.testing.assert_allclose(outputs[1], hidden, atol=0.05)


def loudness(samples):
    return keras.ops.log(1 + 1e4 * keras.ops.relu(samples / 2.0))


def bands(samples):
    """The logarithm of energies in bands, as of a spectrogram."""
    cosine, sine = (
        keras.layers.Dense(8, use_bias=False)(samples) for _ in range(2)
    )
    return keras.ops.log(1 + 1e6 * (cosine * cosine + sine * sine))


@once
@pytest.mark.parametrize(
    ("front_end", "dtype"),
    [
        (loudness, "float32"),
        pytest.param(bands, "int16", marks=pytest.mark.slow),
    ],
)
def test_samples_enter_a_logarithm_unrounded(tmp_path, front_end, dtype):
    """Eight bits would leave nothing of what the logarithm is there for."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    samples = keras.Input((None, FEATURES))
    hidden = keras_mgrade.MinGRU(UNITS, return_sequences=True)(
        front_end(samples)
    )
    model = keras.Model(samples, keras.layers.Dense(4)(hidden))
    quiet = 0.003 * sequences(1)[0]
    calibration = [quiet, *sequences()]
    result = export.to_tflite(
        model, tmp_path / "log.tflite", calibration=calibration
    )
    assert [t.dtype for t in result.inputs] == [dtype, "float32"]
    wanted, _ = keras_stream(model, quiet)
    for runner in RUNNERS:
        outputs = runner(result.path).run(quiet)
        error = np.sqrt(np.mean((outputs - wanted) ** 2))
        assert error < 0.1 * np.sqrt(np.mean(wanted**2))


@once
@pytest.mark.parametrize("runner", RUNNERS)
class TestRunners:
    def test_steps_equal_a_run(self, exported, runner):
        runner = runner(exported["mixed"].path)
        sequence = sequences(1, 20)[0]
        whole = runner.run(sequence)
        assert whole.shape == (20, 4)
        runner.reset()
        assert (runner.states[HIDDEN[0]] == 0).all()
        assert (
            runner.states[LINE] == exported["mixed"].inputs[1].zero_point
        ).all()
        steps = [runner.step(sample) for sample in sequence]
        np.testing.assert_array_equal(np.stack(steps), whole)
        assert runner.step(sequence[:1]).shape == (1, 4)

    def test_wrong_shapes(self, exported, runner):
        runner = runner(exported["mixed"].path)
        with pytest.raises(ValueError, match=r"x\.shape=\(6,\)"):
            runner.step(np.zeros(6))
        with pytest.raises(ValueError, match=r"sequence\.shape=\(9, 6\)"):
            runner.run(np.zeros((9, 6)))

    def test_broken_files(self, exported, runner, tmp_path):
        data = exported["mixed"].path.read_bytes()
        path = tmp_path / "broken.tflite"
        for broken in (b"", b"garbage" * 100, data[:100], data[:-500]):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match="TFLite flatbuffer"):
                runner(path)


@once
def test_truncation_is_noticed_everywhere(exported):
    data = exported["mixed"].path.read_bytes()
    for length in range(0, len(data), 97):
        with pytest.raises(ValueError, match="Received"):
            flatbuffer.load(data[:length])


@once
def test_command_line_takes_a_saved_stream(model, tmp_path):
    keras_mgrade.streaming_model(model).save(tmp_path / "stream.keras")
    done = subprocess.run(
        [sys.executable, "-m", "keras_mgrade.export", "convert"]
        + [str(tmp_path / "stream.keras"), str(tmp_path / "m.tflite")]
        + ["--precision", "float32", "--proof_steps", "100"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "DEPTHWISE_CONV_2D x 1" in done.stdout
    assert (tmp_path / "m.tflite").is_file()
    assert not list(tmp_path.glob("*.part"))


@once
def test_delay_line_keeps_at_least_one_step():
    from keras_mgrade.export import device

    layer = keras_mgrade.DelayConv1D(2, 6, interpolation="integer")
    model = keras.Sequential([keras.Input((None, 3)), layer])
    stream = keras_mgrade.streaming_model(model)
    for delays, weights, steps in (
        ([[0] * 3, [0] * 3], 1.0, 1),
        ([[0] * 3, [4, 2, 5]], 1.0, 5),
        # A tap of weight 0 costs no delay line.
        ([[0] * 3, [4, 2, 5]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]], 4),
        ([[0] * 3, [4, 2, 5]], 0.0, 1),
    ):
        layer.set_delays(np.array(delays))
        layer.kernel.assign(np.broadcast_to(weights, (2, 3)))
        _, (state,) = device.device_form(stream)
        assert state.steps == steps


@once
class TestErrors:
    def refused(self, tmp_path, kind, match, model, *args, **kwargs):
        name = kwargs.pop("name", "m.tflite")
        with pytest.raises(kind, match=match):
            export.to_tflite(model, tmp_path / name, *args, **kwargs)
        assert not list(tmp_path.glob("*.tflite*"))
        assert not list(tmp_path.glob("*.part"))

    def test_arguments(self, model, tmp_path):
        self.refused(tmp_path, ValueError, "Received: calibration=None", model)
        self.refused(
            tmp_path,
            ValueError,
            r"a sequence of shape \(150, 6\)",
            model,
            calibration=sequences(features=6),
        )
        broken = sequences()
        broken[0, 3, 1] = np.nan
        self.refused(tmp_path, ValueError, "finite", model, calibration=broken)
        for wrong in (0.5, np.float32(0.5), object()):
            self.refused(
                tmp_path,
                ValueError,
                "real input sequences.*Received: calibration=",
                model,
                calibration=wrong,
            )
        self.refused(
            tmp_path, ValueError, "precision='int4'", model, precision="int4"
        )
        self.refused(
            tmp_path,
            ValueError,
            "{precision}",
            model,
            ["float32", "mixed"],
            sequences(),
        )
        self.refused(
            tmp_path,
            ValueError,
            "existing folder",
            model,
            "float32",
            name="nowhere/m.tflite",
        )
        (tmp_path / "folder").mkdir()
        self.refused(
            tmp_path, ValueError, "a folder", model, "float32", name="folder"
        )
        self.refused(tmp_path, ValueError, ".keras", "no.keras", "float32")
        self.refused(tmp_path, ValueError, "type dict", {}, "float32")

    def test_unsupported_operator_is_named(self, tmp_path):
        model = keras.Sequential(
            [
                keras.Input((None, 3)),
                keras.layers.Dense(4, activation="gelu"),
                keras.layers.Dense(4, activation="hard_shrink"),
                keras_mgrade.MinGRU(4),
            ]
        )
        match = "(?s)'relu'.*compare nothing.*GELU.*GREATER"
        self.refused(tmp_path, ValueError, match, model, "float32")

    def test_layer_of_a_script_is_named(self, tmp_path, monkeypatch):
        @keras.saving.register_keras_serializable("script")
        class Mine(keras.layers.Dense):
            pass

        # What a class has that a script defines.
        monkeypatch.setattr(Mine, "__module__", "__main__")
        model = keras.Sequential([keras.Input((None, 3)), Mine(2)])
        self.refused(tmp_path, ValueError, "'Mine'", model, "float32")

    def test_layer_that_cannot_stream_is_named(self, tmp_path):
        model = keras.Sequential(
            [keras.Input((None, 3)), keras.layers.Conv1D(4, 2, name="past")]
        )
        self.refused(tmp_path, ValueError, "past", model, "float32")

    @pytest.mark.parametrize(
        ("code", "kind", "match"),
        [
            ("raise ImportError('not here')", ValueError, "not here"),
            ("os.abort()", RuntimeError, "signal 6"),
        ],
    )
    def test_fault_of_the_other_process(
        self, tmp_path, monkeypatch, code, kind, match
    ):
        source = (
            "import os, sys\n"
            "import keras\n"
            "if 'child' in sys.argv[0]:\n"
            f"    {code}\n"
            "@keras.saving.register_keras_serializable('faulty')\n"
            "class Faulty(keras.layers.Dense):\n"
            "    pass\n"
        )
        name = f"faulty_{kind.__name__.lower()}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        faulty = importlib.import_module(name)
        model = keras.Sequential([keras.Input((None, 3)), faulty.Faulty(2)])
        self.refused(tmp_path, kind, match, model, "float32")

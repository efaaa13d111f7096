"""`check` and the command line: the library's own files, wrong arguments."""

import types

import keras
import numpy as np
import pytest

import keras_mgrade
import test_export as exports
from keras_mgrade import export
from keras_mgrade.export import __main__ as command_line
from keras_mgrade.export import flatbuffer, inspection, process
from test_export import once, sequences

pytestmark = [exports.pytestmark, once]


def tokens_and_features():
    keras.utils.set_random_seed(0)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = keras.Input((None, exports.FEATURES), name="x")
    embedded = keras.layers.Embedding(7, 4)(tokens)
    h = keras.layers.Concatenate()([embedded, x])
    return keras.Model([tokens, x], keras_mgrade.MinGRU(4)(h))


def run(capsys, *arguments):
    status = command_line.main([str(a) for a in arguments])
    return types.SimpleNamespace(status=status, **capsys.readouterr()._asdict())


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    path = tmp_path_factory.mktemp("window") / "window.tflite"
    export.to_tflite(
        exports.make_model(),
        path,
        calibration=sequences(),
        window=40,
        proof_steps=80,
    )
    return path


def test_named_calibration_of_several_inputs(tmp_path, capsys):
    """Through the command line, and the file, of tokens, through `check`."""
    words = np.random.default_rng(0).integers(0, 7, (3, 150))
    named, order, wrong = (tmp_path / f"{i}.npz" for i in range(3))
    # Not in the order of the inputs.
    np.savez(named, x=sequences(), tokens=words)
    np.savez(order, words, sequences())
    np.savez(wrong, a=words, b=sequences())
    source, target = tmp_path / "m.keras", tmp_path / "m.tflite"
    tokens_and_features().save(source)
    refused = run(capsys, "convert", source, target, "--calibration", wrong)
    assert refused.status == 1 and "['tokens', 'x']" in refused.err
    flags = [f"--calibration={named}", "--proof_steps=80"]
    assert run(capsys, "convert", source, target, *flags).status == 0
    # Noise would lie outside of the table.
    assert run(capsys, "check", target).status == 0
    for sound in (named, order):
        done = run(capsys, "check", target, "--calibration", sound)
        assert done.status == 0, done.err
        assert "not run" in done.out or "over 150 steps" in done.out
    refused = run(capsys, "check", target, "--calibration", wrong)
    assert refused.status == 1 and "['tokens', 'x']" in refused.err
    for outside in (words[0] + 0.5, words[0] + 1e12):
        with pytest.raises(ValueError, match="`sequence` to hold integers"):
            export.check(target, [outside, sequences()[0]])


def test_window_runs_in_litert_alone(window, tmp_path):
    for sequence in (None, sequences(1)[0], sequences(1)[0][:7]):
        found = export.check(window, sequence)
        assert found.step_us > 0 and found.arena_bytes is None
        assert "not run: the file of a whole window" in str(found)
    assert found.inputs[0].shape == (1, 40, exports.FEATURES)


def test_what_only_says_that_it_is_a_window_is_refused(window, tmp_path):
    """Its weights are of a type that a step in TFLite Micro may not have."""

    def refused(change, match):
        model = flatbuffer.load(window.read_bytes())
        change(model)
        path = tmp_path / "changed.tflite"
        path.write_bytes(flatbuffer.dump(model))
        with pytest.raises(ValueError, match=match):
            export.check(path)

    def endless(model):
        code = model.operatorCodes[0]
        code.builtinCode = flatbuffer.schema().BuiltinOperator.WHILE
        code.deprecatedBuiltinCode = code.builtinCode

    step = "FULLY_CONNECTED in float32 and int8"
    for notes in ({}, {"window": 5}, {"window": "40"}, {"window": [40]}):
        refused(lambda m, notes=notes: flatbuffer.set_notes(m, notes), step)
    refused(endless, "operators=.*WHILE")


def broken():
    x = sequences(1)[0]
    x[3, 1] = np.nan
    return x


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"steps": 4, "sequence": sequences(1)[0]}, "not both.*steps=4"),
        ({"sequence": sequences()}, r"`sequence` to be \(time, 5\)"),
        ({"sequence": sequences(features=3)[0]}, r"`sequence`.*\(150, 3\)"),
        ({"sequence": sequences()[0, :0]}, r"`sequence`.*shape \(0, 5\)"),
        ({"sequence": []}, "`sequence` to give 1 arrays"),
        ({"sequence": list(sequences())}, r"`sequence`.*\[3\] arrays"),
        ({"sequence": "x.npy"}, "`sequence` to hold arrays of numbers"),
        ({"sequence": sequences()[0] * 1j}, "`sequence` to hold.*complex"),
        ({"sequence": broken()}, "`sequence` to be finite"),
        ({"sequence": {"p": 1, "q": 2}}, "`sequence`"),
        ({"path": None}, "path=None"),
    ],
)
def test_arguments_of_check(window, arguments, match):
    with pytest.raises(ValueError, match=match):
        export.check(**{"path": window, **arguments})


def test_a_keras_file_is_not_run(tmp_path, capsys):
    path, calibration = tmp_path / "m.keras", tmp_path / "x.npy"
    exports.make_model().save(path)
    np.save(calibration, sequences())
    with pytest.raises(ValueError, match="`steps` for a .tflite file only"):
        export.check(path, steps=8)
    refused = run(capsys, "check", path, f"--calibration={calibration}")
    assert refused.status == 1 and "`sequence` for a .tflite" in refused.err


def test_command_line_refuses_before_it_converts(tmp_path, capsys, monkeypatch):
    def convert(*arguments, **keywords):
        raise AssertionError("too late")

    model, file = tmp_path / "m.keras", tmp_path / "m.tflite"
    exports.make_model().save(model)
    with monkeypatch.context() as patch:
        patch.setattr(command_line, "to_tflite", convert)
        for flags, status, text in (
            (["--window=9", f"--bundle={tmp_path}"], 2, "leave one"),
            ([f"--bundle={model}"], 1, "`bundle` to be a folder"),
            (["--bundle="], 1, "bundle=''"),
            ([f"--bundle={model}/sub"], 1, "`bundle` to be a folder"),
            ([f"--bundle={file}"], 1, "beside the file"),
            ([f"--bundle={file}/sub"], 1, "beside the file"),
        ):
            refused = run(capsys, "convert", model, file, *flags)
            assert refused.status == status and text in refused.err, flags
        for flag in ("--precision=int8", "--window=9", "--bundle=b"):
            refused = run(capsys, "check", model, flag)
            assert refused.status == 2 and "no use for" in refused.err, flag
    refused = run(capsys, "convert", model, model, "--precision=float32")
    assert refused.status == 1 and "another file than the" in refused.err


def test_calibration_files_that_are_none(tmp_path, capsys):
    path = tmp_path / "calibration"
    model = tmp_path / "m.keras"
    exports.make_model().save(model)

    def refused(text):
        for words in (
            ["check", model],
            ["convert", model, tmp_path / "m.tflite"],
        ):
            done = run(capsys, *words, f"--calibration={path}")
            assert done.status == 1, words
            assert text in done.err and "calibration=" in done.err

    refused("can be read")
    refused("No such file")
    path.write_text("1,2,3\n")
    refused("to be a .npy file")
    ragged = np.array([sequences()[0], sequences()[0, :9]], object)
    with open(path, "wb") as file:
        np.savez(file, ragged)
    refused("Object arrays")
    path.write_bytes(path.read_bytes()[:200])
    refused("to be a .npy file")
    for arrays in (
        [np.zeros(3)],
        [sequences()[:0]],
        [sequences(2), sequences(3)],
        [],
    ):
        with open(path, "wb") as file:
            np.savez(file, *arrays)
        refused("same number of sequences")


def test_without_litert_no_file_is_blamed(window, tmp_path, monkeypatch):
    (tmp_path / "ai_edge_litert.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    worker = process.Helper("keras_mgrade.export.worker")
    monkeypatch.setattr(inspection, "_WORKER", worker)
    with pytest.raises(ImportError, match=r"litert.*install keras_mgrade\["):
        export.check(window)
    inspection._WORKER.stop()

"""Files that are broken or were made to do harm end in an error message."""

import io
import json
import os
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

import test_export as exports
from keras_mgrade import export
from keras_mgrade.export import __main__ as command_line
from keras_mgrade.export import flatbuffer, inspection
from test_export import once, sequences

pytestmark = [exports.pytestmark, once]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Sound files: a model, its step in mixed precision, states inside."""
    folder = tmp_path_factory.mktemp("sound")
    model = exports.make_model()
    model.save(folder / "model.keras")
    for name, io_of in (("explicit", "explicit"), ("inside", "internal")):
        export.to_tflite(
            model,
            folder / f"{name}.tflite",
            "mixed",
            sequences(),
            state_io=io_of,
            proof_steps=50,
        )
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def mutated(data, count, rng):
    """The content of a file cut short, or with bytes changed."""
    for cut in np.linspace(0, len(data) - 1, count // 4, dtype=int):
        yield data[:cut]
    for i in range(count - count // 4):
        changed = np.frombuffer(data, np.uint8).copy()
        places = rng.integers(0, len(data), size=(1, 3, 30)[i % 3])
        changed[places] = rng.integers(0, 256, size=len(places))
        yield changed.tobytes()


def archive(config=None, weights=b"", names=("config.json",)):
    """A `.keras` file with a configuration of ours."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as made:
        for name in names:
            made.writestr(name, config)
        made.writestr("metadata.json", "{}")
        made.writestr("model.weights.h5", weights)
    return memory.getvalue()


def outcome(path):
    """The error, or `None`: whatever else happens fails the test."""
    try:
        inspection.check(path, steps=None if path.suffix == ".keras" else 8)
    except ValueError as error:
        return str(error)
    return None


def test_two_hundred_mutated_files_in_a_minute(files, tmp_path, rng):
    start = time.perf_counter()
    assert check_mutated(files, (90, 60, 60), tmp_path, rng) >= 200
    assert time.perf_counter() - start < 60


@pytest.mark.slow
def test_thousands_of_mutated_files(files, tmp_path):
    rng = np.random.default_rng()
    assert check_mutated(files, (2000, 1500, 500), tmp_path, rng) == 4000


def check_mutated(files, counts, folder, rng):
    """How many were checked, each of which ended in an answer."""
    found = {}
    names = ("explicit.tflite", "inside.tflite", "model.keras")
    for name, count in zip(names, counts, strict=True):
        path = folder / name
        assert outcome(write(path, files[name])) is None
        errors = []
        for data in mutated(files[name], count, rng):
            errors.append(outcome(write(path, data)))
        found[name] = errors
        # And the sound one still passes.
        assert outcome(write(path, files[name])) is None
    for name, errors in found.items():
        texts = [e for e in errors if e is not None]
        assert len(texts) > len(errors) // 2, name
        assert all(len(text) > 20 for text in texts), name
    return sum(map(len, found.values()))


def write(path, data):
    path.write_bytes(data)
    return path


def hostile(files):
    """From a name to the content of a `.keras` file, well formed as a zip."""
    with zipfile.ZipFile(io.BytesIO(files["model.keras"])) as sound:
        config = sound.read("config.json").decode()
        weights = sound.read("model.weights.h5")
    other = json.loads(config)
    other["module"], other["class_name"] = "os", "system"
    return {
        "no object": archive("[1, 2]", weights),
        "no json": archive("{", weights),
        "deep": archive("[" * 100_000, weights),
        "twice": archive(config, weights, ["config.json", "config.json"]),
        "outside": archive(config, weights, ["config.json", "../escaped"]),
        "no weights": archive(config, b""),
        "cut weights": archive(config, weights[: len(weights) // 2]),
        "huge": archive(config.replace('"units": 8', '"units": 800000000')),
        "another class": archive(json.dumps(other), weights),
        "code": archive(
            config.replace('"class_name": "Dense"', '"class_name": "Lambda"'),
            weights,
        ),
    }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_keras_files(files, tmp_path):
    for name, data in hostile(files).items():
        path = write(tmp_path / "hostile.keras", data)
        assert outcome(path), name
        assert not (tmp_path.parent / "escaped").exists()


def test_archives_that_grow_are_not_opened(tmp_path):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("config.json", " " * 10_000_000)
        made.writestr("model.weights.h5", b"")
    path = write(tmp_path / "bomb.keras", memory.getvalue())
    assert "hundredfold" in outcome(path)


def changed(data, change):
    model = flatbuffer.load(data)
    change(model)
    return flatbuffer.dump(model)


def enormous(model):
    tensor = model.subgraphs[0].tensors[int(model.subgraphs[0].inputs[0])]
    tensor.shape = np.array([1, 2**31 - 1], np.int32)


def endless(model):
    code = model.operatorCodes[0]
    code.builtinCode = flatbuffer.schema().BuiltinOperator.WHILE
    code.deprecatedBuiltinCode = code.builtinCode


def another_scale(model):
    """A state that comes out as another number than it went in."""
    graph = model.subgraphs[0]
    line = graph.tensors[int(graph.outputs[1])]
    line.quantization.scale = line.quantization.scale * 1.001


@pytest.mark.parametrize("change", [enormous, endless, another_scale])
def test_hostile_tflite_files(files, tmp_path, change):
    data = changed(files["explicit.tflite"], change)
    assert outcome(write(tmp_path / "hostile.tflite", data))


def test_a_crash_costs_the_other_process_only(files, tmp_path, monkeypatch):
    path = write(tmp_path / "sound.tflite", files["explicit.tflite"])
    assert outcome(path) is None
    process = inspection._WORKER._process
    process.kill()
    process.wait()
    with monkeypatch.context() as patch:
        # As if it died after a look at whether it lives.
        patch.setattr(process, "poll", lambda: None)
        assert "signal 9" in outcome(path)
    # No process can start within the limit, nor be told all of this.
    monkeypatch.setattr(inspection, "SECONDS", 0.05)
    monkeypatch.setattr(inspection, "SECONDS_A_STEP", 0.0)
    slow = write(tmp_path / "slow.keras", files["model.keras"])
    assert "longer than 0.05 s" in outcome(slow)
    with pytest.raises(ValueError, match="longer than 0.05 s"):
        export.check(path, np.zeros((50_000, exports.FEATURES)))
    # Many steps may take their time.
    monkeypatch.setattr(inspection, "SECONDS_A_STEP", 0.1)
    assert export.check(path, steps=500).step_us > 0


def test_what_is_found(files, tmp_path):
    path = write(tmp_path / "m.tflite", files["explicit.tflite"])
    found = export.check(path, sequences(1)[0])
    assert found.bytes == len(files["explicit.tflite"])
    assert [t.name for t in found.inputs][0] == "input"
    for deviation in found.deviations:
        assert deviation.runtime == "TFLM beside LiteRT"
        assert deviation.steps == 150 and deviation.rms < 0.05
    assert "operators" in str(found)
    table = export.check(write(tmp_path / "m.keras", files["model.keras"]))
    assert "m_grade/recurrence" in table


def test_command_line_ends_with_an_error(files, tmp_path, capsys):
    broken = write(tmp_path / "cut.tflite", files["explicit.tflite"][:4000])
    command = [sys.executable, "-m", "keras_mgrade.export", "check", broken]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "error: Expected" in done.stderr
    cut = write(tmp_path / "cut.keras", files["model.keras"][:9000])
    target = tmp_path / "m.tflite"

    def run(*arguments):
        status = command_line.main([str(a) for a in arguments])
        return status, capsys.readouterr()

    for model, found in (
        (cut, "its end is missing"),
        (broken, "it is a .tflite file"),
        (tmp_path / "nowhere.keras", "there is no such file"),
        (tmp_path, "it is not a file"),
        (write(tmp_path / "m.keras", b"hello"), "starts with b'hello'"),
    ):
        status, printed = run("convert", model, target, "--precision=float32")
        assert status == 1 and "whole .keras file" in printed.err
        assert found in printed.err
    assert not target.exists()
    misnamed = write(tmp_path / "model.zip", files["model.keras"])
    status, printed = run("check", misnamed)
    assert status == 1 and "rename the file" in printed.err
    for wrong in (
        ["convert", cut],
        ["check", broken, "--precision=int3"],
        ["look", broken],
        [],
    ):
        assert run(*wrong)[0] == 2
    sound = write(tmp_path / "sound.tflite", files["explicit.tflite"])
    status, printed = run("check", sound)
    assert status == 0 and "operators" in printed.out
    status, printed = run("--help")
    assert status == 0 and "--delay_line" in printed.out


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_conversion_refuses_hostile_files(files, tmp_path):
    weird = hostile(files)
    for name in ("deep", "cut weights", "another class"):
        path = write(tmp_path / "hostile.keras", weird[name])
        with pytest.raises((ValueError, RuntimeError)):
            export.to_tflite(path, tmp_path / "m.tflite", "float32")
        assert not (tmp_path / "m.tflite").exists()


def test_a_folder_without_the_right_to_write_is_told_first(
    files, tmp_path, monkeypatch
):
    path = write(tmp_path / "m.keras", files["model.keras"])
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="right to write there"):
        export.to_tflite(path, tmp_path / "m.tflite", "float32")


def test_a_path_to_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="to be a file.*nowhere"):
        export.check(tmp_path / "nowhere.tflite")

"""What the conversion makes of a `.keras` file before it converts."""

import dataclasses
import importlib
import sys

import keras
import numpy as np
import pytest

import keras_mgrade
import test_export as exports
from keras_mgrade.export import child, container, to_tflite
from keras_mgrade.export.options import Options
from test_export import once, sequences

pytestmark = [exports.pytestmark, once]


@pytest.fixture
def half(tmp_path):
    """The path of a step model in half precision, input and states too."""
    x = keras.Input((None, 5), dtype="float16")
    layers = [
        keras.layers.Conv1D(4, 2, padding="causal", dtype="mixed_float16"),
        keras.layers.GRU(4, dtype="mixed_float16"),
    ]
    model = keras.Model(x, layers[1](layers[0](x)))
    stream = keras_mgrade.streaming_model(model)
    assert {t.dtype for t in stream.inputs} == {"float16"}
    stream.save(tmp_path / "half.keras")
    return model, tmp_path / "half.keras"


def test_a_stream_in_half_precision_becomes_float32(half):
    model, path = half
    stream, _ = child.load_stream(str(path), [])
    assert {t.dtype for t in stream.inputs + stream.outputs} == {"float32"}
    x = sequences(1, 20)
    step = keras_mgrade.compile_step(stream)
    y, _ = step(x, keras_mgrade.initial_states(stream))
    found, wanted = map(keras.ops.convert_to_numpy, (y[:, -1], model(x)))
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_a_stream_has_no_window(half):
    job = {
        "model": str(half[1]),
        "modules": [],
        "options": dataclasses.asdict(Options(("float32",), window=9)),
    }
    with pytest.raises(ValueError, match="trained model itself.*window=9"):
        child.convert_all(job)


def test_registered_functions_are_found(tmp_path, monkeypatch):
    """A file names them without their module."""
    source = (
        "import keras\n"
        "@keras.saving.register_keras_serializable('own')\n"
        "def doubled_tanh(x):\n"
        "    return keras.ops.tanh(2 * x)\n"
    )
    (tmp_path / "own_functions.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("own_functions").doubled_tanh
    dense = keras.layers.Dense(2, activation=function)
    model = keras.Sequential(
        [keras.Input((None, 3)), dense, keras_mgrade.MinGRU(2)]
    )
    saved = tmp_path / "model.keras"
    model.save(saved)
    path = tmp_path / "m.tflite"
    result = to_tflite(saved, path, "float32", proof_steps=50)
    assert "TANH" in result.operators
    config = container.read_config(saved)
    assert container.modules_of_functions(config) == ["own_functions"]
    with monkeypatch.context() as patch:
        patch.setattr(function, "__module__", "__main__")
        with pytest.raises(ValueError, match="Move 'doubled_tanh'"):
            container.modules_of_functions(config)
    # As in a process that has not imported the module.
    del keras.saving.get_custom_objects()["own>doubled_tanh"]
    monkeypatch.delitem(sys.modules, "own_functions")
    assert container.modules_of_functions(config) == []
    with pytest.raises(ValueError, match="import that before.*doubled_tanh"):
        child.load_stream(str(saved), [])
    child.load_stream(str(saved), ["own_functions"])

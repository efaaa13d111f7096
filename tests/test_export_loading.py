"""What the conversion makes of a `.keras` file before it converts."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_mgrade
import test_export as exports
from keras_mgrade.export import child
from keras_mgrade.export.options import Options
from test_export import sequences, tensorflow_only

pytestmark = [exports.pytestmark, tensorflow_only]


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
    np.testing.assert_allclose(y[:, -1], model(x), atol=2e-3)


def test_a_stream_has_no_window(half):
    job = {
        "model": str(half[1]),
        "modules": [],
        "options": dataclasses.asdict(Options(("float32",), window=9)),
    }
    with pytest.raises(ValueError, match="trained model itself.*window=9"):
        child.convert_all(job)

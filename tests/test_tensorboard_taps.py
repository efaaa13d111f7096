"""What TensorBoard gets to see is what the layers hold."""

import struct
import sys

import keras
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from budget import slow_except_on
from control import data
from keras_mgrade import DelayConv1D, MGrade, MinGRU, callbacks


def events(folder):
    """`{tag: {epoch: value}}` of the only event file in `folder`."""
    (path,) = folder.glob("events.out.tfevents.*")
    found, rest = {}, path.read_bytes()
    while rest:
        # A record: its length, a checksum, its bytes, a checksum.
        (length,) = struct.unpack("<Q", rest[:8])
        event = Event.FromString(rest[12 : 12 + length])
        rest = rest[16 + length :]
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value
    return found


@pytest.fixture
def model():
    layers = [
        MGrade(4, 3, 16, "integer", name="block"),
        DelayConv1D(2, 8, "gaussian", width=1.5, name="taps"),
        MinGRU(5, name="gru"),
    ]
    model = keras.Sequential([keras.Input((None, 3)), *layers], name="model")
    model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


def fit(model, rng, **arguments):
    x = data(rng, 8, 20)
    model.fit(x, np.zeros((8, 5)), verbose=0, **arguments)


def test_histograms_are_those_of_the_layers(model, rng, tmp_path):
    block, taps, gru = model.layers
    before = taps.delays
    callback = callbacks.TensorBoardTaps(tmp_path, histogram_freq=2)
    fit(model, rng, epochs=5, callbacks=[callback])
    found = events(tmp_path)
    paths = {
        block.convolution.path: ("delays", "kernel", "delay_line_in_use"),
        taps.path: ("delays", "kernel", "delay_line_in_use", "widths"),
        block.recurrence.path: ("time_constants",),
        gru.path: ("time_constants",),
    }
    assert set(found) == {
        f"{p}/{n}" for p, names in paths.items() for n in names
    }
    assert all(list(steps) == [0, 2, 4] for steps in found.values())

    start = found[f"{taps.path}/delays"][0].histo
    assert start.sum == pytest.approx(before.sum(), rel=1e-6)
    assert (start.min, start.max) == (before.min(), before.max())
    assert start.num == before.size
    # After four of five epochs the delays are no longer those of the start.
    later = found[f"{taps.path}/delays"][4].histo
    assert later.sum != start.sum
    widths = found[f"{taps.path}/widths"][4].histo
    assert (widths.min, widths.max) == (1.5, 1.5)
    in_use = found[f"{block.convolution.path}/delay_line_in_use"][4]
    assert in_use.simple_value == block.convolution.longest_delays().sum()


@slow_except_on("torch")
def test_the_last_epoch_is_what_training_ends_with(model, rng, tmp_path):
    fit(model, rng, epochs=3, callbacks=[callbacks.TensorBoardTaps(tmp_path)])
    written = events(tmp_path)[f"{model.layers[1].path}/delays"][3].histo
    delays = model.layers[1].delays
    assert written.sum == pytest.approx(delays.sum(dtype="float64"), rel=1e-6)


@slow_except_on("torch")
def test_a_training_that_diverged_is_written_too(model, rng, tmp_path):
    _, taps, gru = model.layers
    taps.kernel.assign(np.full(taps.kernel.shape, np.nan))
    gru.cell.bias.assign([np.inf, np.nan] + 8 * [0.0])
    fit(model, rng, callbacks=[callbacks.TensorBoardTaps(tmp_path)])
    found = events(tmp_path)
    assert f"{taps.path}/kernel" not in found
    assert found[f"{gru.path}/time_constants"][0].histo.num == 4


def test_without_the_package_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"keras_mgrade\[tensorboard\]"):
        callbacks.TensorBoardTaps(tmp_path)


def test_a_model_without_taps_is_refused(rng, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="DelayConv1D or MinGRU layer"):
        model.fit(
            np.zeros((4, 3)),
            np.zeros((4, 1)),
            verbose=0,
            callbacks=[callbacks.TensorBoardTaps(tmp_path)],
        )

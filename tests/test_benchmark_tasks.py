"""The loaders behind the committed tables, on small files of their formats."""

import wave

import keras
import numpy as np
import pytest
from keras import ops

import delay_tasks
import tasks
from keras_mgrade import DelayConv1D


@pytest.fixture
def clips(tmp_path, rng):
    """Recordings named as by their publishers, and the same in one file."""
    names = ("0_theo_4.wav", "3_lucas_5.wav", "9_theo_12.wav")
    sounds = [
        rng.integers(-9000, 9000, n).astype("<i2") for n in (900, 50, 9000)
    ]
    folder = tmp_path / "recordings"
    folder.mkdir()
    for name, samples in zip(names, sounds, strict=True):
        with wave.open(str(folder / name), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
    (folder / "readme.txt").write_text("not a sound")
    np.savez(
        tmp_path / "clips.npz",
        audio=np.concatenate(sounds),
        offsets=np.cumsum([0, *map(len, sounds)]),
        label=np.array([0, 3, 9], "uint8"),
        speaker=np.array([1, 0, 1], "uint8"),
        speaker_names=np.array(["lucas", "theo"]),
    )
    return folder, tmp_path / "clips.npz"


def test_spoken_digits_from_a_folder_and_from_a_file(clips):
    of_folder, of_file = map(tasks.read_clips, clips)
    for a, b in zip(of_folder[0], of_file[0], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(of_folder[1:], of_file[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert list(of_file[1]) == [0, 3, 9]
    task = tasks.digits(clips[0])
    assert task.x.shape == (1, 80, 32) and task.x_test.shape == (2, 80, 32)
    assert abs(task.x.mean()) < 1e-3 and abs(task.x.std() - 1) < 1e-3
    # 50 samples, then silence: the last half is one value.
    assert np.ptp(task.x[0, 40:]) == 0


def test_an_empty_folder_is_said(tmp_path):
    with pytest.raises(SystemExit, match="7_jackson_32.wav"):
        tasks.digits(tmp_path)


def test_pixels(tmp_path, rng):
    x = rng.integers(0, 256, (5, 28, 28)).astype("uint8")
    y = np.arange(5, dtype="uint8")
    path = tmp_path / "mnist.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    task = tasks.pixels(path)
    assert task.x.shape == (5, 196, 1) and task.classes == 5
    blocks = x[0].astype("float64").reshape(14, 2, 14, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(
        np.sort(task.x[0, :, 0]), np.sort(blocks.ravel() / 127.5 - 1), atol=1e-6
    )
    assert np.abs(task.x[0, :, 0] - (blocks.ravel() / 127.5 - 1)).max() > 0.1


def test_the_papers_rate_moves_delays_five_times_as_far():
    """In steps, at Adam's first update, which is the rate itself."""
    layer = DelayConv1D(1, 8, "gaussian", use_bias=False)
    model = keras.Sequential([keras.Input((20, 1)), layer])
    layer.set_delays([[3.0]])
    kernel = ops.convert_to_numpy(layer.kernel)
    model.compile(delay_tasks.FasterDelays(1e-3), "mse")
    x = np.random.default_rng(0).normal(size=(4, 20, 1))
    model.fit(x, np.roll(x, 5, axis=1), verbose=0)
    assert abs(layer.delays[0, 0] - 3) == pytest.approx(5e-3, rel=1e-2)
    moved = np.abs(ops.convert_to_numpy(layer.kernel) - kernel)[0, 0]
    assert moved == pytest.approx(1e-3, rel=1e-2)


def test_reads_are_what_a_kernel_is_worth():
    model = keras.Sequential(
        [
            keras.Input((20, 2)),
            DelayConv1D(1, 32, "gaussian", delay_initializer="zeros"),
        ]
    )
    # Width 0.8 at a whole step: 1 % is left at 2.4 steps.
    model.layers[0].set_delays([[16.0, 16.0]])
    assert delay_tasks.reads(model) == 5

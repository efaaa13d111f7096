"""The HAPT recordings of the examples, and the loader that reads them."""

import hashlib
import pathlib
import re

import numpy as np
import pytest

import hapt

DATA = pathlib.Path(hapt.__file__).resolve().parent / "data"

SUBJECTS = {
    "train": [1, 3, 5, 6, 7, 8, 11, 14, 15, 16, 17]
    + [19, 21, 22, 23, 25, 26, 27, 28, 29, 30],
    "test": [2, 4, 9, 10, 12, 13, 18, 20, 24],
}
CLASS_COUNTS = {
    "train": [1226, 1073, 987, 1293, 1423, 1413],
    "test": [496, 471, 420, 508, 556, 545],
}


@pytest.fixture(scope="module")
def splits():
    return {split: hapt.load(split) for split in ("train", "test")}


def test_files_are_small_and_as_published():
    readme = (DATA / "README.md").read_text()
    sums = dict(re.findall(r"^ {4}([0-9a-f]{64})  (\S+)$", readme, re.M))
    files = sorted(DATA.glob("*.npz"))
    assert sorted(sums.values()) == [path.name for path in files]
    for path in files:
        content = path.read_bytes()
        assert len(content) < 5_000_000
        assert f"{len(content):,}" in readme
        assert sums[hashlib.sha256(content).hexdigest()] == path.name


@pytest.mark.parametrize("split", ["train", "test"])
def test_subjects_and_counts(splits, split):
    recordings = splits[split]
    assert sorted({r.subject for r in recordings}) == SUBJECTS[split]
    x, y = recordings.windows()
    assert x.shape == (sum(CLASS_COUNTS[split]), 128, 6)
    assert x.dtype == np.float32
    assert np.bincount(y).tolist() == CLASS_COUNTS[split]
    subjects = recordings.window_subjects
    assert subjects.shape == y.shape
    assert sorted(set(subjects.tolist())) == SUBJECTS[split]


def test_every_recording_is_there_once(splits):
    both = [*splits["train"], *splits["test"]]
    assert sorted(r.experiment for r in both) == list(range(1, 62))
    assert sum(len(r.signal) for r in both) == 1_122_772


@pytest.mark.parametrize("split", ["train", "test"])
def test_recordings_are_consistent(splits, split):
    for recording in splits[split]:
        assert recording.signal.shape == (len(recording.labels), 6)
        assert recording.signal.dtype == np.float32
        assert set(recording.labels.tolist()) <= {-1, 0, 1, 2, 3, 4, 5}
        starts = zip(
            recording.window_starts, recording.window_labels, strict=True
        )
        for start, label in starts:
            window = recording.labels[start : start + hapt.WINDOW]
            assert (window == label).all()


def test_units_and_activities_are_plausible(splits):
    def of(name):
        label = hapt.CLASS_NAMES.index(name)
        parts = [r.signal[r.labels == label] for r in splits["train"]]
        return np.concatenate(parts)

    # At rest an accelerometer reads one g, upright along the first axis.
    for name in ("sitting", "standing", "laying"):
        size = np.linalg.norm(of(name)[:, :3], axis=1).mean()
        assert 0.95 < size < 1.05
    assert of("standing")[:, 0].mean() > 0.9
    assert abs(of("laying")[:, 0].mean()) < 0.3
    # Radians a second: walking turns the hip, standing does not.
    assert 0.1 < np.abs(of("walking")[:, 3:]).mean() < 1.0
    assert np.abs(of("standing")[:, 3:]).mean() < 0.1


def test_shorter_windows_are_the_beginnings(splits):
    x, y = splits["test"].windows()
    short, same = splits["test"].windows(length=32)
    np.testing.assert_array_equal(short, x[:, :32])
    np.testing.assert_array_equal(same, y)
    with pytest.raises(ValueError, match="Received: length=129"):
        splits["test"].windows(length=129)


def test_what_cannot_be_loaded_is_refused(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="Received: split='all'"):
        hapt.load("all")
    monkeypatch.setattr(hapt, "DATA", tmp_path)
    with pytest.raises(FileNotFoundError, match="complete checkout"):
        hapt.load("test")

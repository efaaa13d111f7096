"""Loads the HAPT recordings that lie in `examples/data`.

Thirty people wore a smartphone at the waist; its accelerometer and gyroscope
were recorded at 50 Hz while they walked, climbed stairs, sat, stood and lay
down. Twenty-one of them are the training split, nine the test split, as the
publishers of the data divided them.

    import hapt

    train = hapt.load("train")
    x, y = train.windows()  # (7415, 128, 6) and (7415,)
    whole = train[0].signal  # one recording, several minutes long

`examples/data/README.md` says where the data come from and under what terms.
"""

import dataclasses
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).resolve().parent / "data"

FILES = {
    "train": ("hapt_train_1.npz", "hapt_train_2.npz"),
    "test": ("hapt_test.npz",),
}

SAMPLE_RATE = 50  # samples a second
WINDOW = 128  # samples in an official window

# In g, and in radians a second.
CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")

CLASS_NAMES = (
    "walking",
    "walking upstairs",
    "walking downstairs",
    "sitting",
    "standing",
    "laying",
)


@dataclasses.dataclass(frozen=True)
class Recording:
    """One uninterrupted recording of one person.

    Attributes:
        signal: float32 `(time, 6)`, in the order and units of `CHANNELS`.
        labels: int32 `(time,)`: for every sample an index into `CLASS_NAMES`,
            or -1 where there is no label or a short transition between two
            postures.
        subject: the person's number, 1 to 30.
        experiment: the recording's number in the original set, 1 to 61.
        window_starts: int32 `(windows,)`: first samples of the official
            windows of the six activities.
        window_labels: int32 `(windows,)`: their classes.
    """

    signal: np.ndarray
    labels: np.ndarray
    subject: int
    experiment: int
    window_starts: np.ndarray
    window_labels: np.ndarray


class Recordings(tuple):
    """The recordings of one split: a tuple of `Recording`."""

    @property
    def window_subjects(self):
        """int32 `(windows,)`: who is seen in each row of `windows()`."""
        subjects = np.array([recording.subject for recording in self], "int32")
        counts = [len(recording.window_starts) for recording in self]
        return np.repeat(subjects, counts)

    def windows(self, length=WINDOW):
        """Cuts out the official windows, recording after recording.

        A window is labelled with the one activity that fills it; successive
        windows overlap by half.

        Args:
            length: how many of each window's 128 samples, from its start.

        Returns:
            float32 `(windows, length, 6)` and int32 `(windows,)`.
        """
        if not 1 <= length <= WINDOW:
            raise ValueError(
                f"`length` must be between 1 and {WINDOW}, the samples that "
                f"carry the window's label. Received: length={length}"
            )
        within = np.arange(length)
        signals = [
            recording.signal[recording.window_starts[:, None] + within]
            for recording in self
        ]
        labels = [recording.window_labels for recording in self]
        return np.concatenate(signals), np.concatenate(labels)


def load(split="train"):
    """Reads one split of the data.

    Args:
        split: `"train"` (21 people) or `"test"` (9 others).

    Returns:
        `Recordings`, in the order of the experiments' numbers.
    """
    if split not in FILES:
        raise ValueError(
            f"`split` must be 'train' or 'test'. Received: split={split!r}"
        )
    recordings = []
    for name in FILES[split]:
        recordings += _read(DATA / name)
    return Recordings(sorted(recordings, key=lambda r: r.experiment))


def _read(path):
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. It is part of the repository: run the "
            "examples from a complete checkout."
        )
    with np.load(path, allow_pickle=False) as archive:
        arrays = dict(archive)

    scale = arrays["channel_scale"].astype("float32")
    basic = arrays["window_label"] < len(CLASS_NAMES)
    starts = arrays["window_start"][basic]
    window_labels = arrays["window_label"][basic].astype("int32")

    labels = np.full(len(arrays["signal"]), -1, "int32")
    for _, _, label, start, end in arrays["segments"]:
        if label < len(CLASS_NAMES):
            labels[start:end] = label

    offsets = arrays["experiment_offsets"]
    for index, experiment in enumerate(arrays["experiment"]):
        first, last = offsets[index], offsets[index + 1]
        here = (starts >= first) & (starts < last)
        yield Recording(
            # C order, as whatever cuts time steps out of it expects.
            signal=np.ascontiguousarray(arrays["signal"][first:last]) * scale,
            labels=labels[first:last],
            subject=int(arrays["experiment_user"][index]),
            experiment=int(experiment),
            window_starts=starts[here] - first,
            window_labels=window_labels[here],
        )

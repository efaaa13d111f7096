"""Spoken words: recordings, front end, model and training of the tutorial.

The recordings are one second long, twelve classes of Google Speech Commands
(Pete Warden, CC BY 4.0): ten words, other words, and silence. They enter the
model as a microphone gives them, 10 ms at a time; loudness, bands and
logarithms are part of the model and so of the file on the device.
"""

import dataclasses
import hashlib
import pathlib
import re
import tarfile

import keras
import numpy as np
import scipy.io.wavfile
import scipy.signal
from keras import ops

from keras_mgrade.models import mgrade_classifier

RATE = 8000  # samples a second
FRAME = 80  # samples, 10 ms
FRAMES = 100  # one second
BANDS = 40
BATCH = 64  # clips a training step
PEAK = 6e-3  # learning rate after the warm-up
FLOOR = 3e-3  # where sound begins to be heard; full scale is 1
SMALL = pathlib.Path(__file__).resolve().parent / "data" / "keywords_small.npz"
# The test archive of Speech Commands v0.02, twelve classes, 112 MB.
ARCHIVE = (
    "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz"
)
CLASS_NAMES = tuple(
    "_silence_ _unknown_ yes no up down left right on off stop go".split()
)


@dataclasses.dataclass(frozen=True)
class Recordings:
    """One part of the recordings.

    Attributes:
        x: float32 `(clips, steps, FRAME)`, full scale is 1.
        y: int32 `(clips,)`: for every clip its class.
    """

    x: np.ndarray
    y: np.ndarray


def load(path=None):
    """Training, validation and test recordings, no speaker in two of them.

    Args:
        path: A folder with a folder of `.wav` files for each class, the
            publishers' archive of it, or an `.npz` file of the same with
            `audio` at 8 kHz, `label` and `split`. `None` downloads the
            publishers' archive.
    """
    path = pathlib.Path(path or download())
    audio, labels, parts = read_npz(path) if path.is_file() else read(path)
    x = framed(audio)
    y = labels.astype("int32")
    return [Recordings(x[parts == part], y[parts == part]) for part in range(3)]


def download():
    archive = keras.utils.get_file(origin=ARCHIVE)
    folder = pathlib.Path(archive).parent / "speech_commands_test_set"
    if not folder.is_dir():
        part = folder.with_suffix(".part")
        with tarfile.open(archive) as opened:
            opened.extractall(part, filter="data")
        part.rename(folder)
    return folder


def read_npz(path):
    """`(audio, labels, part of each clip)` of an `.npz` file."""
    with np.load(path, allow_pickle=False) as file:
        audio = file["audio"] / np.float32(32768)
        return audio, file["label"], file["split"]


def read(folder):
    """The same of folders of `.wav` files."""
    files = [
        (label, path)
        for label, name in enumerate(CLASS_NAMES)
        for path in sorted(folder.glob(f"{name}/*.wav"))
    ]
    if not files:
        raise SystemExit(
            f"expected folders such as {CLASS_NAMES[2]!r} with .wav files in "
            f"{folder}"
        )
    audio = np.zeros((len(files), FRAMES * FRAME), "float32")
    for row, (_, path) in zip(audio, files, strict=True):
        rate, samples = scipy.io.wavfile.read(path)
        samples = scipy.signal.resample_poly(samples / 32768.0, RATE, rate)
        row[: len(samples)] = samples[: len(row)]
    labels = np.array([label for label, _ in files])
    return audio, labels, np.array([part_of(path.name) for _, path in files])


def part_of(name):
    """0 to train, 1 to validate, 2 to test: one of them for each speaker."""
    speaker = re.search(r"[0-9a-f]{8}(?=_nohash)", name)
    text = speaker.group() if speaker else name
    share = int(hashlib.sha1(text.encode()).hexdigest(), 16) % 100
    return 2 if share < 20 else 1 if share < 30 else 0


def calibration(recordings, clips=128):
    """Clips of all classes and speakers: files have one class after another."""
    picks = np.linspace(0, len(recordings.x) - 1, clips).astype(int)
    return recordings.x[np.unique(picks)]


def framed(audio):
    """`(clips, steps, FRAME)`, from `(clips, samples)`."""
    return np.asarray(audio, "float32").reshape(len(audio), -1, FRAME)


def mel_waves():
    """One cosine and one sine a band, `(2, FRAME, BANDS)`, of power 1."""
    mel = np.linspace(mels(100.0), mels(3700.0), BANDS)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    phase = 2 * np.pi * hertz * np.arange(FRAME)[:, None] / RATE
    window = np.sqrt(np.hanning(FRAME + 2)[1:-1, None])
    waves = window * np.stack([np.cos(phase), np.sin(phase)])
    return waves / np.sqrt(np.sum(waves**2, axis=1, keepdims=True))


def mels(hertz):
    return 2595 * np.log10(1 + hertz / 700)


def log_bands(frames):
    """Loudness in bands: what a spectrogram shows of one frame.

    A pair of learned filters for each band, the power of both, a logarithm.
    """
    cosine, sine = (
        keras.layers.Dense(BANDS, use_bias=False, name=name)(frames)
        for name in ("cosine", "sine")
    )
    power = cosine * cosine + sine * sine
    bands = ops.log(1 + power / FLOOR**2) / 4
    # Does nothing, and has a name to be found by.
    return keras.layers.Activation("linear", name="bands")(bands)


def with_front_end(body):
    """A model of raw frames, from one of `BANDS` channels."""
    frames = keras.Input((None, FRAME), name="frames")
    x = log_bands(frames)
    for layer in body.layers:
        x = layer(x)
    model = keras.Model(frames, x, name="words")
    for name, waves in zip(("cosine", "sine"), mel_waves(), strict=True):
        model.get_layer(name).set_weights([waves])
    return model


def make_model(classes=12, body=None, **changes):
    """Raw frames in, one answer after the last of them out.

    `body` are layers instead of the mGRADE ones, `changes` are arguments of
    `MGrade` that differ.
    """
    model = mgrade_classifier(
        BANDS,
        classes,
        max_delay=32,
        pooling="exponential",
        time_constant=30.0,
        **{
            "interpolation": "integer",
            "normalization": "batch",
            "dropout": 0.2,
            **changes,
        },
    )
    if body is not None:
        *_, logits, pool = model.layers
        frames = keras.Input((None, BANDS))
        model = keras.Sequential([frames, *body, logits, pool])
    return with_front_end(model)


class Shaken(keras.utils.PyDataset):
    """Clips moved in time, louder or softer, and with noise."""

    def __init__(self, recordings, batch_size, seed):
        super().__init__()
        self.x, self.y = recordings.x, recordings.y
        self.batch_size = batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.x))

    def __getitem__(self, index):
        size = self.batch_size
        rows = np.resize(self.order[index * size :], size)
        clips = self.x[rows].reshape(size, -1)
        moved = np.zeros_like(clips)
        shifts = self.random.integers(-800, 801, size)
        for row, clip, by in zip(moved, clips, shifts, strict=True):
            end = len(clip) - abs(by)
            row[max(by, 0) :][:end] = clip[max(-by, 0) :][:end]
        gain = np.exp(self.random.normal(0, 0.5, (size, 1)))
        noise = np.exp(self.random.uniform(np.log(1e-4), np.log(1e-2), size))
        noise = noise[:, None] * self.random.normal(size=moved.shape)
        return framed(np.clip(gain * moved + noise, -1, 1)), self.y[rows]


def train(model, recordings, epochs, seed=0, rate=PEAK, **fitting):
    """Trains on clips that are shaken anew in every epoch."""
    batches = Shaken(recordings, BATCH, seed)
    steps = epochs * len(batches)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=rate, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.02, global_clipnorm=1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model.fit(batches, epochs=epochs, **fitting)


def accuracy(model, recordings):
    answers = model.predict(recordings.x, batch_size=256, verbose=0)
    return float(np.mean(answers.argmax(axis=-1) == recordings.y))

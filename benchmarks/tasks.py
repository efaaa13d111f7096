"""Real tasks on which ways of learning delays are compared.

Each task makes a model of two mGRADE layers, trains it and scores it on its
test set. `activity` lies in `examples/data`; the others are downloaded, or
read from a file or folder of yours.
"""

import pathlib
import re
import sys
import wave

import keras
import numpy as np

sys.path.insert(
    0, str(pathlib.Path(__file__).resolve().parent.parent / "examples")
)

import activity  # noqa: E402
import hapt  # noqa: E402
import keywords  # noqa: E402, F401
from keras_mgrade import callbacks  # noqa: E402
from keras_mgrade.models import mgrade_classifier  # noqa: E402

SPAN = 64


class Sequences:
    """Classification of whole sequences: one answer, the mean over time."""

    rate = 4e-3

    def __init__(self, train, test, epochs, batch_size=64):
        (self.x, self.y), (self.x_test, self.y_test) = train, test
        self.epochs, self.batch_size = epochs, batch_size
        self.classes = int(self.y.max()) + 1

    def make_model(self, seed, units=32, max_delay=SPAN, **taps):
        keras.utils.set_random_seed(seed)
        return mgrade_classifier(
            self.x.shape[-1],
            self.classes,
            units,
            max_delay=max_delay,
            pooling="mean",
            **{"convolution_on_input": False, **taps},
        )

    def fit(self, model, extra=(), part=1.0, optimizer=keras.optimizers.Adam):
        """Trains for a `part` of the epochs at that part of the rate."""
        count = max(64, round(min(part * self.epochs, 1) * len(self.x)))
        epochs = max(1, round(part * self.epochs))
        steps = epochs * -(-count // self.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0,
            steps,
            warmup_target=part * self.rate,
            warmup_steps=steps // 20,
        )
        model.compile(
            optimizer(schedule, global_clipnorm=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        model.fit(
            self.x[:count],
            self.y[:count],
            self.batch_size,
            epochs,
            verbose=0,
            callbacks=list(extra),
        )

    def regrowth(self):
        data = (self.x, self.y)
        return callbacks.RegrowDelays(data, batch_size=self.batch_size)

    @property
    def some_inputs(self):
        return self.x[:64]

    def accuracy(self, model):
        logits = model.predict(self.x_test, batch_size=256, verbose=0)
        return float(np.mean(logits.argmax(axis=-1) == self.y_test))


class Activity:
    """The recogniser of the quickstart, on the nine test subjects.

    Right answers among the labelled samples of whole recordings.
    """

    def __init__(self, steps=1000):
        self.settings = activity.Settings(steps=steps, delay_price=0.0)
        self.train, self.test = hapt.load("train"), hapt.load("test")
        self.seen = activity.through_front_end(self.train, self.settings)

    def make_model(self, seed, **changes):
        self.seed = seed
        keras.utils.set_random_seed(seed)
        return activity.make_model(self.settings, **changes)

    def fit(self, model, extra=(), part=1.0, optimizer=keras.optimizers.Adam):
        settings = activity.dataclasses.replace(
            self.settings,
            steps=round(part * self.settings.steps),
            learning_rate=part * self.settings.learning_rate,
        )
        activity.fit(
            model,
            self.seen,
            settings,
            self.seed,
            verbose=0,
            optimizer=optimizer,
            extra=extra,
        )

    def regrowth(self):
        return activity.regrowth(self.seen, self.settings, self.seed)

    @property
    def some_inputs(self):
        batch = activity.Stretches(self.seen, self.settings, 1, self.seed)
        return batch[0][0]

    def accuracy(self, model):
        whole = activity.with_front_end(model, self.settings)
        logits = activity.whole_sequence_logits(whole, self.test)
        return activity.sample_accuracy(logits, self.test)


def activities(data=None):
    """Six activities of people with a smartphone at the waist."""
    if data is not None:
        raise SystemExit("the activity data come with the examples")
    return Activity()


def pixels(data=None):
    """MNIST, 2 x 2 pixels averaged, in one random order: 196 steps.

    Trained on the first 40,000 images: the rest is for choosing settings.

    Args:
        data: An `mnist.npz` as Keras has it; `None` downloads it.
    """
    if data is None:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    else:
        with np.load(data, allow_pickle=False) as file:
            x, y, x_test, y_test = (
                file[name]
                for name in ("x_train", "y_train", "x_test", "y_test")
            )
    order = np.random.default_rng(0).permutation(196)

    def sequences(images):
        blocks = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))
        values = blocks.reshape(-1, 196)[:, order, None] / 127.5 - 1
        return values.astype("float32")

    train, test = (
        (sequences(a), b.astype("int32")) for a, b in ((x, y), (x_test, y_test))
    )
    train = tuple(a[:40000] for a in train)
    return Sequences(train, test, epochs=2)


def digits(data=None):
    """Spoken digits of six people (FSDD), 32 log-mel bands, 10 ms a step.

    Trained on four of them, tested on the other two.

    Args:
        data: The folder `recordings` of the data set, or an `.npz` file of
            the same with `audio`, `offsets`, `label`, `speaker` and
            `speaker_names`. `None` downloads the publishers' archive.
    """
    clips, labels, speakers = read_clips(data or download_digits())
    is_test = np.isin(speakers, ("theo", "yweweler"))
    x = log_mel(clips)
    mean, deviation = x[~is_test].mean(), x[~is_test].std()
    x = ((x - mean) / deviation).astype("float32")
    return Sequences(
        (x[~is_test], labels[~is_test]),
        (x[is_test], labels[is_test]),
        epochs=20,
        batch_size=32,
    )


def download_digits():
    folder = keras.utils.get_file(
        "free-spoken-digit-dataset",
        "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/"
        "26eb9aaf76e81b692f806f9140c2d2777410d7a1.tar.gz",
        extract=True,
    )
    return next(pathlib.Path(folder).rglob("recordings"))


def read_clips(path):
    """`(clips in -1 to 1, labels, who speaks)`."""
    path = pathlib.Path(path)
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            audio, offsets = file["audio"] / 32768.0, file["offsets"]
            clips = np.split(audio, offsets[1:-1])
            speakers = file["speaker_names"][file["speaker"]]
            return clips, file["label"].astype("int32"), speakers
    names = re.compile(r"(\d)_([a-z]+)_\d+\.wav")
    found = [
        (match, file)
        for file in sorted(path.iterdir())
        if (match := names.fullmatch(file.name))
    ]
    if not found:
        raise SystemExit(f"no recordings such as 7_jackson_32.wav in {path}")
    clips = []
    for _, file in found:
        with wave.open(str(file)) as sound:
            samples = sound.readframes(sound.getnframes())
        clips.append(np.frombuffer(samples, "<i2") / 32768.0)
    labels = np.array([int(match[1]) for match, _ in found], "int32")
    return clips, labels, np.array([match[2] for match, _ in found])


def log_mel(clips, frames=80, bands=32, stride=80):
    """`(clips, frames, bands)` in decibels; 0.8 s, silence after the end.

    Each clip is as loud as the others at its loudest.
    """
    audio = np.zeros((len(clips), (frames - 1) * stride), "float32")
    for row, clip in zip(audio, clips, strict=True):
        loudest = max(np.max(np.abs(clip)), 1e-9)
        row[: len(clip)] = clip[: len(row)] / loudest
    layer = keras.layers.MelSpectrogram(
        fft_length=256,
        sequence_length=200,
        sequence_stride=stride,
        sampling_rate=8000,
        num_mel_bins=bands,
        min_power=1e-4,
        top_db=200.0,
    )
    parts = [
        keras.ops.convert_to_numpy(layer(part))
        for part in np.array_split(audio, max(1, len(audio) // 100))
    ]
    return np.concatenate(parts).transpose(0, 2, 1)


TASKS = {"activity": activities, "digits": digits, "pixels": pixels}

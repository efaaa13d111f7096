"""Three tasks for a device, and the models that are trained for them.

Two mGRADE layers of width 32 in each, with batch or with layer normalisation.
Sound enters as raw frames of 10 ms, so that nothing stands between microphone
and graph.
"""

import pathlib

import keras
import numpy as np
from keras import ops

from keras_mgrade.models import mgrade_classifier
from tasks import activity, hapt

NORMALIZATIONS = ("batch", "layer")
FRAME = 80  # samples, 10 ms at 8 kHz
LOUDNESS = 30.0  # of the logarithm, as in telephony


def front_end(samples):
    """Loud and quiet within a few octaves, sample by sample; no weights."""
    positive = ops.relu(samples)
    negative = positive - samples
    logs = [ops.log(1 + LOUDNESS * part) for part in (positive, negative)]
    return (logs[0] - logs[1]) * np.float32(2 / np.log1p(LOUDNESS))


class Clips:
    """Clips of one word each, as frames; an answer after the last one.

    A stream goes from clip to clip without being set back only in the proof
    of a file; accuracy is that of every clip from a fresh start.
    """

    rate, batch_size, time_constant = 3e-3, 64, 30.0

    def __init__(self, train, test, epochs):
        (self.x, self.y), (self.x_test, self.y_test) = train, test
        self.epochs = epochs
        self.classes = int(self.y.max()) + 1

    def make_model(self, normalization, seed):
        keras.utils.set_random_seed(seed)
        return mgrade_classifier(
            FRAME,
            self.classes,
            kernel_size=8,
            max_delay=32,
            interpolation="integer",
            normalization=normalization,
            dropout=0.2,
            pooling="exponential",
            time_constant=self.time_constant,
        )

    def train(self, model, seed):
        steps = self.epochs * -(-len(self.x) // self.batch_size)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, steps, warmup_target=self.rate, warmup_steps=steps // 20
        )
        model.compile(
            keras.optimizers.AdamW(
                schedule, weight_decay=0.02, global_clipnorm=1.0
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        model.fit(
            Shaken(self.x, self.y, self.batch_size, seed),
            epochs=self.epochs,
            verbose=2,
        )

    def finished(self, model):
        """The model with its front end: raw frames in."""
        frames = keras.Input((None, FRAME), name="frames")
        x = front_end(frames)
        for layer in model.layers:
            x = layer(x)
        return keras.Model(frames, x, name="words")

    def streams(self):
        """`(sequence, label of each step or -1)` of the test set."""
        for x, y in zip(self.x_test, self.y_test, strict=True):
            labels = np.full(len(x), -1)
            labels[-1] = y
            yield x, labels

    def calibration(self):
        return self.x[:128]


class Shaken(keras.utils.PyDataset):
    """Clips that are moved in time, louder or softer, and noisy."""

    def __init__(self, x, y, batch_size, seed):
        super().__init__()
        self.x, self.y, self.batch_size = x, y, batch_size
        self.random = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.x) // self.batch_size)

    def on_epoch_end(self):
        self.order = self.random.permutation(len(self.x))

    def __getitem__(self, index):
        rows = np.resize(self.order[index * self.batch_size :], self.batch_size)
        clips = self.x[rows].reshape(self.batch_size, -1)
        shifts = self.random.integers(-800, 801, self.batch_size)
        moved = np.zeros_like(clips)
        for row, clip, by in zip(moved, clips, shifts, strict=True):
            end = len(clip) - abs(by)
            row[max(by, 0) :][:end] = clip[max(-by, 0) :][:end]
        gain = np.exp(self.random.normal(0, 0.3, (self.batch_size, 1)))
        noise = self.random.normal(0, 0.02, moved.shape)
        moved = (gain * moved + noise).astype("float32")
        frames = moved.reshape(self.x[rows].shape)
        return compressed(frames), self.y[rows]


def compressed(frames):
    """`front_end` in NumPy, for training."""
    logs = np.log1p(LOUDNESS * np.abs(frames)) / np.log1p(LOUDNESS)
    return (2 * np.sign(frames) * logs).astype("float32")


def framed(clips, frames):
    """`(clips, frames, 80)`, each as loud as the others at its loudest."""
    audio = np.zeros((len(clips), frames * FRAME), "float32")
    for row, clip in zip(audio, clips, strict=True):
        loudest = max(float(np.max(np.abs(clip))), 1e-3)
        row[: len(clip)] = clip[: len(row)] / loudest
    return audio.reshape(len(clips), frames, FRAME)


def digits(data):
    """Spoken digits (FSDD), its official split: recordings 0 to 4 test."""
    with np.load(data, allow_pickle=False) as file:
        content = dict(file)
    audio = content["audio"] / 32768.0
    clips = np.split(audio, content["offsets"][1:-1])
    x, y = framed(clips, 100), content["label"].astype("int32")
    test = content["is_test"]
    return Clips((x[~test], y[~test]), (x[test], y[test]), epochs=60)


def keywords(data):
    """Twelve classes of Speech Commands, speakers of the test unheard."""
    with np.load(data, allow_pickle=False) as file:
        content = dict(file)
    x = framed(content["audio"] / 32768.0, 100)
    y, split = content["label"].astype("int32"), content["split"]
    parts = [(x[split == part], y[split == part]) for part in (0, 2)]
    return Clips(*parts, epochs=60)


class Activity:
    """The recogniser of the quickstart, a stream for each recording."""

    def __init__(self, data=None):
        self.settings = activity.Settings(steps=2000, interpolation="integer")
        self.recordings = hapt.load("train")
        self.test = hapt.load("test")

    def make_model(self, normalization, seed):
        keras.utils.set_random_seed(seed)
        return activity.make_model(
            self.settings, normalization=normalization, delay_regularizer=None
        )

    def train(self, model, seed):
        seen = activity.through_front_end(self.recordings, self.settings)
        activity.fit(model, seen, self.settings, seed, verbose=2)

    def finished(self, model):
        """The model with its front end."""
        return activity.with_front_end(model, self.settings)

    def streams(self):
        """`(sequence, label of each step or -1)` of the test set."""
        for recording in self.test:
            yield recording.signal, recording.labels

    def calibration(self):
        return activity.calibration(self.recordings, 500)


TASKS = {"activity": Activity, "digits": digits, "keywords": keywords}


def trained(folder, name, task, normalization, seed=0):
    """The finished model: from a file, or trained and put there."""
    path = pathlib.Path(folder) / f"{name}_{normalization}_{seed}.keras"
    if not path.is_file():
        model = task.make_model(normalization, seed)
        task.train(model, seed)
        part = path.with_suffix(".part.keras")
        task.finished(model).save(part)
        part.rename(path)
    return path

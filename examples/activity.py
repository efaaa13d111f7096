"""The activity recogniser of the quickstart: model, training, scores."""

import dataclasses

import keras
import numpy as np
from keras import ops

import hapt
import keras_mgrade

# The finest ranges of a common motion sensor, 2 g and 250 degrees a second;
# what is faster saturates, as it does there.
FULL_SCALE = np.array([2.0] * 3 + [np.deg2rad(250)] * 3, "float32")
# What full scale becomes: values of order 1 suit the initial weights.
GAIN = 4.0
# Which channels are turn rates.
TURNS = np.array([0.0] * 3 + [1.0] * 3, "float32")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Chosen on six training subjects held out, never on the test subjects.

    Attributes:
        compression: How much finer the front end resolves small turn rates
            than large ones; 0 is not at all.
        units: Channels of each of the two mGRADE blocks.
        kernel_size: Taps a channel.
        max_delay: Longest delay, in samples (1.28 s at 50 Hz).
        interpolation: How taps read between samples.
        regrow: Whether taps jump to where the loss wants them.
        delay_price: Loss a byte of delay line.
        stretch: Length of a training example, in samples; longer than a
            window, so that the model learns to run on.
        settle: Samples of a stretch before its answers count.
        batch_size: Stretches a step.
        steps: Training steps.
        learning_rate: Peak of a cosine schedule with warm-up.
        rotation: Standard deviation of random rotations, in radians.
        scaling: Standard deviation of random log gains.
        dropout: Fraction of the minGRU outputs to drop.
    """

    compression: float = 30.0
    units: int = 32
    kernel_size: int = 8
    max_delay: int = 64
    interpolation: str = "linear"
    regrow: bool = False
    delay_price: float = 1e-3
    stretch: int = 256
    settle: int = 32
    batch_size: int = 32
    steps: int = 3500
    learning_rate: float = 4e-3
    rotation: float = 0.15
    scaling: float = 0.1
    dropout: float = 0.1


def front_end(samples, settings):
    """What the first layer reads, from raw samples; it has no weights.

    Accelerations stay as they are, turn rates go through the mu-law of
    telephony: one who stands sways by hundredths of a radian a second, one
    who walks turns a hundred times faster, and both tell activities apart.
    """
    share = ops.clip(samples / FULL_SCALE, -1, 1)
    mu = settings.compression
    if not mu:
        return share * GAIN
    left = ops.relu(share)
    right = left - share
    spread = ops.log(1 + left * mu) - ops.log(1 + right * mu)
    turns = TURNS * GAIN / np.float32(np.log1p(mu))
    # PyTorch's own operators warn of arrays.
    return ops.multiply(share, (1 - TURNS) * GAIN) + ops.multiply(spread, turns)


def make_model(settings, body=None, **changes):
    """Output of `front_end` in, at every step the logits of six activities.

    `body` are layers instead of the mGRADE ones, `changes` are arguments of
    `MGrade` that differ.
    """
    price = None
    if settings.delay_price:
        price = keras_mgrade.regularizers.DelayLength(settings.delay_price)
    block = {
        "units": settings.units,
        "kernel_size": settings.kernel_size,
        "max_delay": settings.max_delay,
        "interpolation": settings.interpolation,
        "dropout": settings.dropout,
        "delay_regularizer": price,
        **changes,
    }
    if body is None:
        body = [
            # Delay lines of six raw channels cost a fifth of 32.
            keras_mgrade.MGrade(
                **block, convolution_on_input=True, name="block_1"
            ),
            keras_mgrade.MGrade(**block, name="block_2"),
        ]
    return keras.Sequential(
        [
            keras.Input((None, len(hapt.CHANNELS))),
            *body,
            keras.layers.Dense(len(hapt.CLASS_NAMES), name="activity"),
        ]
    )


def with_front_end(model, settings):
    """The whole recogniser: raw samples in, in g and radians a second."""
    samples = keras.Input((None, len(hapt.CHANNELS)), name="samples")
    x = front_end(samples, settings)
    for layer in model.layers:
        x = layer(x)
    return keras.Model(samples, x, name="activity_recogniser")


class Stretches(keras.utils.PyDataset):
    """Random stretches of the recordings, an answer due at every sample."""

    def __init__(self, recordings, settings, batches, seed):
        super().__init__()
        self.recordings = recordings
        self.settings = settings
        self.batches = batches
        self.seed = seed
        self.epoch = 0
        lengths = np.array([len(r.labels) for r in recordings])
        self.chances = lengths / lengths.sum()

    def __len__(self):
        return self.batches

    def on_epoch_end(self):
        self.epoch += 1

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, self.epoch, index))
        size, length = self.settings.batch_size, self.settings.stretch
        x = np.empty((size, length, len(hapt.CHANNELS)), "float32")
        y = np.empty((size, length), "int32")
        picks = rng.choice(len(self.recordings), size, p=self.chances)
        for row, recording in enumerate(self.recordings[i] for i in picks):
            start = rng.integers(len(recording.labels) - length)
            cut = slice(start, start + length)
            x[row], y[row] = recording.signal[cut], recording.labels[cut]
        # Samples without a label, and the first ones, teach nothing.
        weights = (y >= 0).astype("float32")
        weights[:, : self.settings.settle] = 0
        return self._vary(x, rng), np.maximum(y, 0), weights

    def _vary(self, x, rng):
        """As if the phone sat a little differently and read a little off."""
        size = len(x)
        turns = rotations(rng.normal(0, self.settings.rotation, (size, 3)))
        gains = np.exp(rng.normal(0, self.settings.scaling, (size, 1, 2, 1)))
        # Accelerometer and gyroscope turn together.
        x = gains * (x.reshape(size, -1, 2, 3) @ turns[:, None])
        return x.reshape(size, -1, 6).astype("float32")


def rotations(vectors):
    """Rotation matrices `(n, 3, 3)` of rotation vectors (Rodrigues)."""
    angles = np.linalg.norm(vectors, axis=1)[:, None, None] + 1e-12
    a, b, c = vectors.T
    zero = np.zeros_like(a)
    cross = np.array([[zero, -c, b], [c, zero, -a], [-b, a, zero]])
    cross = cross.transpose(2, 0, 1) / angles
    turned = np.sin(angles) * cross + (1 - np.cos(angles)) * cross @ cross
    return np.eye(3) + turned


def through_front_end(recordings, settings):
    """Once over all samples: nothing in the front end is trained."""
    # At a stretch: JAX compiles anew for every length it sees.
    samples = np.concatenate([r.signal for r in recordings])
    heard = ops.convert_to_numpy(front_end(samples, settings))
    ends = np.cumsum([len(r.signal) for r in recordings])[:-1]
    return [
        dataclasses.replace(r, signal=signal)
        for r, signal in zip(recordings, np.split(heard, ends), strict=True)
    ]


def fit(
    model,
    recordings,
    settings,
    seed=0,
    epochs=10,
    verbose="auto",
    optimizer=keras.optimizers.Adam,
    extra=(),
):
    """Trains the output of `make_model` on that of `through_front_end`."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        settings.steps,
        warmup_target=settings.learning_rate,
        warmup_steps=settings.steps // 20,
    )
    model.compile(
        optimizer(schedule, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        ],
    )
    batches = Stretches(recordings, settings, settings.steps // epochs, seed)
    callbacks = list(extra)
    if settings.regrow:
        callbacks.append(regrowth(recordings, settings, seed))
    model.fit(batches, epochs=epochs, verbose=verbose, callbacks=callbacks)


def regrowth(recordings, settings, seed):
    """Taps that jump, probed on stretches of its own: those of the training
    stay as they would be."""
    probes = Stretches(recordings, settings, 64, seed + 1000)
    return keras_mgrade.callbacks.RegrowDelays(probes)


def train(recordings, settings, seed=0, epochs=10, verbose="auto"):
    """Returns a model trained on raw `recordings`, with a progress bar."""
    keras.utils.set_random_seed(seed)
    model = make_model(settings)
    recordings = through_front_end(recordings, settings)
    fit(model, recordings, settings, seed, epochs, verbose)
    return with_front_end(model, settings)


def calibration(recordings, length=2000):
    """The first samples of every sixth recording, for `to_tflite`."""
    return [recording.signal[:length] for recording in recordings[::6]]


def window_accuracy(model, recordings, settings):
    """On the official windows, each from zero state: the mean answer."""
    x, y = recordings.windows()
    logits = model.predict(x, batch_size=256, verbose=0)
    answers = ops.convert_to_numpy(ops.softmax(logits))
    answers = answers[:, settings.settle :].mean(axis=1)
    return float(np.mean(answers.argmax(axis=-1) == y))


def whole_sequence_logits(model, recordings):
    """Logits of every sample of whole recordings, in one pass each."""
    longest = max(len(r.labels) for r in recordings)
    # One length for all: what comes after a sample does not change it.
    x = np.zeros((len(recordings), longest, len(hapt.CHANNELS)), "float32")
    for row, recording in zip(x, recordings, strict=True):
        row[: len(recording.signal)] = recording.signal
    logits = model.predict(x, batch_size=1, verbose=0)
    return [
        row[: len(recording.labels)]
        for row, recording in zip(logits, recordings, strict=True)
    ]


def sample_accuracy(logits, recordings):
    """Of the labelled samples, given the logits of whole recordings."""
    right = [
        (answer.argmax(axis=-1) == recording.labels)[recording.labels >= 0]
        for answer, recording in zip(logits, recordings, strict=True)
    ]
    return float(np.mean(np.concatenate(right)))

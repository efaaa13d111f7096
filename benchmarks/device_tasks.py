"""Three tasks for a device, and the models that are trained for them.

Two mGRADE layers of width 32 in each, with batch or with layer normalisation.
Sound enters as raw frames of 10 ms, so that nothing stands between microphone
and graph.
"""

import dataclasses
import pathlib

import keras
import numpy as np

from tasks import activity, download_digits, hapt, keywords, read_clips

NORMALIZATIONS = ("batch", "layer")


class Words:
    """Clips of one word each, as frames; an answer after the last one.

    A stream goes from clip to clip without being set back only in the proof
    of a file; accuracy is that of every clip from a fresh start.
    """

    epochs = 60

    def __init__(self, train, test):
        self.recordings, self.test = train, test
        self.classes = int(train.y.max()) + 1

    def make_model(self, normalization, seed, units=32, body=None):
        """`body` makes layers that stand where the mGRADE ones do."""
        keras.utils.set_random_seed(seed)
        return keywords.make_model(
            self.classes,
            body and body(),
            units=units,
            normalization=normalization,
        )

    def train(self, model, seed):
        keywords.train(model, self.recordings, self.epochs, seed, verbose=2)

    def tune(self, model, body, seed, part, rate, callbacks=()):
        """Trains `body` behind the front end of the finished `model`.

        For a `part` of the epochs, from that part `rate` of the rate on.
        """
        front = keras.Model(model.input, model.get_layer("bands").output)
        front.trainable = False
        frames = keras.Input(model.input.shape[1:])
        whole = keras.Model(frames, body(front(frames)))
        keywords.train(
            whole,
            self.recordings,
            round(part * self.epochs),
            seed,
            rate * keywords.PEAK,
            verbose=2,
            callbacks=list(callbacks),
        )

    def steps(self, part):
        """Of the optimizer in `tune`."""
        batches = len(keywords.Shaken(self.recordings, keywords.BATCH, 0))
        return round(part * self.epochs) * batches

    def finished(self, model):
        """The model from raw samples on: that is what it is."""
        return model

    def front_end(self, model):
        """What its blocks read, as a function of frames."""
        part = keras.Model(model.input, model.get_layer("bands").output)
        return lambda x: part.predict(x[None], verbose=0)[0]

    def streams(self):
        """`(sequence, label of each step or -1)` of the test set."""
        for x, y in zip(self.test.x, self.test.y, strict=True):
            labels = np.full(len(x), -1)
            labels[-1] = y
            yield x, labels

    def windows(self):
        """The test set as windows of one length, and their labels."""
        return self.test.x, self.test.y

    def calibration(self):
        return keywords.calibration(self.recordings)


def digits(data=None):
    """Spoken digits (FSDD), its official split: recordings 0 to 4 test.

    Args:
        data: The folder `recordings` of the data set, or an `.npz` file of
            the same; `None` downloads the publishers' archive.
    """
    path = pathlib.Path(data or download_digits())
    clips, y, _ = read_clips(path)
    audio = np.zeros((len(clips), keywords.RATE), "float32")
    for row, clip in zip(audio, clips, strict=True):
        row[: len(clip)] = clip[: len(row)]
    x = keywords.framed(audio)
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            test = file["is_test"]
    else:
        files = sorted(path.glob("*_*_*.wav"))
        test = np.array([int(f.stem.split("_")[2]) < 5 for f in files])
    return Words(
        keywords.Recordings(x[~test], y[~test]),
        keywords.Recordings(x[test], y[test]),
    )


def twelve_words(data=None):
    """Twelve classes of Speech Commands, speakers of the test unheard.

    Args:
        data: As for `keywords.load`.
    """
    train, _, test = keywords.load(data)
    return Words(train, test)


class Activity:
    """The recogniser of the quickstart, a stream for each recording."""

    def __init__(self, data=None):
        self.settings = activity.Settings(steps=2000, interpolation="integer")
        self.recordings = hapt.load("train")
        self.test = hapt.load("test")

    def make_model(self, normalization, seed, units=32, body=None):
        """`body` makes layers that stand where the mGRADE ones do."""
        keras.utils.set_random_seed(seed)
        return activity.make_model(
            self.settings,
            body and body(),
            units=units,
            normalization=normalization,
            delay_regularizer=None,
        )

    def train(self, model, seed):
        seen = activity.through_front_end(self.recordings, self.settings)
        activity.fit(model, seen, self.settings, seed, verbose=2)

    def tune(self, model, body, seed, part, rate, callbacks=()):
        """As that of `Words`."""
        del model
        settings = dataclasses.replace(
            self.settings,
            steps=self.steps(part),
            learning_rate=rate * self.settings.learning_rate,
        )
        seen = activity.through_front_end(self.recordings, settings)
        activity.fit(body, seen, settings, seed, verbose=2, extra=callbacks)

    def steps(self, part):
        """Of the optimizer in `tune`."""
        return round(part * self.settings.steps)

    def finished(self, model):
        """The model with its front end."""
        return activity.with_front_end(model, self.settings)

    def front_end(self, model):
        """What its blocks read, as a function of samples."""
        del model
        return lambda x: keras.ops.convert_to_numpy(
            activity.front_end(x, self.settings)
        )

    def streams(self):
        """`(sequence, label of each step or -1)` of the test set."""
        for recording in self.test:
            yield recording.signal, recording.labels

    def windows(self):
        """The test set as windows of one length, and their labels."""
        return self.test.windows()

    def calibration(self):
        return activity.calibration(self.recordings, 500)


class Behind:
    """A task as the layers behind the front end of a trained model see it.

    Args:
        task: The task.
        model: A finished model of it.

    Attributes:
        model: The model without its front end.
    """

    def __init__(self, task, model):
        self._task, self._heard = task, task.front_end(model)
        self._streams = [(self._heard(x), y) for x, y in task.streams()]
        self.model = without_front_end(model)

    def streams(self):
        return self._streams

    def windows(self):
        x, y = self._task.windows()
        return np.stack([self._heard(window) for window in x]), y

    def calibration(self):
        return [self._heard(x) for x in self._task.calibration()]


TASKS = {"activity": Activity, "digits": digits, "keywords": twelve_words}


def without_front_end(model):
    """The blocks and what follows them, with the same weights."""
    layers = list(model.layers)
    # Front ends are made of these, and no block is.
    front = (keras.layers.InputLayer, keras.layers.Dense)
    while isinstance(layers[0], (*front, keras.layers.Activation)):
        layers.pop(0)
    channels = layers[0].input.shape[-1]
    return keras.Sequential([keras.Input((None, channels)), *layers])


def trained(folder, name, task, normalization, seed=0):
    """Where the finished model lies: there already, or trained now."""
    path = pathlib.Path(folder) / f"{name}_{normalization}_{seed}.keras"
    return taught(
        path, task, seed, lambda: task.make_model(normalization, seed)
    )


def taught(path, task, seed, make):
    """`path`, after a model of `make` was trained unless it was before."""

    def finished():
        model = make()
        task.train(model, seed)
        return task.finished(model)

    return kept(path, finished)


def kept(path, make):
    """`path`, after the model of `make` was written unless it is there."""
    if not path.is_file():
        part = path.with_suffix(".part.keras")
        make().save(part)
        part.rename(path)
    return path

"""What changes when a MinGRU takes the place of a GRU?

An ordinary Keras script: excerpts of different lengths, padded and masked,
one recurrent layer or two, a softmax. What differs is the name of the layer.

    python examples/replace_a_gru.py          # three minutes, two cores
    python examples/replace_a_gru.py --fast   # under 30 s
"""

import argparse
import os
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--backend",
    choices=["jax", "tensorflow", "torch"],
    default=os.environ.get("KERAS_BACKEND", "jax"),
    help="what Keras trains with (default: %(default)s)",
)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument(
    "--fast", action="store_true", help="a small part of everything"
)
parser.add_argument(
    "--held-out",
    action="store_true",
    help="score on six of the training subjects and train on the others: "
    "what choices of settings should rest on",
)
parser.add_argument(
    "--learning-rate", type=float, help="one for all, in place of the chosen"
)
ARGUMENTS = parser.parse_args()
# Before Keras is imported: one backend a process.
os.environ["KERAS_BACKEND"] = ARGUMENTS.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras.layers import GRU  # noqa: E402

import hapt  # noqa: E402
from keras_mgrade import MinGRU  # noqa: E402

UNITS = 64
SHORTEST = 40  # samples of an excerpt; the longest is a window
PADDING = -100.0  # No sensor reads this; a zero may be a sample.
HELD_OUT = (3, 8, 16, 21, 25, 29)
EPOCHS = 20
BATCH_SIZE = 64

# Layers, how many of them, and a learning rate: for each kind that of 0.003
# and 0.01 with the better mean over both depths and two seeds, `--held-out`.
# A minGRU's gate reads its input alone: in a first layer one sample, in a
# second one what the first layer remembers. So it gains more by a second.
ROWS = [
    (GRU, 1, 0.003),
    (MinGRU, 1, 0.01),
    (GRU, 2, 0.003),
    (MinGRU, 2, 0.01),
]


def main(options):
    train, test = hapt.load("train"), hapt.load("test")
    if options.held_out:
        train, test = hold_out(train)
    data = [*excerpts(train, seed=0), *excerpts(test, seed=1)]
    if options.fast:
        data = [array[::8] for array in data]

    print(f"{'':16}accuracy   seconds an epoch   parameters\n{'-' * 57}")
    for layer, depth, rate in ROWS:
        keras.utils.set_random_seed(options.seed)
        model = make_model(layer, depth)
        rate = options.learning_rate or rate
        accuracy, seconds = train_and_score(model, data, rate, options.fast)
        print(
            f"{depth} x {layer.__name__ + f'({UNITS})':12}{accuracy:>8.1%}"
            f"{seconds:>19.2f}{model.count_params():>13,}",
            flush=True,
        )
    print(f"accuracy: {len(data[3]):,} excerpts of people not trained on;")
    print("seconds: the median of all epochs but the first, which compiles")


def hold_out(recordings):
    """Those to train on, and those of the subjects held out."""
    held_out = [recording.subject in HELD_OUT for recording in recordings]
    return [
        hapt.Recordings(
            recording
            for recording, out in zip(recordings, held_out, strict=True)
            if out == wanted
        )
        for wanted in (False, True)
    ]


def excerpts(recordings, seed):
    """A part of each official window, at the left, and padding after it."""
    windows, labels = recordings.windows()
    rng = np.random.default_rng(seed)
    x = np.full_like(windows, PADDING)
    for row, window in zip(x, windows, strict=True):
        length = rng.integers(SHORTEST, hapt.WINDOW + 1)
        start = rng.integers(hapt.WINDOW - length + 1)
        row[:length] = window[start : start + length]
    return x, labels


def make_model(layer, depth):
    """The model of either: `layer` is `GRU` or `MinGRU`."""
    model = keras.Sequential(
        [keras.Input((None, 6)), keras.layers.Masking(PADDING)]
    )
    for _ in range(depth - 1):
        model.add(layer(UNITS, activation="tanh", return_sequences=True))
    # A MinGRU's candidate is linear unless told otherwise; GRU's is a tanh.
    model.add(layer(UNITS, activation="tanh"))
    model.add(keras.layers.Dense(len(hapt.CLASS_NAMES), activation="softmax"))
    return model


class EpochTimes(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


def train_and_score(model, data, learning_rate, fast):
    """Accuracy on the test excerpts, and seconds an epoch."""
    x, y, x_test, y_test = data
    epochs = 2 if fast else EPOCHS
    schedule = keras.optimizers.schedules.CosineDecay(
        learning_rate, epochs * -(-len(x) // BATCH_SIZE)
    )
    model.compile(
        keras.optimizers.Adam(schedule),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    times = EpochTimes()
    model.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=[times])
    _, accuracy = model.evaluate(x_test, y_test, batch_size=256, verbose=0)
    return accuracy, float(np.median(times.seconds[1:]))


if __name__ == "__main__":
    main(ARGUMENTS)

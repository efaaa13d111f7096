"""Time and peak memory of one training step, as sequences grow."""

import resource
import time

import keras
import numpy as np

import keras_mgrade
import timing

CHANNELS = 32


def growth(length):
    """One row: a training step of an `MGrade` model on one sequence.

    The peak is that of the whole process, which should have done nothing
    else: call it in a new one for each length.
    """
    model = keras.Sequential(
        [
            keras.Input((length, CHANNELS)),
            keras_mgrade.MGrade(CHANNELS, 8, 127, "integer"),
            keras.layers.Dense(10),
        ]
    )
    model.compile("sgd", "mse")
    random = np.random.default_rng(0)
    x = random.normal(size=(1, length, CHANNELS)).astype("float32")
    y = np.zeros((1, length, 10), "float32")
    before = peak()
    model.train_on_batch(x, y)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loss = model.train_on_batch(x, y)
        times.append(1e3 * (time.perf_counter() - start))
    assert np.isfinite(loss)
    return {
        "part": "growth",
        "mode": keras.backend.backend(),
        "name": f"{length} steps",
        "steps": length,
        **timing.summary(times),
        "MB": round(peak() - before, 1),
    }


def peak():
    """Largest memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

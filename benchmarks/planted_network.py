"""Do taps find delays that are planted behind a network?

Teacher and student are `DelayConv1D(tanh(Dense(x)))` of four channels; the
teacher's three taps a channel stand at random delays of up to 64 steps, with
amplitudes of +-(0.4..1), the student has four. It sees white noise and the
teacher's answers: 64 sequences of 192 steps, batches of 16, 2,000 steps of
Adam at a cosine schedule. What counts is the power of its error on fresh
data as a share of the answers' power; ten seeds, and for each way of learning
delays the best of three learning rates.

    KERAS_BACKEND=jax python benchmarks/planted_network.py
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import machine  # noqa: E402
from keras_mgrade import DelayConv1D, callbacks  # noqa: E402

PATH = pathlib.Path(__file__).resolve().parent / "results/planted_network.json"
SEEDS = range(10)
RATES = [3e-3, 1e-2, 3e-2]
CHANNELS, PLANTED, TAPS, SPAN = 4, 3, 4, 64
SEQUENCES, LENGTH, BATCH_SIZE, STEPS = 64, 192, 16, 2000

# Arguments of the student's layer, and the callbacks of its training.
GAUSSIAN = {"interpolation": "gaussian"}
METHODS = {
    "integer, fixed": ({"interpolation": "integer"}, None),
    "integer, regrown": ({"interpolation": "integer"}, "regrow"),
    "linear, regrown": ({}, "regrow"),
    "linear, plain": ({}, None),
    "Gaussian of the paper": (GAUSSIAN, None),
    "Gaussian, width trained": (
        {
            **GAUSSIAN,
            "width": SPAN / 16,
            "train_width": True,
            "normalize_kernel": True,
        },
        None,
    ),
    "Gaussian, width annealed": (
        {**GAUSSIAN, "width": SPAN / 4, "normalize_kernel": True},
        "anneal",
    ),
}


def make_model(taps, **arguments):
    return keras.Sequential(
        [
            keras.Input((LENGTH, CHANNELS)),
            keras.layers.Dense(CHANNELS, activation="tanh"),
            DelayConv1D(taps, SPAN, use_bias=False, **arguments),
        ]
    )


def make_teacher(seed):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(1000 + seed)
    teacher = make_model(PLANTED, interpolation="integer")
    layer = teacher.layers[-1]
    places = [
        rng.choice(SPAN + 1, PLANTED, replace=False) for _ in range(CHANNELS)
    ]
    layer.set_delays(np.array(places).T)
    signs = rng.choice([-1, 1], (PLANTED, CHANNELS))
    layer.kernel.assign(signs * rng.uniform(0.4, 1, (PLANTED, CHANNELS)))
    return teacher


def run(method, rate, seed):
    """The share of the power that is left on fresh data."""
    rng = np.random.default_rng(2000 + seed)
    teacher = make_teacher(seed)
    x, fresh = rng.normal(size=(2, SEQUENCES, LENGTH, CHANNELS))
    y, wanted = (teacher.predict(a, verbose=0) for a in (x, fresh))

    keras.utils.set_random_seed(seed)
    arguments, way = METHODS[method]
    student = make_model(TAPS, **arguments)
    schedule = keras.optimizers.schedules.CosineDecay(rate, STEPS)
    student.compile(keras.optimizers.Adam(schedule), "mse")
    ways = {
        None: lambda: [],
        "regrow": lambda: [
            callbacks.RegrowDelays((x, y), batch_size=BATCH_SIZE, verbose=0)
        ],
        "anneal": lambda: [callbacks.AnnealWidth(0.3)],
    }
    epochs = STEPS // (SEQUENCES // BATCH_SIZE)
    student.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=ways[way]())
    error = student.predict(fresh, verbose=0) - wanted
    return float(np.mean(error**2) / np.mean(wanted**2))


def main(options):
    results = {**machine.description(), "left": {}}
    if PATH.exists():
        results = json.loads(PATH.read_text())
    runs = [(r, s, m) for r in RATES for s in SEEDS for m in METHODS]
    for number, (rate, seed, method) in enumerate(runs, 1):
        of_method = results["left"].setdefault(method, {})
        of_rate = of_method.setdefault(f"{rate:g}", {})
        if str(seed) in of_rate:
            continue
        begun = time.perf_counter()
        of_rate[str(seed)] = round(run(method, rate, seed), 6)
        print(
            f"{number}/{len(runs)} {method:26}{rate:7g} seed {seed}  "
            f"left {of_rate[str(seed)]:.4f}  "
            f"{time.perf_counter() - begun:.0f} s",
            flush=True,
        )
        PATH.write_text(json.dumps(results, indent=1) + "\n")
    table(results["left"])


def table(results):
    print(f"\n{'':26}best rate   mean left   median   worst   below 2 %")
    for method, rates in results.items():
        means = {r: np.mean(list(seeds.values())) for r, seeds in rates.items()}
        best = min(means, key=means.get)
        left = np.array(list(rates[best].values()))
        print(
            f"{method:26}{best:>9}{left.mean():12.4f}{np.median(left):9.4f}"
            f"{left.max():8.4f}{(left <= 0.02).sum():>8} of {len(left)}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    main(parser.parse_args())

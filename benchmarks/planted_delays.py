"""Which ways of learning delays find delays that were planted?

One channel a seed: `y[t] = sum_k A_k x[t - D_k]` on noise, delays drawn from
0..D, amplitudes +-(0.4..1), 48 sequences of max(160, 3 D) steps, batches of
16, Adam. A layer of eight taps (three for three delays) learns the channels
side by side, which are independent of each other. A seed is found where at
most 2 % of the signal's power is left on fresh data.

    KERAS_BACKEND=jax python benchmarks/planted_delays.py            # all
    KERAS_BACKEND=jax python benchmarks/planted_delays.py --only coloured
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
import scipy.signal  # noqa: E402

import machine  # noqa: E402
from keras_mgrade import DelayConv1D, callbacks  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
SEEDS = 20
SEQUENCES, BATCH_SIZE = 48, 16
# Rate and steps of Adam.
SCHEDULES = [(1e-2, 600), (1e-3, 2000)]
WHITE = [
    (delays, taps, span, rate, steps, 0.0)
    for delays, taps in ((2, 8), (4, 8), (8, 8), (3, 3))
    for span in (32, 64, 128)
    for rate, steps in SCHEDULES
]
# First-order noise: each sample is 0.8 of the last one and white noise.
COLOURED = [(delays, 8, 64, 1e-2, 600, 0.8) for delays in (4, 8)]


def regrown(interpolation):
    def make(taps, span, data, steps):
        layer = DelayConv1D(taps, span, interpolation, use_bias=False)
        regrow = callbacks.RegrowDelays(
            data,
            probe_batches=SEQUENCES // BATCH_SIZE,
            batch_size=BATCH_SIZE,
            verbose=0,
        )
        return layer, [regrow]

    return make


def plain(taps, span, data, steps):
    return DelayConv1D(taps, span, use_bias=False), []


def trained_gaussian(taps, span, data, steps):
    layer = DelayConv1D(
        taps,
        span,
        "gaussian",
        use_bias=False,
        width=span / 16,
        train_width=True,
        normalize_kernel=True,
    )
    return layer, []


def annealed_gaussian(taps, span, data, steps):
    layer = DelayConv1D(
        taps,
        span,
        "gaussian",
        use_bias=False,
        width=span / 4,
        normalize_kernel=True,
    )
    return layer, [callbacks.AnnealWidth(0.3, until=0.5)]


METHODS = {
    "integer, regrown": regrown("integer"),
    "linear, regrown": regrown("linear"),
    "linear, plain": plain,
    "Gaussian, width trained": trained_gaussian,
    "Gaussian, width annealed": annealed_gaussian,
}


def noise(rng, length, colour):
    """`(sequences, time, seeds)` of unit power."""
    x = rng.normal(size=(SEQUENCES, length + 100, SEEDS))
    x = scipy.signal.lfilter([1], [1, -colour], x, axis=1)[:, 100:]
    return (x * np.sqrt(1 - colour**2)).astype("float32")


def plant(delays, span):
    """A dense kernel a seed, `(span + 1, seeds)`."""
    kernel = np.zeros((span + 1, SEEDS))
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        places = rng.choice(span + 1, delays, replace=False)
        signs = rng.choice([-1, 1], delays)
        kernel[places, seed] = signs * rng.uniform(0.4, 1, delays)
    return kernel


def respond(kernel, x):
    y = np.zeros_like(x)
    for step in np.flatnonzero(kernel.any(axis=1)):
        y[:, step:] += kernel[step].astype("float32") * x[:, : len(x[0]) - step]
    return y


def run(method, delays, taps, span, rate, steps, colour):
    """What is left of each seed's power on fresh data."""
    rng = np.random.default_rng(1000)
    keras.utils.set_random_seed(0)
    kernel, length = plant(delays, span), max(160, 3 * span)
    x = noise(rng, length, colour)
    y = respond(kernel, x)
    layer, extra = METHODS[method](taps, span, (x, y), steps)
    model = keras.Sequential([keras.Input((length, SEEDS)), layer])
    model.compile(keras.optimizers.Adam(rate), "mse")
    epochs = steps // (SEQUENCES // BATCH_SIZE)
    # 2,000 steps are not a whole number of passes: two more.
    epochs += steps % (SEQUENCES // BATCH_SIZE) > 0
    model.fit(x, y, BATCH_SIZE, epochs, verbose=0, callbacks=extra)
    x = noise(rng, length, colour)
    y = respond(kernel, x)
    left = y - model.predict(x, batch_size=SEQUENCES, verbose=0)
    return (left**2).mean(axis=(0, 1)) / (y**2).mean(axis=(0, 1))


def main(options):
    cells = {"white": WHITE, "coloured": COLOURED}
    names = [options.only] if options.only else list(cells)
    methods = [m for m in METHODS if not options.method or options.method in m]
    path = RESULTS / "planted_delays.json"
    results = {**machine.description(), "cells": {}}
    if path.exists():
        results = json.loads(path.read_text())
    for name in names:
        for cell in cells[name]:
            delays, taps, span, rate, steps, colour = cell
            key = f"{name} {delays}/{taps} D{span} {rate:g} {steps}"
            for method in methods:
                done = results["cells"].setdefault(key, {})
                if method in done and not options.again:
                    continue
                begun = time.perf_counter()
                left = run(method, *cell)
                found = int((left <= 0.02).sum())
                done[method] = {
                    "found": found,
                    "of": SEEDS,
                    "left": [round(float(v), 5) for v in left],
                }
                print(
                    f"{key:32}{method:26}{found:3} of {SEEDS}  "
                    f"median {np.median(left):.4f}  "
                    f"{time.perf_counter() - begun:.0f} s",
                    flush=True,
                )
                if not options.dry:
                    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["white", "coloured"])
    parser.add_argument("--method", help="a part of a method's name")
    parser.add_argument("--again", action="store_true", help="run all anew")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    main(parser.parse_args())

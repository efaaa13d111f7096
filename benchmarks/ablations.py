"""What delays and recurrence are worth together: the paper's claim.

Permuted MNIST of 196 steps, 40,000 images, two epochs, three seeds. The
mGRADE classifier (two layers of 32, eight regrown taps a channel, delays of up
to 64 steps) beside the same without its convolution, made wider, and without
its recurrence, made to look further back, both to the same footprint:
parameters + state + delay lines, in values. Then smaller mGRADEs, down to less
than half of that.

    KERAS_BACKEND=jax python benchmarks/ablations.py
"""

import argparse
import itertools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_mgrade  # noqa: E402
import tasks  # noqa: E402
from results_file import ResultsFile, percent  # noqa: E402

SEEDS = (0, 1, 2)
COMMON = {"interpolation": "integer", "kernel_size": 8}
FULL = {"units": 32, "max_delay": 64}
MODELS = {
    "mGRADE": FULL,
    "without convolution": {**FULL, "units": 38, "use_convolution": False},
    "without recurrence": {**FULL, "max_delay": 131, "use_recurrence": False},
    "mGRADE of 28": {**FULL, "units": 28},
    "mGRADE of 24": {**FULL, "units": 24},
    "mGRADE of 20": {**FULL, "units": 20},
}


def run(task, name, seed):
    arguments = {**COMMON, **MODELS[name]}
    model = task.make_model(seed, **arguments)
    delays = arguments.get("use_convolution", True)
    task.fit(model, [task.regrowth()] if delays else [])
    report = keras_mgrade.memory_report(model)
    return {
        "model": name,
        "seed": seed,
        "accuracy": task.accuracy(model),
        "parameters": report.total.parameters,
        "state": report.total.state,
        "delay line": report.total.delay_line,
        "footprint": report.footprint,
        "multiply-adds": report.total.multiply_adds,
    }


def table(results):
    sizes = ("parameters", "state", "delay line", "footprint", "multiply-adds")
    print(f"\n{'':22}{'accuracy, %':>15}" + "".join(f"{s:>15}" for s in sizes))
    for name in MODELS:
        rows = results.group(model=name)
        text = f"{name:22}{percent(rows, 'accuracy'):>15}"
        # Taps of weight 0 are not counted, so seeds may differ a little.
        values = (np.mean([row[size] for row in rows]) for size in sizes)
        print(text + "".join(f"{value:15,.0f}" for value in values))
    print("accuracy: mean and standard deviation of the seeds")


def main(options):
    results = ResultsFile("ablations", "model", "seed")
    task = tasks.pixels(options.data)
    for seed, name in itertools.product(SEEDS, MODELS):
        if not results.has(name, seed):
            results.add(run(task, name, seed))
            keras.backend.clear_session()
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="an mnist.npz of yours")
    main(parser.parse_args())

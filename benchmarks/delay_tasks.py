"""What ways of learning delays are worth on real tasks.

Two mGRADE layers of 32 channels, delays of up to 64 steps, the same training
for all; only the taps differ: at equal taps a channel (4), and at about equal
multiply-adds (as many steps read as 16 whole taps would). Test accuracy after
training, after snapping to whole delays, and after training the snapped
network for a tenth of the steps at a tenth of the rate; three seeds.

Runs that are in the results file already are not made again.

    KERAS_BACKEND=jax python benchmarks/delay_tasks.py activity
    KERAS_BACKEND=jax python benchmarks/delay_tasks.py digits
    KERAS_BACKEND=jax python benchmarks/delay_tasks.py pixels
"""

import argparse
import itertools
import os
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_mgrade  # noqa: E402
import tasks  # noqa: E402
from results_file import ResultsFile, percent  # noqa: E402

SEEDS = (0, 1, 2)


class FasterDelays(keras.optimizers.Adam):
    """The paper's rate for delays: five times that of the other weights."""

    def update_step(self, gradient, variable, learning_rate):
        # On TensorFlow it is the backend's own: "layer/delays:0".
        if variable.name.split("/")[-1].split(":")[0] == "delays":
            # Stored in units of four steps, which makes four of the five.
            learning_rate = learning_rate * 1.25
        super().update_step(gradient, variable, learning_rate)


ANNEALED = {
    "interpolation": "gaussian",
    "width": tasks.SPAN / 4,
    "normalize_kernel": True,
}
# Taps a channel at equal taps and at equal multiply-adds, then the layer's
# arguments and what its training has.
METHODS = {
    "even, fixed": (4, 16, {"interpolation": "integer"}, None),
    "integer, regrown": (4, 16, {"interpolation": "integer"}, "regrow"),
    "linear": (4, 8, {}, None),
    "linear, regrown": (4, 8, {}, "regrow"),
    "Gaussian of the paper": (4, 3, {"interpolation": "gaussian"}, "faster"),
    "Gaussian, annealed": (4, 8, ANNEALED, "anneal"),
}
BUDGETS = ("equal taps", "equal multiply-adds")


def run(task, method, budget, seed):
    """One training, snapping and fine-tuning, as a row of the results."""
    begun = time.process_time()
    *sizes, arguments, way = METHODS[method]
    taps = sizes[BUDGETS.index(budget)]
    model = task.make_model(seed, kernel_size=taps, **arguments)
    extra, optimizer = [], keras.optimizers.Adam
    if way == "regrow":
        extra = [task.regrowth()]
    elif way == "anneal":
        extra = [keras_mgrade.callbacks.AnnealWidth(0.3)]
    elif way == "faster":
        optimizer = FasterDelays
    task.fit(model, extra, optimizer=optimizer)
    row = {
        "method": method,
        "budget": budget,
        "seed": seed,
        "taps": taps,
        "reads": round(reads(model), 2),
        "accuracy": task.accuracy(model),
    }
    # Whole taps have nothing to round.
    row["snapped"] = row["tuned"] = row["accuracy"]
    if arguments.get("interpolation") != "integer":
        moved = keras_mgrade.snap_delays(model, task.some_inputs)
        row["output change"] = round(moved["output"], 4)
        row["snapped"] = task.accuracy(model)
        task.fit(model, part=0.1)
        row["tuned"] = task.accuracy(model)
    total = keras_mgrade.memory_report(model).total
    row["delay line"] = total.delay_line_in_use
    row["CPU seconds"] = round(time.process_time() - begun)
    return row


def reads(model):
    """Steps read a channel: those worth 1 % of the channel's largest."""
    counts = []
    for layer in model._flatten_layers():
        if isinstance(layer, keras_mgrade.DelayConv1D):
            kernel = np.abs(keras.ops.convert_to_numpy(layer.dense_kernel()))
            counts += [*np.sum(kernel > 0.01 * kernel.max(axis=0), axis=0)]
    return float(np.mean(counts))


def table(results):
    heads = ("accuracy", "snapped", "tuned")
    print(f"\n{'':24}{'taps':>5}{'reads':>7}", end="")
    print("".join(f"{head:>16}" for head in heads) + f"{'delay line':>12}")
    for budget in BUDGETS:
        print(budget)
        for method in METHODS:
            rows = results.group(budget=budget, method=method)
            if rows:
                print(f"  {method:22}{line(rows, heads)}")
    print("accuracy: mean and standard deviation of the seeds, %")


def line(rows, heads):
    def mean(name):
        return np.mean([row[name] for row in rows])

    text = f"{rows[0]['taps']:5}{mean('reads'):7.1f}"
    for head in heads:
        text += f"{percent(rows, head):>16}"
    return f"{text}{mean('delay line'):12,.0f}"


def main(options):
    results = ResultsFile(
        f"delay_tasks_{options.task}", "method", "budget", "seed"
    )
    task = tasks.TASKS[options.task](options.data)
    for seed, budget, method in itertools.product(SEEDS, BUDGETS, METHODS):
        if not results.has(method, budget, seed):
            results.add(run(task, method, budget, seed))
            keras.backend.clear_session()
    table(results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=sorted(tasks.TASKS))
    parser.add_argument(
        "--data", help="a file or folder of yours, see benchmarks/tasks.py"
    )
    main(parser.parse_args())

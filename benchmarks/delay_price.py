"""Accuracy against bytes of delay line, as the price on them rises.

The activity recogniser with eight taps a channel and delays of up to 64 steps,
1,000 steps of training, three seeds; a price on each byte of delay line (one
a value, as in a mixed file), for linear taps, which feel it as a pull, and for
integer taps, whose regrowth weighs it. What counts as right: answers at the
labelled samples of the nine test subjects' recordings.

    KERAS_BACKEND=jax python benchmarks/delay_price.py
"""

import argparse
import itertools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402

import keras_mgrade  # noqa: E402
import tasks  # noqa: E402
from results_file import ResultsFile, percent  # noqa: E402

matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

SEEDS = (0, 1, 2)
PRICES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
TAPS = {"linear": "linear", "integer, regrown": "integer"}


def run(task, way, price, seed):
    regularizer = (
        keras_mgrade.regularizers.DelayLength(price) if price else None
    )
    model = task.make_model(
        seed, interpolation=TAPS[way], delay_regularizer=regularizer
    )
    extra = [task.regrowth()] if way == "integer, regrown" else []
    task.fit(model, extra)
    total = keras_mgrade.memory_report(model).total
    return {
        "way": way,
        "price": price,
        "seed": seed,
        "accuracy": task.accuracy(model),
        "delay line": total.delay_line_in_use,
    }


def table(results):
    print(f"\n{'price a byte':22}" + "".join(f"{way:>30}" for way in TAPS))
    for price in PRICES:
        text = f"{price:<22g}"
        for way in TAPS:
            rows = results.group(way=way, price=price)
            size = np.mean([row["delay line"] for row in rows])
            text += f"{size:12,.0f} B {percent(rows, 'accuracy'):>15}"
        print(text)


def picture(results):
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for way in TAPS:
        sizes, rights = [], []
        for price in PRICES:
            rows = results.group(way=way, price=price)
            sizes.append([row["delay line"] for row in rows])
            rights.append([100 * row["accuracy"] for row in rows])
        (drawn,) = axis.plot(
            np.mean(sizes, axis=1), np.mean(rights, axis=1), "o-", label=way
        )
        axis.scatter(sizes, rights, s=10, color=drawn.get_color(), alpha=0.5)
        for price, size, right in zip(PRICES, sizes, rights, strict=True):
            axis.annotate(
                f"{price:g}",
                (np.mean(size), np.mean(right)),
                xytext=(0, 7 if way == "linear" else -13),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    axis.set_xlabel("delay lines in use, bytes (one a value)")
    axis.set_ylabel("right answers, %")
    axis.set_title("Activity: means of three seeds, beside each its price")
    axis.legend()
    path = results.path.with_suffix(".png")
    figure.savefig(path, dpi=120)
    print(f"\npicture: {path}")


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = ResultsFile("delay_price", "way", "price", "seed")
    task = tasks.TASKS["activity"]()
    for seed, price, way in itertools.product(SEEDS, PRICES, TAPS):
        if not results.has(way, price, seed):
            results.add(run(task, way, price, seed))
            keras.backend.clear_session()
    table(results)
    picture(results)


if __name__ == "__main__":
    main()

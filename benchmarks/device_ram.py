"""RAM of the step beside peers of equal accuracy.

    KERAS_BACKEND=jax python benchmarks/device_ram.py \\
        --keywords speech_commands_test12_8k.npz

For each family the smallest width on the grid whose model is at most half a
point of accuracy below the reference, the mGRADE model of `device_files.py`.
Trains what is not in `--models` yet. Results go to `results/device_ram.json`,
`device_ram_widths.json` (every model that was trained) and, as a table,
`device_ram.md`.
"""

import argparse
import pathlib

import numpy as np

import device_measure
import device_tasks
from device_files import answers_of_keras
from device_peers import PEERS, load
from device_ram_table import table
from results_file import ResultsFile, write_whole

WIDTHS = (8, 12, 16, 24, 32, 48, 64)
REFERENCE = 32
POINTS = 0.005
FAMILIES = ("mGRADE", *PEERS)
NORMALIZATION = "batch"


def smallest(widths, passes):
    """The smallest width that passes, if what is wider passes too.

    Returns:
        It, or `None` where not even the largest passes.
    """
    low, high = 0, len(widths)
    while low < high:
        middle = (low + high) // 2
        if passes(widths[middle]):
            high = middle
        else:
            low = middle + 1
    return widths[low] if low < len(widths) else None


class Search:
    """Trains and scores the models of one task, each at most once.

    Args:
        name: Of the task.
        task: The task.
        folder: Of the trained models.
    """

    def __init__(self, name, task, folder):
        self.name, self.task, self.folder = name, task, folder
        self.scores = ResultsFile(
            "device_ram_widths", "task", "family", "width"
        )
        self.reference = self.accuracy("mGRADE", REFERENCE)

    def path(self, family, width):
        if (family, width) == ("mGRADE", REFERENCE):
            return device_tasks.trained(
                self.folder, self.name, self.task, NORMALIZATION
            )
        body = None
        if family in PEERS:
            body = lambda: PEERS[family](self.name, width)  # noqa: E731
        return device_tasks.taught(
            self.folder / f"{self.name}_{family}_{width}.keras",
            self.task,
            0,
            lambda: self.task.make_model(NORMALIZATION, 0, width, body),
        )

    def accuracy(self, family, width):
        """On the test set, as `device_files.py` scores it."""
        row = {"task": self.name, "family": family, "width": width}
        if not self.scores.has(*row.values()):
            model = load(self.path(family, width))
            logits, labels = answers_of_keras(model, self.task.streams())
            right = float(np.mean(logits.argmax(axis=-1) == labels))
            self.scores.add(
                {**row, "accuracy": right, "weights": model.count_params()}
            )
        return self.scores.group(**row)[0]["accuracy"]

    def passes(self, family, width):
        return self.accuracy(family, width) >= self.reference - POINTS

    def chosen(self, family):
        """`(width, whether it passes)`; the largest where none does."""
        widths = WIDTHS
        if family == "mGRADE":
            widths = WIDTHS[: WIDTHS.index(REFERENCE) + 1]
        width = smallest(widths, lambda w: self.passes(family, w))
        return (WIDTHS[-1], False) if width is None else (width, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keywords", help="speech_commands_test12_8k.npz")
    parser.add_argument(
        "--models", default="device_models", help="folder of trained models"
    )
    parser.add_argument(
        "--train-only", action="store_true", help="search the widths only"
    )
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.models)
    folder.mkdir(parents=True, exist_ok=True)
    results = ResultsFile("device_ram", "task", "family")
    for name in ("activity", "keywords"):
        data = getattr(arguments, name, None)
        if name != "activity" and data is None:
            print(f"{name}: no data given (--{name})")
            continue
        search = Search(name, device_tasks.TASKS[name](data), folder)
        for family in FAMILIES:
            width, passed = search.chosen(family)
            if arguments.train_only or results.has(name, family):
                continue
            known = {
                "task": name,
                "family": family,
                "width": width,
                "passed": passed,
                "reference": search.reference,
                "keras": search.accuracy(family, width),
            }
            model = load(search.path(family, width))
            behind = device_tasks.Behind(search.task, model)
            # All at once: one row alone would pass for the family.
            for row in list(
                device_measure.rows(family, search.task, model, behind, folder)
            ):
                results.add({**known, **row})
    if results.rows:
        text = table(results.rows, WIDTHS, REFERENCE, 100 * POINTS)
        write_whole(results.path.with_suffix(".md"), text)


if __name__ == "__main__":
    main()

"""Results that grow row by row, so that a benchmark can go on where it was."""

import json
import pathlib

import numpy as np

import machine


class ResultsFile:
    """`results/NAME.json`: what it was measured with, and `rows`.

    Args:
        name: Of the file.
        keys: What tells one row from another.
    """

    def __init__(self, name, *keys):
        folder = pathlib.Path(__file__).resolve().parent / "results"
        self.path = folder / f"{name}.json"
        self.keys = keys
        self.results = {**machine.description(), "rows": []}
        if self.path.exists():
            self.results = json.loads(self.path.read_text())
            for name, value in machine.description().items():
                if self.results[name] != value:
                    raise SystemExit(
                        f"{self.path} was made with {name} "
                        f"{self.results[name]!r}, this is {value!r}: move it "
                        "away, or go on where it was made"
                    )

    @property
    def rows(self):
        return self.results["rows"]

    def has(self, *values):
        return any(
            tuple(row[key] for key in self.keys) == values for row in self.rows
        )

    def add(self, row):
        self.rows.append(row)
        write_whole(self.path, json.dumps(self.results, indent=1) + "\n")
        print(row, flush=True)

    def group(self, **chosen):
        """Rows of these values."""
        return [
            row
            for row in self.rows
            if all(row[key] == value for key, value in chosen.items())
        ]


def write_whole(path, text):
    """Writes a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def percent(rows, name):
    """Mean and standard deviation of the seeds, in per cent."""
    values = [100 * row[name] for row in rows]
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.2f} +- {spread:.2f}"

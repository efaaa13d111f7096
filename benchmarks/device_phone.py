"""Time of a step in LiteRT, beside a Keras GRU converted as users do it.

    KERAS_BACKEND=jax python benchmarks/device_phone.py

Two layers of each width on the activity task, behind its front end. A step
file gives an answer for every new sample; a file of a window of 128 samples
pays for all of them at every answer. Weights are not trained: times do not
depend on them. All files run in turns in one process, on one thread. Results
go to `results/device_phone.json` and, as a table, `device_phone.md`.
"""

import argparse
import json
import pathlib
import tempfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter

import device_tasks
import machine
import timing
from device_measure import cut
from device_peers import gru, load
from device_users import converted
from keras_mgrade import export
from results_file import write_whole

WIDTHS = (32, 64)
WINDOW = 128
ROUNDS = 100
PACKAGES = ("ai-edge-litert", "tensorflow", "keras", "numpy")
FOLDER = pathlib.Path(__file__).resolve().parent / "results"

# `to_tflite`'s arguments of each way that is this package's.
OWN = {
    "step": {},
    "step, states inside": {"state_io": "internal"},
    f"window of {WINDOW}": {"window": WINDOW},
}
# Flags of `device_users.py` for each way that is not. A loop cannot be
# calibrated: that ends the converter.
USERS = {
    ("unrolled", "float32"): ["--float"],
    ("unrolled", "int8"): [],
    ("loop", "float32"): ["--float", "--loop"],
}


def models(task, width, folder):
    """Of one width, by family, as they are behind the front end."""
    for family, body in {
        "mGRADE": None,
        "GRU": lambda: gru("activity", width),
    }.items():
        model = task.finished(task.make_model("batch", 0, width, body))
        path = folder / f"{family}_{width}.keras"
        model.save(path)
        yield family, device_tasks.Behind(task, load(path))


def files(task, width, folder):
    """All files of one width: `(family, way, precision, path, length)`."""
    for family, behind in models(task, width, folder):
        calibration = behind.calibration()
        for way, options in OWN.items():
            precisions = ["float32", "mixed"]
            if family == "GRU" and "window" in options:
                # LiteRT refuses the mixed file of layers that are unrolled.
                precisions = ["float32"]
            made = export.to_tflite(
                behind.model,
                folder / f"{family}_{width}_{way}_{{precision}}.tflite",
                precisions,
                calibration,
                **options,
            )
            for precision, file in made.items():
                length = options.get("window", 1)
                yield family, f"ours, {way}", precision, file.path, length
        if family == "mGRADE":
            continue
        windows = cut(calibration, WINDOW)
        for (way, precision), flags in USERS.items():
            path = folder / f"{family}_{width}_{way}_{precision}.tflite"
            converted(behind.model, windows, path, *flags)
            check(path, behind.model, windows[:8])
            yield family, f"as users, {way}", precision, path, WINDOW


def check(path, model, windows):
    """Raises if a user's file does not say what the model says."""
    found = export.LiteRTRunner(path).run(windows)
    wanted = model.predict(windows, verbose=0)[:, -1]
    np.testing.assert_allclose(found, wanted, atol=0.1 * np.abs(wanted).max())


def invoker(path):
    """What runs a file once: the interpreter's time and no other."""
    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    return interpreter.invoke


def measured(task):
    """A row for each file, the times from one race of all of them."""
    with tempfile.TemporaryDirectory() as folder:
        made = {
            (width, family, way, precision): (path, length)
            for width in WIDTHS
            for family, way, precision, path, length in files(
                task, width, pathlib.Path(folder)
            )
        }
        times = timing.race(
            {key: invoker(path) for key, (path, _) in made.items()}, ROUNDS
        )
        for key, (path, length) in made.items():
            names = ("width", "family", "way", "precision")
            yield {
                **dict(zip(names, key, strict=True)),
                "bytes": path.stat().st_size,
                "length": length,
                **times[key],
            }


HEAD = """\
# Time of a step in LiteRT

{processor}; LiteRT {version}, one thread; medians over {rounds} rounds in
turns, and between what half of them lie. *An answer*: what a new one costs,
one step of a step file, the whole window of a window's file. *A step*: the
same over the samples it takes in, for who wants an answer only once in {window}
samples. *Of mGRADE's*: an answer beside that of mGRADE's step file in float32
of the same width.

| width | model | file | precision | bytes | an answer, us | half of them | \
a step, us | of mGRADE's |
|---|---|---|---|---|---|---|---|---|
"""


def table(results):
    rows = results["rows"]
    lines = [
        HEAD.format(
            processor=results["processor"],
            version=results["versions"]["ai-edge-litert"],
            rounds=ROUNDS,
            window=WINDOW,
        )
    ]
    own = {
        row["width"]: row["ms"]
        for row in reversed(rows)
        if row["family"] == "mGRADE" and row["precision"] == "float32"
    }
    for row in rows:
        low, median, high = (1e3 * row[name] for name in ("low", "ms", "high"))
        lines.append(
            f"| {row['width']} | {row['family']} | {row['way']} | "
            f"{row['precision']} | {row['bytes']:,} | {median:.1f} | "
            f"{low:.1f} to {high:.1f} | {median / row['length']:.1f} | "
            f"{row['ms'] / own[row['width']]:.1f} |\n"
        )
    return "".join(lines)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = {
        **machine.description(),
        "processor": machine.processor(),
        "versions": machine.versions(PACKAGES),
        "rows": list(measured(device_tasks.Activity())),
    }
    path = FOLDER / "device_phone.json"
    write_whole(path, json.dumps(results, indent=1) + "\n")
    write_whole(path.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()

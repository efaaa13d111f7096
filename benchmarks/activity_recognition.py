"""The activity recogniser on every test recording, as a mean of three seeds.

Trains the model of `examples/quickstart.py` once a seed and scores it: on the
official windows, on every labelled sample of the nine test subjects in one
pass each, and through the `.tflite` files in LiteRT and TFLite Micro, sample
by sample and never reset within a recording. Seeds that are in the results
file already are not trained again.

    KERAS_BACKEND=jax python benchmarks/activity_recognition.py
    KERAS_BACKEND=jax python benchmarks/activity_recognition.py --held-out
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "examples"))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import hapt_floor  # noqa: E402
import keras_mgrade  # noqa: E402

RESULTS = ROOT / "results"
RUNNERS = {
    "LiteRT": keras_mgrade.export.LiteRTRunner,
    "TFLM": keras_mgrade.export.TFLMRunner,
}


def score(model, recordings, settings):
    """Accuracies of the trained model, and its logits."""
    logits = activity.whole_sequence_logits(model, recordings)
    windows = activity.window_accuracy(model, recordings, settings)
    samples = activity.sample_accuracy(logits, recordings)
    return {"windows": windows, "samples": samples}, logits


def score_seed(seed, train, test, settings):
    start = time.perf_counter()
    model = activity.train(train, settings, seed)
    row = {"seed": seed, "train_seconds": round(time.perf_counter() - start)}
    scores, whole = score(model, test, settings)
    row.update(scores)
    with tempfile.TemporaryDirectory() as folder:
        files = keras_mgrade.export.to_tflite(
            model,
            pathlib.Path(folder) / "{precision}.tflite",
            precision=["float32", "mixed"],
            calibration=activity.calibration(train),
        )
        for precision, file in files.items():
            row[f"{precision} bytes"] = file.bytes
            row[f"{precision} arena"] = file.arena_bytes
            for name, kind in RUNNERS.items():
                logits = run_file(kind(file.path), test)
                accuracy = activity.sample_accuracy(logits, test)
                row[f"{precision} {name}"] = accuracy
                row[f"{precision} {name} rms"] = deviation(logits, whole)
    return row


def run_file(runner, recordings):
    logits = []
    for recording in recordings:
        runner.reset()
        logits.append(runner.run(recording.signal))
    return logits


def score_held_out(changes, seed, train):
    """How settings are chosen: six training subjects stand in for a test."""
    settings = dataclasses.replace(activity.Settings(), **changes)
    subjects = sorted({recording.subject for recording in train})
    held = set(subjects[::4])
    parts = [
        hapt.Recordings(r for r in train if (r.subject in held) == wanted)
        for wanted in (False, True)
    ]
    model = activity.train(parts[0], settings, seed)
    scores, _ = score(model, parts[1], settings)
    return {"seed": seed, **scores, "changes": changes}


def deviation(logits, whole):
    """Root mean square of the difference, of that of the logits."""
    logits, whole = np.concatenate(logits), np.concatenate(whole)
    return float(np.sqrt(np.mean((logits - whole) ** 2) / np.mean(whole**2)))


def table(rows):
    seeds = "".join(f"  seed {row['seed']}" for row in rows)
    lines = [f"{'':22}{'mean':>9}  {seeds}"]
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key == "seed" or None in values:
            continue
        form = "{:.2%}" if isinstance(values[0], float) else "{:,.0f}"
        mean, *shown = (form.format(v) for v in (np.mean(values), *values))
        lines.append(f"{key:22}{mean:>9}  " + "".join(f"{v:>8}" for v in shown))
    return "\n".join(lines)


def read(path, head):
    """The rows so far, if they were made in the same way."""
    if path.is_file():
        old = json.loads(path.read_text())
        if {name: old.get(name) for name in head} == head:
            return old
    return {**head, "rows": []}


def write(path, results):
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1) + "\n")
    part.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="score on held-out training subjects, to choose settings",
    )
    parser.add_argument(
        "--change",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings, with --held-out: --change stretch=512 units=16",
    )
    arguments = parser.parse_args()
    if arguments.change and not arguments.held_out:
        parser.error("--change goes with --held-out: the test is for one model")
    changes = {
        name: json.loads(value)
        for name, value in (item.split("=") for item in arguments.change)
    }
    name = "activity_held_out" if arguments.held_out else "activity_recognition"
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    train = activity.load("train")
    settings = activity.Settings()
    results = read(
        path,
        {
            "settings": vars(settings),
            "backend": keras.backend.backend(),
            "keras": keras.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
    )
    done = {(r["seed"], str(r.get("changes"))) for r in results["rows"]}
    for seed in arguments.seeds:
        if arguments.held_out and (seed, str(changes)) not in done:
            results["rows"].append(score_held_out(changes, seed, train))
        elif not arguments.held_out and (seed, "None") not in done:
            test = activity.load("test")
            results["rows"].append(score_seed(seed, train, test, settings))
        write(path, results)
    if arguments.held_out:
        print(json.dumps(results["rows"], indent=1))
        return
    floor = hapt_floor.floor_accuracy(hapt.load("train"), hapt.load("test"))
    print(table(results["rows"]))
    print(f"{'windows, floor':22}{floor:>9.2%}")


if __name__ == "__main__":
    main()

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
import itertools
import json
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "examples"))

import numpy as np  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import hapt_floor  # noqa: E402
import keras_mgrade  # noqa: E402
import machine  # noqa: E402

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
    scores = {"windows": windows, "samples": samples}
    scores["wrong between sit, stand"] = sit_stand(logits, recordings)
    for subject in sorted({r.subject for r in recordings}):
        mine = [i for i, r in enumerate(recordings) if r.subject == subject]
        scores[f"subject {subject}"] = activity.sample_accuracy(
            [logits[i] for i in mine], [recordings[i] for i in mine]
        )
    return scores, logits


def sit_stand(logits, recordings):
    """Share of the wrong samples that are sitting for standing or back."""
    labels = np.concatenate([r.labels for r in recordings])
    answers = np.concatenate([x.argmax(axis=-1) for x in logits])
    wrong = (labels >= 0) & (labels != answers)
    pair = [hapt.CLASS_NAMES.index(n) for n in ("sitting", "standing")]
    return float(
        np.mean(np.isin(labels, pair)[wrong] & np.isin(answers, pair)[wrong])
    )


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


def score_held_out(changes, fold, seed, train):
    """How settings are chosen: every fourth training subject is the test."""
    settings = dataclasses.replace(activity.Settings(), **changes)
    subjects = sorted({recording.subject for recording in train})
    held = set(subjects[fold::4])
    parts = [
        hapt.Recordings(r for r in train if (r.subject in held) == wanted)
        for wanted in (False, True)
    ]
    model = activity.train(parts[0], settings, seed)
    scores, _ = score(model, parts[1], settings)
    total = keras_mgrade.memory_report(model).total
    scores["delay line in use"] = total.delay_line_in_use
    return {"changes": changes, "fold": fold, "seed": seed, **scores}


def deviation(logits, whole):
    """Root mean square of the difference, of that of the logits."""
    logits, whole = np.concatenate(logits), np.concatenate(whole)
    return float(np.sqrt(np.mean((logits - whole) ** 2) / np.mean(whole**2)))


def table(rows):
    seeds = "".join(f"  seed {row['seed']}" for row in rows)
    lines = [f"{'':26}{'mean':>9}  {seeds}"]
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key == "seed" or None in values:
            continue
        form = "{:.2%}" if isinstance(values[0], float) else "{:,.0f}"
        mean, *shown = (form.format(v) for v in (np.mean(values), *values))
        lines.append(f"{key:26}{mean:>9}  " + "".join(f"{v:>8}" for v in shown))
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
        type=int,
        nargs="*",
        choices=range(4),
        metavar="FOLD",
        help="score on held-out training subjects, to choose settings: every "
        "fourth one, from the given ones on (default: all four folds)",
    )
    parser.add_argument(
        "--change",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other settings, with --held-out: --change stretch=512 units=16",
    )
    arguments = parser.parse_args()
    held_out = arguments.held_out is not None
    folds = arguments.held_out or range(4)
    if arguments.change and not held_out:
        parser.error("--change goes with --held-out: the test is for one model")
    changes = {
        name: json.loads(value)
        for name, value in (item.split("=") for item in arguments.change)
    }
    name = "activity_held_out" if held_out else "activity_recognition"
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    train = hapt.load("train")
    settings = activity.Settings()
    results = read(
        path,
        {
            "settings": vars(settings),
            **machine.description(),
        },
    )
    if held_out:
        done = {key(row) for row in results["rows"]}
        for fold, seed in itertools.product(folds, arguments.seeds):
            job = {"changes": changes, "fold": fold, "seed": seed}
            if key(job) not in done:
                row = score_held_out(changes, fold, seed, train)
                results["rows"].append(row)
                write(path, results)
                print(row)
        print(held_out_table(results["rows"]))
        return
    test = hapt.load("test")
    done = {row["seed"] for row in results["rows"]}
    for seed in arguments.seeds:
        if seed not in done:
            results["rows"].append(score_seed(seed, train, test, settings))
            write(path, results)
    floor = hapt_floor.floor_accuracy(train, test)
    print(table(results["rows"]))
    print(f"{'windows, floor':26}{floor:>9.2%}")


def key(row):
    return str(row["changes"]), row["fold"], row["seed"]


def held_out_table(rows):
    """Means over folds and seeds of each change."""
    groups = {}
    for row in rows:
        groups.setdefault(str(row["changes"]), []).append(row)
    heads = f"{'runs':>6}{'windows':>9}{'samples':>9}{'delay line':>12}"
    lines = [f"{'changes':40}{heads}"]
    for changes, group in groups.items():
        line = f"{changes:40}{len(group):>6}"
        for name in ("windows", "samples"):
            line += f"{np.mean([row[name] for row in group]):>9.2%}"
        in_use = np.mean([row["delay line in use"] for row in group])
        line += f"{in_use:>12,.0f}"
        lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    main()

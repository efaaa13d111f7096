"""The activity recogniser on every test recording, as a mean of three seeds.

Trains the model of `examples/quickstart.py` once a seed and scores it: on the
official windows, on every labelled sample of the nine test subjects in one
pass each, and through the `.tflite` files in LiteRT and TFLite Micro, sample
by sample and never reset within a recording. Seeds that are in the results
file already are not trained again.

    KERAS_BACKEND=jax python benchmarks/activity_recognition.py
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent / "examples"))

import keras  # noqa: E402
import numpy as np  # noqa: E402

import activity  # noqa: E402
import hapt  # noqa: E402
import hapt_floor  # noqa: E402
import keras_mgrade  # noqa: E402

RESULTS = ROOT / "results" / "activity_recognition.json"


def score_seed(seed, train, test, settings):
    start = time.perf_counter()
    model = activity.train(train, settings, seed)
    row = {
        "seed": seed,
        "train_seconds": round(time.perf_counter() - start),
        "windows": activity.window_accuracy(model, test, settings),
    }
    whole = activity.whole_sequence_logits(model, test)
    row["samples"] = activity.sample_accuracy(whole, test)
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
            for name, kind in (
                ("LiteRT", keras_mgrade.export.LiteRTRunner),
                ("TFLM", keras_mgrade.export.TFLMRunner),
            ):
                runner = kind(file.path)
                logits = []
                for recording in test:
                    runner.reset()
                    logits.append(runner.run(recording.signal))
                row[f"{precision} {name}"] = activity.sample_accuracy(
                    logits, test
                )
                row[f"{precision} {name} rms"] = deviation(logits, whole)
    return row


def deviation(logits, whole):
    """Root mean square of the difference, of that of the logits."""
    logits, whole = np.concatenate(logits), np.concatenate(whole)
    return float(np.sqrt(np.mean((logits - whole) ** 2) / np.mean(whole**2)))


def table(results):
    rows = results["seeds"]
    seeds = "".join(f"  seed {row['seed']}" for row in rows)
    lines = [f"{'':22}{'mean':>9}  {seeds}"]
    for key in rows[0]:
        if key == "seed":
            continue
        values = [row[key] for row in rows]
        if isinstance(values[0], float):
            shown = [f"{value:.2%}" for value in (np.mean(values), *values)]
        else:
            shown = [f"{value:,.0f}" for value in (np.mean(values), *values)]
        lines.append(
            f"{key:22}{shown[0]:>9}  "
            + "".join(f"{value:>8}" for value in shown[1:])
        )
    lines.append(f"floor, windows        {results['floor']:>9.2%}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    train, test = activity.load("train"), activity.load("test")
    settings = activity.Settings()
    results = {
        "command": "python benchmarks/activity_recognition.py",
        "settings": vars(settings),
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "floor": hapt_floor.floor_accuracy(
            hapt.load("train"), hapt.load("test")
        ),
        "seeds": [],
    }
    if arguments.results.is_file():
        old = json.loads(arguments.results.read_text())
        if old["settings"] == results["settings"]:
            results = old
    done = {row["seed"] for row in results["seeds"]}
    for seed in arguments.seeds:
        if seed in done:
            continue
        results["seeds"].append(score_seed(seed, train, test, settings))
        part = arguments.results.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.replace(arguments.results)
    print(table(results))


if __name__ == "__main__":
    main()

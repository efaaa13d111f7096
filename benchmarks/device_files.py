"""What each precision costs: accuracy, answers that flip, drift, bytes.

    KERAS_BACKEND=jax python benchmarks/device_files.py

Downloads the recordings that no argument points at, trains what is not in
`--models` yet, converts every model to every precision, and runs the whole test
set through LiteRT and TFLite Micro. Results go to `results/device_files.json`
and, as a table, `device_files.md`.
"""

import argparse
import pathlib

import keras
import numpy as np

import device_tasks
import keras_mgrade
from keras_mgrade.export import LiteRTRunner, TFLMRunner
from results_file import ResultsFile, write_whole

WHOLE = ["float32", "mixed", "int16x8"]
RUNNERS = {"LiteRT": LiteRTRunner, "TFLM": TFLMRunner}


def answers_of_keras(model, streams):
    """`(logits, labels)` of every step that has a label."""
    found = [
        (model.predict(x[None], verbose=0)[0], labels) for x, labels in streams
    ]
    return picked(found)


def answers_of_file(runner, streams):
    found = []
    for x, labels in streams:
        runner.reset()
        found.append((runner.run(x), labels))
    return picked(found)


def answers_of_model(model, streams):
    """`(logits, labels)` of every labelled step, whole streams at once."""
    longest = max(len(x) for x, _ in streams)
    # What comes after a stream's end changes nothing before it.
    padded = np.zeros((len(streams), longest, streams[0][0].shape[1]))
    for row, (x, _) in zip(padded, streams, strict=True):
        row[: len(x)] = x
    found = model.predict(padded.astype("float32"), batch_size=4, verbose=0)
    return picked(
        [
            (answer[: len(y)] if answer.ndim > 1 else answer, y)
            for answer, (_, y) in zip(found, streams, strict=True)
        ]
    )


def right(logits, labels):
    return float(np.mean(logits.argmax(axis=-1) == labels))


def picked(found):
    """Where there is a label; the last step of a model with one answer."""
    logits = [
        (y if y.ndim > 1 else y[None])[-len(labels) :][
            labels[-(len(y) if y.ndim > 1 else 1) :] >= 0
        ]
        for y, labels in found
    ]
    labels = [labels[labels >= 0] for _, labels in found]
    return np.concatenate(logits), np.concatenate(labels)


def score(task, path, folder):
    """A row for each precision of one model."""
    model = keras.saving.load_model(path, compile=False)
    streams, calibration = list(task.streams()), task.calibration()
    target = pathlib.Path(folder) / (path.stem + "_{precision}.tflite")
    yield from score_files(model, target, WHOLE, streams, calibration)
    # Eight bits have no logarithm: the front end is the program's.
    heard = task.front_end(model)
    yield from score_files(
        device_tasks.without_front_end(model),
        target,
        ["int8"],
        [(heard(x), labels) for x, labels in streams],
        [heard(x) for x in calibration],
    )


def score_files(model, target, precisions, streams, calibration):
    logits, labels = answers_of_keras(model, streams)
    floats = logits.argmax(axis=-1)
    files = keras_mgrade.export.to_tflite(
        model, target, precisions, calibration
    )
    for precision, file in files.items():
        row = {
            "precision": precision,
            "labels": len(labels),
            "keras": float(np.mean(floats == labels)),
            "bytes": file.bytes,
            "content": file.content,
            "state_bytes": file.state_bytes,
            "arena": file.arena_bytes,
            "gates": file.gates,
            "warnings": list(file.warnings),
            "step_us": file.step_us,
        }
        for found in file.deviations[:2]:
            row[f"{found.runtime} rms"] = found.rms
            row[f"{found.runtime} first"] = found.first_rms
            row[f"{found.runtime} last"] = found.last_rms
        for name, runner in RUNNERS.items():
            answers = answers_of_file(runner(file.path), streams)[0]
            answers = answers.argmax(axis=-1)
            row[f"{name} accuracy"] = float(np.mean(answers == labels))
            row[f"{name} flips"] = float(np.mean(answers != floats))
        yield row


def table(rows):
    """All rows, the worse of the two runtimes in each column."""
    lines = [
        "# Files of each precision",
        "",
        "Accuracy on whole test sets, points lost and answers that flip beside "
        "Keras in float: of LiteRT and TFLite Micro the worse. Deviation: rms "
        "over 10,000 steps of calibration streams, of the output's rms; drift: "
        "that of the last 1,000 steps over that of the first. Bold: beyond "
        "what was aimed at. In int8 the front end, which has a logarithm, is "
        "the program's; all else begins with raw samples. Rest: bytes of the "
        "file that are neither weights nor biases (scales and zero points; "
        "structure).",
        "",
        "| task, normalisation | precision | Keras | file | lost | flips | "
        "deviation | drift | bytes | weights | biases | rest | arena |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        content = row["content"]
        scales = content["scales and zero points"]
        rest = content["shapes and indices"] + content["structure"]
        cells = [
            f"{row['task']}, {row['normalization']}",
            row["precision"],
            f"{row['keras']:.2%}",
            *judged(row),
            f"{row['bytes']:,}",
            f"{content['weights']:,}",
            f"{content['biases and other vectors']:,}",
            f"{scales:,}; {rest:,}",
            f"{row['arena'] or 0:,}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


# Points lost, or clips; answers that flip; deviation; drift.
AIMS = {
    "float32": (0.0, 0, 0.0, 1e-5, 1.5),
    "mixed": (0.003, 2, 0.01, 0.03, 1.5),
    "int16x8": (0.002, 2, 0.005, 0.015, 1.5),
}


def judged(row):
    """Accuracy and what is held against an aim, bold where it is missed."""
    worst = min(RUNNERS, key=lambda name: row[f"{name} accuracy"])
    accuracy = row[f"{worst} accuracy"]
    lost = row["keras"] - accuracy
    flips = max(row[f"{name} flips"] for name in RUNNERS)
    rms = max(row[f"{name} rms"] for name in RUNNERS)
    drift = max(row[f"{n} last"] / row[f"{n} first"] for n in RUNNERS)
    points, clips, *most = AIMS.get(row["precision"], (np.inf,) * 5)
    most = [max(points, clips / row["labels"]), *most]
    texts = [f"{100 * lost:.2f}", f"{flips:.2%}", f"{rms:.3%}", f"{drift:.2f}"]
    found = [lost, flips, rms, drift]
    return [f"{accuracy:.2%}"] + [
        # A difference of two shares is off by a rounding.
        f"**{text}**" if value > limit + 1e-9 else text
        for text, value, limit in zip(texts, found, most, strict=True)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("digits", "keywords"):
        parser.add_argument(f"--{name}", help="recordings, see device_tasks.py")
    parser.add_argument(
        "--models", default="device_models", help="folder of trained models"
    )
    arguments = parser.parse_args()
    folder = pathlib.Path(arguments.models)
    folder.mkdir(parents=True, exist_ok=True)
    results = ResultsFile("device_files", "task", "normalization")
    for name, make in device_tasks.TASKS.items():
        task = make(getattr(arguments, name, None))
        for normalization in device_tasks.NORMALIZATIONS:
            if results.has(name, normalization):
                continue
            path = device_tasks.trained(folder, name, task, normalization)
            rows = list(score(task, path, folder))
            for row in rows:
                results.add(
                    {"task": name, "normalization": normalization, **row}
                )
    write_whole(results.path.with_suffix(".md"), table(results.rows))


if __name__ == "__main__":
    main()

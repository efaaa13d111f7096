"""What each way to a smaller model saves, and what it costs in accuracy.

    KERAS_BACKEND=jax python benchmarks/smaller.py

Five trainings of two tasks, each made smaller in every way, and the whole test
set through the files in LiteRT. Models lie in `--models`, so that a run goes on
where the last one ended. Results go to `results/smaller.json` and, as a table,
`smaller.md`.
"""

import gzip

import numpy as np

import smaller_ways
from device_files import answers_of_file, answers_of_model, right
from device_measure import arena
from keras_mgrade import export
from results_file import ResultsFile, percent, write_whole
from smaller_ways import LINES, NAMES

SEEDS = range(5)
FLOAT = "float"
# In the table: what it is called, and how many points it may lose.
WAYS = {
    FLOAT: ("trained, in float", None),
    "mixed": ("mixed", None),
    "quantised mixed": ("mixed, quantisation-aware", 0.3),
    "int8": ("int8", None),
    "quantised int8": ("int8, quantisation-aware", 0.5),
    "pruned": ("80 % zeros, mixed", 1.0),
    "clustered": ("16 values a matrix, mixed", None),
    "structured": ("half the channels and taps, mixed", 1.0),
    "small": ("that size from scratch, mixed", None),
    "pipeline": ("pruned, clustered, quantisation-aware", 1.5),
    "pipeline structured": ("the same of half the channels and taps", None),
}


def models(made):
    """For each way the model, and the precision of its file."""
    yield FLOAT, made.floats, None
    for precision in ("mixed", "int8"):
        yield precision, made.floats, precision
        yield (
            f"quantised {precision}",
            lambda precision=precision: made.quantised(precision),
            precision,
        )
    for way in ("pruned", "clustered", "structured", "small"):
        yield way, getattr(made, way), "mixed"
    yield "pipeline", lambda: made.pipeline("whole", made.floats()), "mixed"
    yield (
        "pipeline structured",
        lambda: made.pipeline("structured", made.structured()),
        "mixed",
    )


def score(model, precision, made, folder):
    """Accuracy of a model, and of its file what it takes."""
    streams = made.behind.streams()
    wanted, labels = answers_of_model(model, streams)
    row = {"keras": right(wanted, labels)}
    if precision is None:
        return row
    trained = any(hasattr(part, "tflite_bytes") for part in model.layers)
    file = export.to_tflite(
        model,
        folder / f"smaller_{precision}.tflite",
        precision,
        None if trained else made.calibration,
        **LINES,
    )
    answers, _ = answers_of_file(export.LiteRTRunner(file.path), streams)
    row |= {
        "file": right(answers, labels),
        "parameters": int(model.count_params()),
        "bytes": file.bytes,
        "gzip": len(gzip.compress(file.path.read_bytes(), 9, mtime=0)),
        "weights": file.content["weights"],
        "state": file.state_bytes,
        "operators": len(file.operators),
        "gates": file.gates,
        "warnings": list(file.warnings),
        **arena(file),
    }
    for found in file.deviations[:2]:
        # Beside the Keras stream, one step at a time.
        row[f"{found.runtime} rms"] = found.rms
        row[f"{found.runtime} first"] = found.first_rms
        row[f"{found.runtime} last"] = found.last_rms
    if trained:
        # Over whole sequences, which round no state.
        power = np.mean((wanted - wanted.mean(axis=0)) ** 2)
        off = np.mean((answers - wanted) ** 2)
        row["sequence rms"] = float(np.sqrt(off / power))
    return row


def table(results, tasks):
    """A table for each task: means of the seeds, and what they differ by."""
    text = [
        "# Smaller models",
        "",
        "Means of the trainings, whole test sets. Right: of the file in "
        "LiteRT (of the model, in the first row). Lost: points beside the "
        "same training in float, mean and standard deviation of the pairs; "
        "bold where it is more than was aimed at. Flash: bytes of the file, "
        "and compressed (gzip). RAM: bytes that hold values between steps "
        "(states, delay lines) and within one (tensors), and with TFLite "
        "Micro's own (arena); lines are the program's. Apart: the file's "
        "answers from the quantisation-aware model's, rms, one step at a time "
        "and over whole sequences, where no state is rounded. Drift: how far "
        "apart the last 1,000 of 10,000 single steps are, over the first "
        "1,000.",
    ]
    for task in tasks:
        text += [
            "",
            f"## {task}",
            "",
            "| way | right | lost | flash | compressed | states, lines | "
            "tensors | arena | apart | drift |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for way, (name, most) in WAYS.items():
            rows = results.group(task=task, way=way)
            if rows:
                cells = [name, *columns(rows, floats(results, rows), most)]
                text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def floats(results, rows):
    """Accuracy in float of the trainings of some rows."""
    return [
        results.group(task=row["task"], seed=row["seed"], way=FLOAT)[0]["keras"]
        for row in rows
    ]


def columns(rows, before, most):
    if "file" not in rows[0]:
        return [percent(rows, "keras")] + [""] * 8
    lost = [
        100 * (b - row["file"]) for row, b in zip(rows, before, strict=True)
    ]
    spread = np.std(lost, ddof=1) if len(lost) > 1 else 0.0
    text = f"{np.mean(lost):.2f} +- {spread:.2f}"
    if most is not None and np.mean(lost) > most:
        text = f"**{text}**"

    def mean(key):
        return f"{np.mean([row[key] for row in rows]):,.0f}"

    apart = drift = ""
    if "sequence rms" in rows[0]:
        step, sequence = (
            np.mean([row[key] for row in rows])
            for key in ("LiteRT rms", "sequence rms")
        )
        apart = f"{step:.2%}, {sequence:.2%}"
        last, first = (
            np.mean([row[f"LiteRT {when}"] for row in rows])
            for when in ("last", "first")
        )
        drift = f"{last / first:.2f}"
    sizes = [mean(k) for k in ("bytes", "gzip", "state", "tensors", "arena")]
    return [percent(rows, "file"), text, *sizes, apart, drift]


def main():
    parser = smaller_ways.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument(
        "--ways", nargs="*", choices=WAYS, default=list(WAYS), metavar="WAY"
    )
    parser.add_argument("--results", default="smaller", help="their name")
    arguments = parser.parse_args()
    results = ResultsFile(arguments.results, "task", "seed", "way")
    for seed in arguments.seeds:
        for name in NAMES:
            if all(results.has(name, seed, way) for way in arguments.ways):
                continue
            made = smaller_ways.ways(arguments, name, seed)
            for way, make, precision in models(made):
                done = results.has(name, seed, way)
                if way in arguments.ways and not done:
                    row = score(make(), precision, made, arguments.models)
                    results.add({"task": name, "seed": seed, "way": way, **row})
    write_whole(results.path.with_suffix(".md"), table(results, NAMES))


if __name__ == "__main__":
    main()

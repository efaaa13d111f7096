"""How far a quantisation-aware model and its file lie apart, and how right.

    KERAS_BACKEND=jax python benchmarks/quantized_steps.py

Trainings of two tasks, whole test streams, in LiteRT and in TFLite Micro,
and these beside one another. Models are those of `smaller.py`, in `--models`.
Results go to `results/quantized_steps.json` and, as a table, `.md`.
"""

import numpy as np

import smaller_ways
from device_files import answers_of_file, answers_of_model, right
from keras_mgrade import export
from results_file import ResultsFile, write_whole
from smaller_ways import LINES, NAMES

PRECISIONS = ("mixed", "int8")
PAIRS = (("LiteRT", "model"), ("TFLM", "model"), ("TFLM", "LiteRT"))


def score(made, precision, folder):
    """A row: who is right how often, who lies how far from whom."""
    streams = made.behind.streams()
    before, labels = answers_of_model(made.floats(), streams)
    model = made.quantised(precision)
    found = {"model": answers_of_model(model, streams)[0]}
    file = export.to_tflite(
        model, folder / "steps.tflite", precision, proof_steps=1000, **LINES
    )
    for name, kind in (
        ("LiteRT", export.LiteRTRunner),
        ("TFLM", export.TFLMRunner),
    ):
        found[name] = answers_of_file(kind(file.path), streams)[0]
    row = {"float": right(before, labels)}
    row |= {name: right(answers, labels) for name, answers in found.items()}
    answer = next(t for t in file.outputs if t.name == "output")
    # Of the 256 that eight bits make of the range.
    step = answer.scale or np.ptp(found["LiteRT"]) / 256
    if "int16" in str(answer.dtype):
        step *= 256
    for one, other in PAIRS:
        apart = np.abs(found[one] - found[other]) / step
        row[f"{one} - {other}"] = {
            "within 3": float(np.mean(apart <= 3)),
            "most": float(apart.max()),
            "rms": float(np.sqrt(np.mean(apart**2))),
        }
    return row


def table(results):
    """A row for each task and precision, of all seeds."""
    text = [
        "# Quantisation-aware models beside their files",
        "",
        "Whole test streams. Right, in per cent: mean "
        "of the trainings. Lost: points beside the same training in float. "
        "Apart: share of the answers at most 3 steps of eight bits apart, the "
        "largest distance and the rms, in steps; the worst training. The "
        "model computes whole sequences: in int8 it "
        "rounds no state within one, and its file does.",
        "",
        "| task | file | trainings | float | LiteRT | lost | "
        + " | ".join(" - ".join(pair) for pair in PAIRS)
        + " |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for task in NAMES:
        for precision in PRECISIONS:
            rows = results.group(task=task, precision=precision)
            if not rows:
                continue
            means = [
                100 * np.mean([row[who] for row in rows])
                for who in ("float", "LiteRT")
            ]
            cells = [
                task,
                precision,
                str(len(rows)),
                *(f"{mean:.2f}" for mean in (*means, means[0] - means[1])),
            ]
            for pair in PAIRS:
                apart = [row[" - ".join(pair)] for row in rows]
                share = min(a["within 3"] for a in apart)
                most, rms = (max(a[k] for a in apart) for k in ("most", "rms"))
                cells.append(f"{share:.3%}, {most:.1f}, {rms:.2f}")
            text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main():
    parser = smaller_ways.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    results = ResultsFile("quantized_steps", "task", "seed", "precision")
    for name in NAMES:
        for seed in arguments.seeds:
            if all(results.has(name, seed, p) for p in PRECISIONS):
                continue
            made = smaller_ways.ways(arguments, name, seed)
            for precision in PRECISIONS:
                if not results.has(name, seed, precision):
                    row = score(made, precision, arguments.models)
                    keys = {"task": name, "seed": seed, "precision": precision}
                    results.add({**keys, **row})
    write_whole(results.path.with_suffix(".md"), table(results))


if __name__ == "__main__":
    main()

"""How far the answers of a quantisation-aware model and of its file lie apart.

    KERAS_BACKEND=jax python benchmarks/quantized_steps.py

On whole test streams of two tasks, in LiteRT and in TFLite Micro, and these
beside one another; in steps of the output scale of eight bits. Models are those
of `smaller.py`, in `--models`. Results go to `results/quantized_steps.md`.
"""

import argparse
import pathlib

import numpy as np

import device_tasks
import machine
from keras_mgrade import export
from results_file import write_whole
from smaller_ways import LINES, Ways

PRECISIONS = ("mixed", "int8")
RUNNERS = {"LiteRT": export.LiteRTRunner, "TFLM": export.TFLMRunner}


def answers(run, streams):
    return np.concatenate([np.atleast_2d(run(x)) for x, _ in streams])


def compare(model, precision, streams, folder):
    """`{pair: steps that each answer lies apart}`."""
    file = export.to_tflite(
        model, folder / "steps.tflite", precision, proof_steps=1000, **LINES
    )
    found = {
        "model": answers(
            lambda x: model.predict(x[None], verbose=0)[0], streams
        )
    }
    for name, kind in RUNNERS.items():
        runner = kind(file.path)

        def run(x, runner=runner):
            runner.reset()
            y = runner.run(x)
            # Digits have one answer, that after the last step.
            return y if len(model.output.shape) == 3 else y[-1]

        found[name] = answers(run, streams)
    tensor = next(t for t in file.outputs if t.name == "output")
    step = tensor.scale * (256 if tensor.dtype == "int16" else 1)
    pairs = (("LiteRT", "model"), ("TFLM", "model"), ("TFLM", "LiteRT"))
    return {
        f"{one} - {other}": np.abs(found[one] - found[other]) / step
        for one, other in pairs
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", help="recordings, see device_tasks.py")
    parser.add_argument(
        "--models",
        type=pathlib.Path,
        default=pathlib.Path("device_models"),
        help="folder of trained models",
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    about = machine.description()
    lines = [
        "# A quantisation-aware model beside its file",
        "",
        "Share of the answers at most 3 steps of eight bits apart, and the "
        "largest distance in steps, on whole test streams. In mixed files "
        "the model computes whole sequences as the file does step by step; in "
        "int8 files it rounds no state within a sequence, and the file does. "
        f"Keras {about['keras']}, {about['backend']}, {about['machine']}.",
        "",
        "| task | seed | file | LiteRT - model | TFLM - model "
        "| TFLM - LiteRT |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("activity", "digits"):
        task = device_tasks.TASKS[name](
            *([arguments.digits] if name == "digits" else [])
        )
        for seed in arguments.seeds:
            made = Ways(arguments.models, name, task, seed)
            for precision in PRECISIONS:
                apart = compare(
                    made.quantised(precision),
                    precision,
                    made.behind.streams(),
                    arguments.models,
                )
                cells = [
                    f"{100 * np.mean(steps <= 3):.3f} %, {steps.max():.1f}"
                    for steps in apart.values()
                ]
                row = [name, str(seed), precision, *cells]
                lines.append(f"| {' | '.join(row)} |")
                print(lines[-1], flush=True)
    path = pathlib.Path(__file__).resolve().parent / "results"
    write_whole(path / "quantized_steps.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

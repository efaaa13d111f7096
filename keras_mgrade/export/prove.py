"""Compare an exported file with the Keras stream it was made from."""

import dataclasses
import os
import re
import sys
import tempfile
from typing import Any

import numpy as np

from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner

# Float32: of the output's largest magnitude; other orders of the same sums,
# fed back for thousands of steps.
FLOAT_BOUND = 1e-4
# Mixed: rms, of the output's rms. What eight bits cost depends on the model
# and is reported; beyond a quarter the conversion went wrong.
MIXED_BOUND = 0.25


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a runtime's outputs lie from those of the Keras stream.

    Attributes:
        runtime: `"LiteRT"` or `"TFLM"`.
        steps: Steps compared; 0 if it was not run.
        maximum: Largest deviation, as a fraction of the output's largest
            magnitude; `None` if it was not run.
        rms: Root mean square of the deviation, as a fraction of the output's
            root mean square; `None` if it was not run.
        note: Why it was not run.
    """

    runtime: str
    steps: int = 0
    maximum: float | None = None
    rms: float | None = None
    note: str = ""


def keras_outputs(stream: Any, columns: list[np.ndarray]) -> list[np.ndarray]:
    """Outputs of the Keras stream over a sequence, one graph call in all."""
    import tensorflow as tf

    count = len(columns)
    starts = [tf.zeros(t.shape, t.dtype) for t in stream.inputs[count:]]
    answers = stream.outputs[: len(stream.outputs) - len(starts)]

    @tf.function(autograph=False)
    def run(sequences):
        steps = tf.shape(sequences[0])[0]
        written = [tf.TensorArray(t.dtype, size=steps) for t in answers]

        def step(t, states, written):
            samples = [sequence[t][None] for sequence in sequences]
            flat = tf.nest.flatten(stream([*samples, *states]))
            written = [
                w.write(t, y) for w, y in zip(written, flat, strict=False)
            ]
            return t + 1, flat[len(answers) :], written

        # A loop, not `tf.scan`, which would keep all states of all steps.
        _, _, written = tf.while_loop(
            lambda t, states, written: t < steps, step, (0, starts, written)
        )
        return [w.stack() for w in written]

    outputs = run([tf.constant(column) for column in columns])
    return [np.asarray(output)[:, 0] for output in outputs]


def deviation(
    runtime: str, outputs: list[np.ndarray], reference: list[np.ndarray]
) -> Deviation:
    """The worst deviation over the outputs of a model."""
    largest, rms = 0.0, 0.0
    tiny = np.finfo(np.float32).tiny
    for output, wanted in zip(outputs, reference, strict=True):
        error = output.astype(np.float64) - wanted
        if not np.isfinite(error).all():
            return Deviation(runtime, len(output), np.inf, np.inf)
        largest = max(
            largest, np.abs(error).max() / max(np.abs(wanted).max(), tiny)
        )
        signal = np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))
        noise = np.sqrt(np.mean(np.square(error)))
        rms = max(rms, noise / max(signal, tiny))
    return Deviation(runtime, len(reference[0]), float(largest), float(rms))


def prove(
    path: str | os.PathLike,
    precision: str,
    columns: list[np.ndarray],
    reference: list[np.ndarray],
) -> tuple[list[Deviation], int | None, str]:
    """Run a file in LiteRT and TFLite Micro against the Keras stream.

    Args:
        path: The file.
        precision: `"float32"` or `"mixed"`.
        columns: Inputs, one array (steps, features) for each.
        reference: Outputs of the Keras stream.

    Returns:
        The deviations, the arena's size in bytes (`None` if TFLite Micro
        could not be run) and the reason for that.

    Raises:
        RuntimeError: If a runtime deviates by more than the bound.
    """
    results = [_run(LiteRTRunner(path), "LiteRT", columns, reference)]
    arena, note = None, ""
    try:
        micro = TFLMRunner(path)
    except ImportError as error:
        note = f"not run: {error}"
        results.append(Deviation("TFLM", note=note))
    else:
        results.append(_run(micro, "TFLM", columns, reference))
        arena = arena_bytes(micro)
    for result in results:
        _check(result, precision)
    return results, arena, note


def _run(runner, runtime, columns, reference) -> Deviation:
    outputs = runner.run(columns if len(columns) > 1 else columns[0])
    outputs = outputs if isinstance(outputs, list) else [outputs]
    return deviation(runtime, outputs, reference)


def _check(result: Deviation, precision: str) -> None:
    if result.maximum is None or result.rms is None:
        return
    if precision == "float32":
        figure, bound, kind = result.maximum, FLOAT_BOUND, "maximum"
    else:
        figure, bound, kind = result.rms, MIXED_BOUND, "rms"
    # Written so that NaN fails.
    if not figure <= bound:
        raise RuntimeError(
            f"The {precision} file does not reproduce the Keras stream in "
            f"{result.runtime}: the {kind} deviation over {result.steps} "
            f"steps is {figure:.3g} of the output, the bound {bound:g}. No "
            "file was written."
        )


def arena_bytes(runner: TFLMRunner) -> int:
    """Bytes of the arena in use, from TFLite Micro's recording allocator."""
    # It reports on the C stderr only.
    sys.stderr.flush()
    with tempfile.TemporaryFile() as report:
        saved = os.dup(2)
        try:
            os.dup2(report.fileno(), 2)
            runner.print_allocations()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        report.seek(0)
        text = report.read().decode(errors="replace")
    found = re.search(r"Arena allocation total (\d+) bytes", text)
    if found is None:
        raise RuntimeError(
            "TFLite Micro did not report its arena; another version of its "
            f"wheel may be installed. Its report: {text[:500]!r}"
        )
    return int(found.group(1))

"""Compare an exported file with the Keras stream it was made from."""

import dataclasses
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_mgrade.export.calibration import Columns
from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner

# Float32: of the output's largest magnitude; other orders of the same sums,
# fed back for thousands of steps.
FLOAT_BOUND = 1e-4
# Quantised: rms, of the output's rms. What eight bits cost depends on the
# model and is reported; beyond these the conversion went wrong. A state of
# eight bits may be wholly off, by its nature: that is told, not refused.
RMS_BOUNDS = {"mixed": 0.25, "int16x8": 0.25, "int8": math.inf}


# Over how many steps at the beginning and at the end a drift would show.
ENDS = 1000


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How far a runtime's outputs lie from those of the Keras stream.

    Attributes:
        runtime: `"LiteRT"`, `"TFLM"`, or `"TFLM beside LiteRT"`, whose
            reference is not Keras but LiteRT.
        steps: Steps compared; 0 if it was not run.
        maximum: Largest deviation, as a fraction of the output's largest
            magnitude; `None` if it was not run.
        rms: Root mean square of the deviation, as a fraction of the output's
            root mean square; `None` if it was not run.
        first_rms: The same over the first 1,000 steps only (half of the
            stream, if it is shorter than two thousand).
        last_rms: The same over as many at the end, of the same samples;
            larger, if the file drifts.
        note: Why it was not run.
    """

    runtime: str
    steps: int = 0
    maximum: float | None = None
    rms: float | None = None
    first_rms: float | None = None
    last_rms: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Proof:
    """What came of running a file.

    Attributes:
        deviations: One for each runtime, and of one runtime to the other.
        arena_bytes: Arena in use in TFLite Micro; `None` if it was not run.
        arena_needed: How large the arena must be for the setup; `None` if it
            was not run.
        arena_note: Why it was not run.
        step_us: Median time of a step in LiteRT on this machine, in
            microseconds.
    """

    deviations: tuple[Deviation, ...]
    arena_bytes: int | None
    arena_needed: int | None
    arena_note: str
    step_us: float


def proof_columns(columns: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """The stream a file is proved on: the columns, repeated or cut.

    It ends with the samples it begins with, so that a larger deviation at the
    end is a drift and not another passage.
    """
    ends = ends_of(steps)
    long = repeated(columns, steps - ends)
    start = repeated(columns, ends)
    return [np.concatenate(pair) for pair in zip(long, start, strict=True)]


def repeated(columns: list[np.ndarray], steps: int) -> list[np.ndarray]:
    """Columns of so many steps, from the start again where they end."""
    places = np.arange(steps) % len(columns[0])
    return [column[places] for column in columns]


def ends_of(steps: int) -> int:
    """How many steps the beginning and the end of a stream have."""
    return max(1, min(ENDS, steps // 2))


def keras_outputs(stream: Any, count: int) -> Callable[[Columns], Columns]:
    """The Keras stream over a sequence, one graph call in all.

    Args:
        stream: The Keras step model.
        count: How many of its inputs are no states.

    Returns:
        A function that takes an array (steps, ...) for each input and gives
        one for each answer. It is traced once for each number of steps.
    """
    import tensorflow as tf

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

    def outputs(columns):
        found = run([tf.constant(column) for column in columns])
        return [np.asarray(output)[:, 0] for output in found]

    return outputs


def deviation(
    runtime: str, outputs: list[np.ndarray], reference: list[np.ndarray]
) -> Deviation:
    """The worst deviation over the outputs of a model."""
    worst = dict.fromkeys(("maximum", "rms", "first_rms", "last_rms"), 0.0)
    steps = len(reference[0])
    ends = ends_of(steps)
    tiny = np.finfo(np.float32).tiny
    for output, wanted in zip(outputs, reference, strict=True):
        error = output.astype(np.float64) - wanted
        if not np.isfinite(error).all():
            worst = dict.fromkeys(worst, math.inf)
            break
        signal = max(_rms(wanted.astype(np.float64)), tiny)
        largest = max(np.abs(wanted).max(), tiny)
        found = {
            "maximum": np.abs(error).max() / largest,
            "rms": _rms(error) / signal,
            "first_rms": _rms(error[:ends]) / signal,
            "last_rms": _rms(error[-ends:]) / signal,
        }
        worst = {k: max(worst[k], float(v)) for k, v in found.items()}
    return Deviation(runtime, steps, **worst)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def prove(
    path: str | os.PathLike,
    precision: str,
    columns: list[np.ndarray],
    reference: list[np.ndarray],
    refuse: bool = True,
) -> Proof:
    """Run a file in LiteRT and TFLite Micro against the Keras stream.

    Args:
        path: The file.
        precision: Of `PRECISIONS`.
        columns: Inputs, one array (steps, features) for each.
        reference: Outputs of the Keras stream.
        refuse: Whether too large a deviation is an error. Defaults to `True`.

    Returns:
        The `Proof`.

    Raises:
        RuntimeError: If a runtime deviates by more than the bound.
    """
    lite = LiteRTRunner(path)
    outputs = run(lite, columns)
    results = [deviation("LiteRT", outputs, reference)]
    arena, note = (None, None), ""
    try:
        micro = TFLMRunner(path)
    except ImportError as error:
        note = f"not run: {error}"
        results.append(Deviation("TFLM", note=note))
    else:
        micros = run(micro, columns)
        results.append(deviation("TFLM", micros, reference))
        results.append(deviation("TFLM beside LiteRT", micros, outputs))
        arena = arena_bytes(micro)
    for result in results[:2] if refuse else ():
        check(result, precision)
    return Proof(tuple(results), *arena, note, lite.step_time())


def run(runner, columns: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a runner over a stream, a list of them in any case."""
    outputs = runner.run(columns if len(columns) > 1 else columns[0])
    return outputs if isinstance(outputs, list) else [outputs]


def check(result: Deviation, precision: str) -> None:
    """Raise if a file lies further off than its precision can explain."""
    if result.maximum is None or result.rms is None:
        return
    if precision == "float32":
        figure, bound, kind = result.maximum, FLOAT_BOUND, "maximum"
    else:
        figure, bound, kind = result.rms, RMS_BOUNDS[precision], "rms"
    # Written so that NaN fails.
    if not figure <= bound:
        raise RuntimeError(
            f"The {precision} file does not reproduce the Keras stream in "
            f"{result.runtime}: the {kind} deviation over {result.steps} "
            f"steps is {figure:.3g} of the output, the bound {bound:g}. No "
            "file was written."
        )


def arena_bytes(runner: TFLMRunner) -> tuple[int, int]:
    """What TFLite Micro's arena holds, and how large it must be.

    Setting up takes more than it leaves in use: the planner of the memory
    works in the arena, with up to 40 bytes for each tensor that moves and 32
    for each tensor (TFLite Micro's sources, 64-bit pointers).

    Returns:
        `(bytes in use, bytes that are enough for the setup)`.
    """
    parts = arena_parts(runner)
    everything, moving = runner.tensor_counts()
    planning = 40 * moving + 32 * everything
    needed = parts["tail"] + max(parts["head"], planning) + 64
    return parts["total"], needed


def arena_parts(runner: TFLMRunner) -> dict[str, int]:
    """What the arena holds by kind, in bytes.

    Returns:
        `"head"`: values of tensors, where those that are never there together
        share a place; `"tail"`: what describes tensors and operators, larger
        with 64-bit pointers than on a microcontroller; `"total"`.
    """
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
    sizes = {
        part: re.search(rf"Arena allocation {part} (\d+) bytes", text)
        for part in ("total", "head", "tail")
    }
    if None in sizes.values():
        raise RuntimeError(
            "TFLite Micro did not report its arena; another version of its "
            f"wheel may be installed. Its report: {text[:500]!r}"
        )
    return {part: int(found.group(1)) for part, found in sizes.items()}

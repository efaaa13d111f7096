"""Compare the file of a whole window with the Keras stream."""

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import prove as streams
from keras_mgrade.export.interface import read_interface
from keras_mgrade.streaming import TimeAxes

NOT_IN_TFLM = "not run: the file of a whole window is for phones"

# More windows say nothing new of a file without states.
LARGEST = 32


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows, and what the Keras stream answers to each from its start.

    Attributes:
        inputs: For each window an array for each input, as the file takes it.
        answers: The same for each answer, without the batch axis.
    """

    inputs: list[list[np.ndarray]]
    answers: list[list[np.ndarray]]


def windows(
    stream: Any, columns: list[np.ndarray], length: int, axes: TimeAxes
) -> Windows:
    """The windows that a file is proved on.

    Args:
        stream: The Keras step model.
        columns: Inputs, one array (steps, features) for each.
        length: Steps of a window.
        axes: Which inputs and answers have a time axis.

    Returns:
        The `Windows`, at least one.
    """
    run = streams.keras_outputs(stream, len(columns))
    inputs, answers = [], []
    for parts in cut(columns, length):
        inputs.append(as_taken(parts, axes.inputs))
        answers.append(
            [
                y if timed else y[-1]
                for y, timed in zip(run(parts), axes.answers, strict=True)
            ]
        )
    return Windows(inputs, answers)


def cut(columns: list[np.ndarray], length: int) -> Iterator[list[np.ndarray]]:
    """Windows of a stream, which is repeated if it is shorter than one."""
    last = max(0, len(columns[0]) - length)
    for first in range(0, last + 1, length)[:LARGEST]:
        yield streams.repeated([c[first:] for c in columns], length)


def as_taken(
    parts: list[np.ndarray], timed: Sequence[bool]
) -> list[np.ndarray]:
    """A window as the file takes it.

    Of an input without a time axis that is the value at the last step.
    """
    return [
        part[None] if every else part[-1:]
        for part, every in zip(parts, timed, strict=True)
    ]


def prove(
    path: str | os.PathLike, precision: str, cases: Windows
) -> streams.Proof:
    """Run windows through LiteRT and compare with the stream.

    Args:
        path: The file.
        precision: Of `PRECISIONS`.
        cases: What to run, and what must come.

    Returns:
        The `Proof`; such files are for phones, and TFLite Micro is not run.

    Raises:
        RuntimeError: If the file deviates by more than the bound.
    """
    found, times = run(path, cases.inputs)
    pairs = [
        [np.stack(part) for part in zip(*rows, strict=True)]
        for rows in (found, cases.answers)
    ]
    result = streams.deviation("LiteRT", *pairs)
    streams.check(result, precision)
    return proof_of(
        [result, streams.Deviation("TFLM", note=NOT_IN_TFLM)], times
    )


def run(
    path: str | os.PathLike, windows: Iterable[list[np.ndarray]]
) -> tuple[list[list[np.ndarray]], list[float]]:
    """Windows through a file in LiteRT.

    Returns:
        For each window its outputs, without the batch axis, and how long it
        took in seconds.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    call = interpreter.get_signature_runner(fb.SIGNATURE)
    interface = read_interface(fb.load(pathlib.Path(path).read_bytes()))
    inputs = [tensor.name for tensor in interface.inputs]
    names = [tensor.name for tensor in interface.outputs]
    found, times = [], []
    for values in windows:
        start = time.perf_counter()
        outputs = call(**dict(zip(inputs, values, strict=True)))
        times.append(time.perf_counter() - start)
        found.append([outputs[name][0] for name in names])
    return found, times


def proof_of(
    deviations: list[streams.Deviation], times: list[float]
) -> streams.Proof:
    """What is known of a file that only LiteRT ran."""
    median = 1e6 * float(np.median(times))
    return streams.Proof(tuple(deviations), None, None, NOT_IN_TFLM, median)

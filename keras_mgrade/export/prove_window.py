"""Compare the file of a whole window with the Keras stream."""

import dataclasses
import os
import pathlib
import time
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import prove as streams
from keras_mgrade.export.interface import read_interface
from keras_mgrade.streaming import TimeAxes

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
        axes: Which inputs and answers have a time axis. Of an input without
            one the value at the last step of a window is taken.

    Returns:
        The `Windows`, at least one.
    """
    run = streams.keras_outputs(stream, len(columns))
    inputs, answers = [], []
    firsts = range(0, max(1, len(columns[0]) - length + 1), length)
    for first in firsts[:LARGEST]:
        parts = streams.repeated([c[first:] for c in columns], length)
        inputs.append(
            [
                part[None] if timed else part[-1:]
                for part, timed in zip(parts, axes.inputs, strict=True)
            ]
        )
        answers.append(
            [
                y if timed else y[-1]
                for y, timed in zip(run(parts), axes.answers, strict=True)
            ]
        )
    return Windows(inputs, answers)


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
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    run = interpreter.get_signature_runner(fb.SIGNATURE)
    interface = read_interface(fb.load(pathlib.Path(path).read_bytes()))
    inputs = [tensor.name for tensor in interface.inputs]
    names = [tensor.name for tensor in interface.outputs]
    found, times = [], []
    for values in cases.inputs:
        start = time.perf_counter()
        outputs = run(**dict(zip(inputs, values, strict=True)))
        times.append(time.perf_counter() - start)
        found.append([outputs[name][0] for name in names])
    pairs = [
        [np.stack(part) for part in zip(*rows, strict=True)]
        for rows in (found, cases.answers)
    ]
    result = streams.deviation("LiteRT", *pairs)
    streams.check(result, precision)
    note = "not run: the file of a whole window is for phones"
    return streams.Proof(
        (result, streams.Deviation("TFLM", note=note)),
        None,
        None,
        note,
        1e6 * float(np.median(times)),
    )

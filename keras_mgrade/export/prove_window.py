"""Compare the file of a whole window with the Keras stream."""

import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import prove as streams
from keras_mgrade.export.interface import read_interface

NOT_IN_TFLM = "not run: the file of a whole window is for phones"

# More windows say nothing new of a file without states.
LARGEST = 32


def prove(
    path: str | os.PathLike,
    precision: str,
    stream: Any,
    columns: list[np.ndarray],
    length: int,
    timed: list[bool],
) -> streams.Proof:
    """Run windows through LiteRT, and the stream over each from its start.

    Args:
        path: The file.
        precision: Of `PRECISIONS`.
        stream: The Keras step model.
        columns: Inputs, one array (steps, features) for each.
        length: Steps of a window.
        timed: For each answer whether there is one at every step.

    Returns:
        The `Proof`; such files are for phones, and TFLite Micro is not run.

    Raises:
        RuntimeError: If the file deviates by more than the bound.
    """
    found, wanted, times = [], [], []
    for parts, outputs, seconds in run(path, columns, length):
        found.append(outputs)
        times.append(seconds)
        answers = streams.keras_outputs(stream, parts)
        wanted.append(
            [
                y if every else y[-1]
                for y, every in zip(answers, timed, strict=True)
            ]
        )
    pairs = [
        [np.stack(part) for part in zip(*rows, strict=True)]
        for rows in (found, wanted)
    ]
    result = streams.deviation("LiteRT", *pairs)
    streams.check(result, precision)
    return proof_of(
        [result, streams.Deviation("TFLM", note=NOT_IN_TFLM)], times
    )


def run(
    path: str | os.PathLike, columns: list[np.ndarray], length: int
) -> Iterator[tuple[list[np.ndarray], list[np.ndarray], float]]:
    """The windows of a stream through a file in LiteRT, one by one.

    A stream that is shorter than a window is repeated.

    Yields:
        The window's inputs, its outputs, and how long it took in seconds.
    """
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    call = interpreter.get_signature_runner(fb.SIGNATURE)
    interface = read_interface(fb.load(pathlib.Path(path).read_bytes()))
    inputs = [tensor.name for tensor in interface.inputs]
    names = [tensor.name for tensor in interface.outputs]
    last = max(0, len(columns[0]) - length)
    for first in range(0, last + 1, length)[:LARGEST]:
        parts = streams.repeated([c[first:] for c in columns], length)
        given = {
            name: part[None] for name, part in zip(inputs, parts, strict=True)
        }
        start = time.perf_counter()
        outputs = call(**given)
        seconds = time.perf_counter() - start
        yield parts, [outputs[name][0] for name in names], seconds


def proof_of(
    deviations: list[streams.Deviation], times: list[float]
) -> streams.Proof:
    """What is known of a file that only LiteRT ran."""
    median = 1e6 * float(np.median(times))
    return streams.Proof(tuple(deviations), None, None, NOT_IN_TFLM, median)

"""Compare the file of a whole window with the Keras stream."""

import os
import pathlib
import time
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import prove as streams
from keras_mgrade.export.interface import read_interface

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
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    run = interpreter.get_signature_runner(fb.SIGNATURE)
    interface = read_interface(fb.load(pathlib.Path(path).read_bytes()))
    inputs = [tensor.name for tensor in interface.inputs]
    names = [tensor.name for tensor in interface.outputs]
    found, wanted, times = [], [], []
    for first in range(0, max(1, len(columns[0]) - length + 1), length):
        if len(found) == LARGEST:
            break
        parts = streams.repeated([c[first:] for c in columns], length)
        start = time.perf_counter()
        outputs = run(
            **{
                name: part[None]
                for name, part in zip(inputs, parts, strict=True)
            }
        )
        times.append(time.perf_counter() - start)
        found.append([outputs[name][0] for name in names])
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
    note = "not run: the file of a whole window is for phones"
    return streams.Proof(
        (result, streams.Deviation("TFLM", note=note)),
        None,
        None,
        note,
        1e6 * float(np.median(times)),
    )

"""What `check` finds in a file, in the process that may die of it."""

import pathlib
from typing import Any

import numpy as np

from keras_mgrade.export import calibration as calibrations
from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import operators
from keras_mgrade.export.container import modules_of, read_config
from keras_mgrade.export.interface import TensorInfo, read_interface
from keras_mgrade.export.result import TFLiteFile, to_json

# Operators that run other graphs of a file, perhaps without end.
LOOPS = ("CALL", "CALL_ONCE", "IF", "WHILE")
# Steps of noise where the caller gives no sequence.
STEPS = 256


def look_at(
    path: str,
    columns: list[Any] | dict[str, Any] | None,
    steps: int | None,
) -> str | dict[str, Any]:
    """What `check` finds.

    Args:
        path: The file.
        columns: For each input a sequence, in order or by name; `None` is
            noise.
        steps: How much noise; `None` is `STEPS`.
    """
    file = pathlib.Path(path)
    with open(file, "rb") as opened:
        head = opened.read(8)
    if head[:2] != b"PK" and file.suffix != ".keras":
        return to_json(_look_at_tflite(file, columns, steps or STEPS))
    if columns is not None or steps is not None:
        name = "steps" if columns is None else "sequence"
        raise ValueError(
            f"Expected `{name}` for a .tflite file only: a .keras file is made "
            f"a stream, but not run. Leave `{name}` out, or convert the model "
            f"first. Received: path={path!r}, with `{name}`"
        )
    return _look_at_keras(file)


def _look_at_keras(path: pathlib.Path) -> str:
    from keras_mgrade.export.child import load_stream
    from keras_mgrade.memory import stream_report

    if path.suffix != ".keras":
        raise ValueError(
            "Expected the name of a Keras model to end in '.keras': rename "
            f"the file. Received: path={str(path)!r}"
        )
    # Importing what an untrusted file names would run it.
    own = [
        module
        for module in modules_of(read_config(path))
        if module.split(".")[0] == "keras_mgrade"
    ]
    stream, _ = load_stream(str(path), own)
    return str(stream_report(stream))


def _look_at_tflite(path: pathlib.Path, columns: Any, steps: int) -> TFLiteFile:
    from keras_mgrade.export import describe

    # Before any runtime sees the file.
    model = fb.load(path.read_bytes(), path.name)
    length = _window_of(model)
    if length is None:
        operators.check_operators(model)
        proof = _run_steps(path, columns, steps)
    else:
        _check_window(model)
        proof = _run_windows(path, model, length, columns, steps)
    return describe.describe_file(path, proof)


def _window_of(model) -> int | None:
    """Steps of a window, if the file is that of a whole window.

    Its shapes alone do not tell: a sample of a step may have as many axes.
    """
    length = fb.notes(model).get("window")
    interface = read_interface(model)
    whole = not interface.states and any(
        _has_time(tensor, length) for tensor in interface.inputs
    )
    return length if isinstance(length, int) and whole else None


def _check_window(model) -> None:
    """Raise unless a window has built-in operators only, and no loop.

    What TFLite Micro has does not matter: LiteRT alone runs such a file.
    """
    refused = sorted(
        {
            name
            for name in fb.operator_names(model)
            if name.startswith("CUSTOM") or name in LOOPS
        }
    )
    if refused:
        operators.refuse(
            refused,
            ["convert with `to_tflite(..., window=n)`, which writes no others"],
            "are built in and always end",
        )


def _run_steps(path: pathlib.Path, columns: Any, steps: int):
    from keras_mgrade.export import prove
    from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner

    lite = LiteRTRunner(path)
    shapes = [tuple(t.shape[1:]) for t in lite.samples]
    columns = _input(columns, lite.samples, shapes, steps)
    outputs = prove.run(lite, columns)
    deviations, arena, note = [], (None, None), ""
    try:
        micro = TFLMRunner(path)
    except ImportError as error:
        note = f"not run: {error}"
    else:
        found = prove.run(micro, columns)
        deviations = [prove.deviation("TFLM beside LiteRT", found, outputs)]
        arena = prove.arena_bytes(micro)
    return prove.Proof(tuple(deviations), *arena, note, lite.step_time())


def _run_windows(
    path: pathlib.Path, model, length: int, columns: Any, steps: int
):
    from keras_mgrade.export import prove, prove_window

    tensors = list(read_interface(model).inputs)
    timed = [_has_time(tensor, length) for tensor in tensors]
    shapes = [
        tuple(tensor.shape[2 if every else 1 :])
        for tensor, every in zip(tensors, timed, strict=True)
    ]
    columns = _input(columns, tensors, shapes, steps)
    parts = prove_window.cut(columns, length)
    _, times = prove_window.run(
        path, (prove_window.as_taken(part, timed) for part in parts)
    )
    note = prove_window.NOT_IN_TFLM
    compared = prove.Deviation("TFLM beside LiteRT", note=note)
    return prove_window.proof_of([compared], times)


def _has_time(tensor: TensorInfo, length: int) -> bool:
    return len(tensor.shape) > 1 and tensor.shape[1] == length


def _input(
    columns: Any,
    tensors: list[TensorInfo],
    shapes: list[tuple],
    steps: int,
) -> calibrations.Columns:
    """The caller's sequences, or noise, in the types that a runner takes."""
    if columns is None:
        # Noise is no token; zero is one of every vocabulary.
        columns = [
            np.zeros_like(noise) if _is_whole(tensor) else noise
            for noise, tensor in zip(
                calibrations.noise(shapes, steps), tensors, strict=True
            )
        ]
    elif isinstance(columns, dict):
        names = [tensor.name for tensor in tensors]
        columns = calibrations.in_order(columns, names, "sequence")
    columns = [np.asarray(column, np.float32) for column in columns]
    calibrations.check_rows([columns], shapes, "sequence")
    return [
        _tokens(column, tensor) if _is_whole(tensor) else column
        for column, tensor in zip(columns, tensors, strict=True)
    ]


def _is_whole(tensor: TensorInfo) -> bool:
    """Whether an input takes integers as they are, tokens perhaps."""
    return tensor.scale is None and np.dtype(tensor.dtype).kind != "f"


def _tokens(column: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    limits = np.iinfo(tensor.dtype)
    fits = (column >= limits.min) & (column <= limits.max)
    if not (fits & (column == np.round(column))).all():
        raise ValueError(
            f"Expected `sequence` to hold integers of {tensor.dtype} for the "
            f"input {tensor.name!r}. Received: sequence with values from "
            f"{column.min():g} to {column.max():g}"
        )
    return column.astype(tensor.dtype)

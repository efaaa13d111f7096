"""Check a file of unknown origin, in a process that it may bring down."""

import json
import os
import pathlib
from typing import Any

from keras_mgrade import validation
from keras_mgrade.export import calibration as calibrations
from keras_mgrade.export import process
from keras_mgrade.export.result import TFLiteFile, file_from_json

# A step takes microseconds, in a large model milliseconds: what runs longer
# than this, and than this for every step that was asked for, does not end.
SECONDS = 60.0
SECONDS_A_STEP = 0.1


def check(
    path: str | os.PathLike, sequence: Any = None, steps: int | None = None
) -> TFLiteFile | str:
    """Look at a `.tflite` or `.keras` file without trusting it.

    A `.tflite` file is verified and run in LiteRT and TFLite Micro, whose
    outputs are compared; that of a whole window in LiteRT alone. A `.keras`
    file is loaded and made a stream. All of it happens in a process of its
    own, which stays for the next file: a file that crashes or never ends
    costs that process and nothing else.

    Example:

    ```python
    print(keras_mgrade.export.check("kws.tflite"))
    ```

    Args:
        path: The file.
        sequence: Input of a `.tflite` file, an array (time, features); for
            several inputs a list of them in order, or a dictionary by name.
            Defaults to `None`, which is noise, and zeros for tokens.
        steps: How many steps of noise, for a `.tflite` file without a
            `sequence`. Defaults to `None`, which is 256.

    Returns:
        For a `.tflite` file what was found; prints as a table. For a `.keras`
        file the table of its memory.

    Raises:
        ValueError: If the file is broken, has operators or states that do not
            work, or brought the process down, or if an argument does not fit.
        ImportError: If LiteRT is not installed.
    """
    if not isinstance(path, (str, os.PathLike)) or not os.path.isfile(path):
        raise ValueError(
            f"Expected `path` to be a file. Received: path={path!r}"
        )
    if sequence is not None and steps is not None:
        raise ValueError(
            "Expected `sequence`, or `steps` of noise in its place, not both. "
            f"Received: steps={steps}"
        )
    long, columns = 0, None
    if steps is not None:
        steps = long = validation.positive_integer("steps", steps)
    if sequence is not None:
        columns, long = _columns(sequence)
    answer = _ask(
        {
            "path": str(pathlib.Path(path).resolve()),
            "columns": columns,
            "steps": steps,
        },
        SECONDS + SECONDS_A_STEP * long,
    )
    if "error" in answer:
        kind = ImportError if answer.get("missing") else ValueError
        raise kind(answer["error"])
    found = answer["result"]
    return found if isinstance(found, str) else file_from_json(found)


def _columns(sequence: Any) -> tuple[list[Any] | dict[str, Any], int]:
    """Sequences as plain lists, in order or by name, and their length."""
    if isinstance(sequence, dict):
        names, given = list(sequence), list(sequence.values())
    else:
        names = None
        given = sequence if isinstance(sequence, (list, tuple)) else [sequence]
    arrays = [calibrations.numeric(column, "sequence") for column in given]
    calibrations.check_rows([arrays], None, "sequence")
    columns = [array.tolist() for array in arrays]
    length = len(columns[0]) if columns else 0
    if names is not None:
        return dict(zip(names, columns, strict=True)), length
    return columns, length


def _ask(job: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The answer to a job; an error in it, if it ended the process.

    Args:
        job: The arguments of `look.look_at`.
        seconds: After how long the process is ended.
    """
    reply = _WORKER.ask(json.dumps(job), seconds)
    if reply.text is not None:
        return json.loads(reply.text)
    if reply.late:
        return {"error": _too_long(job, seconds)}
    return {"error": _how_it_ended(job, reply.status)}


def _how_it_ended(job: dict[str, Any], status: int) -> str:
    how = f"exit status {status}"
    if status < 0:
        how = f"signal {-status}"
    if status == -9:
        how += " (for want of memory, perhaps)"
    return (
        "Expected a file that can be run, but this one ended the process "
        f"that ran it, with {how}. Do not use it. Received: "
        f"path={job['path']!r}"
    )


def _too_long(job: dict[str, Any], seconds: float) -> str:
    return (
        "Expected a file that comes to its end, but this one ran for longer "
        f"than {seconds:g} s and was stopped. Give it fewer steps; if it takes "
        f"as long then, do not use it. Received: path={job['path']!r}"
    )


_WORKER = process.Helper("keras_mgrade.export.worker")

"""The files that one trained model becomes, and what each takes of RAM."""

import numpy as np

from device_files import answers_of_file
from device_peers import streamable
from device_users import converted
from keras_mgrade import export
from keras_mgrade.export import prove

PRECISIONS = ["mixed", "int8"]
# Who holds delay lines: the program, or the file. GRUs have none.
HOLDERS = {
    "mGRADE": ("application", "graph"),
    "TCN": ("application", "graph"),
    "GRU": ("graph",),
}
OWN, WHOLE, USERS = "ours", "ours, front end in the file", "as users"


def rows(family, task, model, behind, folder):
    """What is measured of a finished model, a row for each file.

    Args:
        family: Of `HOLDERS`.
        task: The task.
        model: The model.
        behind: Both without the front end, a `device_tasks.Behind`.
        folder: Where to write the files.
    """
    holders = HOLDERS[family]
    for holder in holders:
        yield from exported(
            behind, behind.model, folder, holder, PRECISIONS, OWN
        )
    yield from exported(task, model, folder, holders[0], PRECISIONS[:1], WHOLE)
    if family != "mGRADE":
        yield as_users(behind, folder)


def exported(task, model, folder, holder, precisions, way):
    """Step files of this package's exporter."""
    calibration = task.calibration()
    files = export.to_tflite(
        streamable(model, calibration[0][None]),
        folder / f"ram_{holder}_{{precision}}.tflite",
        precisions,
        calibration,
        delay_line=holder,
    )
    for precision, file in files.items():
        runner = export.LiteRTRunner(file.path)
        answers, labels = answers_of_file(runner, task.streams())
        names = {s.name for s in file.states if s.delays is None}
        kept = sum(t.bytes for t in file.inputs if t.name in names)
        yield {
            "way": way,
            "precision": precision,
            "lines": holder,
            "file": float(np.mean(answers.argmax(axis=-1) == labels)),
            "bytes": file.bytes,
            "operators": len(file.operators),
            "state": kept,
            "rings": file.state_bytes - kept,
            **arena(file),
        }


def as_users(behind, folder):
    """The file of a whole window, by TensorFlow's converter alone."""
    windows, labels = behind.windows()
    path = folder / "ram_users.tflite"
    known = cut(behind.calibration(), windows.shape[1])
    converted(behind.model, known, path)
    answers = export.LiteRTRunner(path).run(windows).argmax(axis=-1)
    row = {
        "way": USERS,
        "precision": "int8",
        "file": float(np.mean(answers == labels)),
        "bytes": path.stat().st_size,
        "state": 0,
        "rings": 0,
    }
    try:
        # In a process of its own: not every file of others runs.
        file = export.check(path, windows[:4])
    except ValueError as error:
        return {**row, "error": str(error)}
    return {**row, "operators": len(file.operators), **arena(file)}


def cut(sequences, length):
    """All whole windows in sequences, none twice."""
    return np.stack(
        [
            sequence[start : start + length]
            for sequence in sequences
            for start in range(0, len(sequence) - length + 1, length)
        ]
    )


def arena(file):
    """Of a file that ran in TFLite Micro."""
    parts = prove.arena_parts(export.TFLMRunner(file.path))
    return {
        "arena": parts["total"],
        "tensors": parts["head"],
        "arena needed": file.arena_needed,
    }

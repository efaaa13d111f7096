"""Real input sequences for calibration and proof."""

import os
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

Columns = list[np.ndarray]


def as_columns(calibration: Any, shapes: Sequence[tuple] | None) -> Columns:
    """Join calibration sequences to one long stream for each input.

    Sequences are run one after the other without setting the states back, so
    one long sequence says the same.

    Args:
        calibration: Array (n, time, features), or a list of (time, features)
            arrays; for a model with several inputs a list of tuples of them.
        shapes: Shapes of one sample of each input, such as `[(6,)]`, or
            `None` if they are not known yet.

    Returns:
        A list of float32 arrays (steps, features), one for each input.

    Raises:
        ValueError: If the sequences do not fit the inputs, are empty or not
            finite.
    """
    try:
        if isinstance(calibration, (str, bytes, dict)):
            raise TypeError
        given = list(calibration)
    except TypeError as error:
        # A number, and an array of no axis, are not iterable.
        raise ValueError(
            "Expected `calibration` to be real input sequences, an array "
            "(n, time, features) or a list of (time, features) arrays. "
            f"Received: calibration={reprlib.repr(calibration)}"
        ) from error
    rows = [
        list(row) if isinstance(row, (tuple, list)) and _several(row) else [row]
        for row in given
    ]
    if not rows:
        raise ValueError(
            "Expected `calibration` to hold at least one sequence. "
            "Received: an empty one"
        )
    rows = [[numeric(column) for column in row] for row in rows]
    check_rows(rows, shapes)
    return [np.concatenate(columns) for columns in zip(*rows, strict=True)]


def in_order(
    arrays: dict[str, Any],
    names: Sequence[str] | None,
    argument: str = "calibration",
) -> list[Any]:
    """Named arrays in the order of a model's inputs.

    Args:
        arrays: Arrays by the names of the inputs; or by those that NumPy
            gives to what has none, `arr_0`, `arr_1`, in the inputs' order; or
            a single one.
        names: Of the inputs, or `None` if they are not known.
        argument: What the caller's argument is called.

    Raises:
        ValueError: If the names are others.
    """
    if names is not None and set(arrays) <= set(names):
        return [arrays[name] for name in names if name in arrays]
    numbered = [f"arr_{i}" for i in range(len(arrays))]
    if set(arrays) == set(numbered):
        return [arrays[name] for name in numbered]
    if len(arrays) == 1:
        return list(arrays.values())
    # Any other order would be a guess, which equal shapes would hide.
    known = "" if names is None else f", {list(names)},"
    raise ValueError(
        f"Expected the arrays of `{argument}` to have the names of the "
        f"inputs{known} or, in the order of the inputs, the names arr_0, "
        "arr_1 and so on, which `numpy.savez(path, first, second)` gives. "
        f"Received: {argument}={list(arrays)}"
    )


def check_rows(
    rows: Sequence[Columns],
    shapes: Sequence[tuple] | None,
    argument: str = "calibration",
) -> None:
    """Raise unless rows of arrays fit the inputs of a model.

    Args:
        rows: For each sequence one array for each input.
        shapes: As for `as_columns`.
        argument: What the caller's argument is called.

    Raises:
        ValueError: As `as_columns`.
    """
    counts = {len(row) for row in rows}
    if len(counts) > 1 or (shapes is not None and counts != {len(shapes)}):
        wanted = "the same number of" if shapes is None else str(len(shapes))
        raise ValueError(
            f"Expected `{argument}` to give {wanted} arrays for every "
            "sequence, one for each input of the model. Received: "
            f"{argument} with {sorted(counts)} arrays a sequence"
        )
    for row in rows:
        _check_row(row, shapes, argument)


def _several(row: Any) -> bool:
    """Whether a row is sequences, one an input, not a sequence of samples."""
    return isinstance(row, tuple) or all(np.ndim(c) >= 2 for c in row)


def numeric(column: Any, argument: str = "calibration") -> np.ndarray:
    """An array of an argument as float32, or a `ValueError` naming it."""
    try:
        if np.iscomplexobj(column):
            raise TypeError("complex")
        return np.asarray(column, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Expected `{argument}` to hold arrays of numbers. Received: "
            f"an element of type {type(column).__name__} ({error})"
        ) from error


def _check_row(
    row: Columns, shapes: Sequence[tuple] | None, argument: str
) -> None:
    for position, column in enumerate(row):
        if shapes is None:
            fits = column.ndim >= 1
            wanted = "(time, features)"
        else:
            shape = tuple(shapes[position])
            fits = column.ndim > 0 and column.shape[1:] == shape
            wanted = f"({', '.join(map(str, ('time', *shape)))})"
        if not fits or len(column) != len(row[0]) or len(column) == 0:
            raise ValueError(
                f"Expected the arrays of `{argument}` to be {wanted}, with "
                "at least one step and equally many for all inputs. "
                f"Received: a sequence of shape {column.shape} for input "
                f"{position}"
            )
        if not np.isfinite(column).all():
            raise ValueError(
                f"Expected `{argument}` to be finite. Fill or drop missing "
                f"values. Received: {np.sum(~np.isfinite(column))} values "
                f"that are not finite in a sequence of shape {column.shape}"
            )


def check_moves(columns: Columns, names: Sequence[str]) -> None:
    """Raise unless every channel takes more than one value.

    In a single step none does. The range of what stands still is unknown, and
    eight bits of a range that was guessed cut off what comes later.

    Args:
        columns: For each input an array (steps, features).
        names: Of the inputs.

    Raises:
        ValueError: Names the input and its channels.
    """
    for column, name in zip(columns, names, strict=True):
        if len(column) < 2:
            raise ValueError(
                "Expected `calibration` to hold more than one step for a "
                "quantised file: one says nothing of the ranges. Take whole "
                "sequences from the training data. Received: calibration "
                f"of {len(column)} step for the input {name!r}"
            )
        if column.dtype.kind != "f":
            continue  # Tokens have no range.
        if not np.any(column):
            raise ValueError(
                "Expected `calibration` to be real sequences, but the input "
                f"{name!r} never leaves zero. Take some from the training "
                "data, through the same preprocessing. Received: calibration "
                f"of {len(column)} steps, all zero"
            )
        still = np.flatnonzero((column == column[:1]).all(axis=0))
        if len(still):
            raise ValueError(
                "Expected every channel of `calibration` to move, but of the "
                f"input {name!r} these stay what they are: {still.tolist()}. "
                "Calibrate on sequences in which they move, or leave them out "
                f"of the model. Received: values={column[0].ravel()[still]}"
            )


def noise(shapes: Sequence[tuple], steps: int = 256) -> Columns:
    """A stand-in for real data where only float parity is at stake."""
    generator = np.random.default_rng(0)
    return [
        generator.standard_normal((steps, *shape)).astype(np.float32)
        for shape in shapes
    ]


def save(path: str | os.PathLike, columns: Columns) -> None:
    """Write columns as an npz archive."""
    np.savez(path, *columns)


def load(path: str | os.PathLike) -> Columns:
    """Read what `save` wrote."""
    with np.load(path) as archive:
        return [archive[f"arr_{i}"] for i in range(len(archive.files))]

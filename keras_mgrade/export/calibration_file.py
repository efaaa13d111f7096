"""Calibration sequences in a file, as the command line takes them."""

import os

import numpy as np

from keras_mgrade.export import calibration as calibrations


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The arrays of a `.npy` or `.npz` file by name.

    Args:
        path: The file: `numpy.save(path, x)` for one input, for several
            `numpy.savez(path, a=a, b=b)` by the inputs' names or
            `numpy.savez(path, a, b)` in their order.

    Returns:
        Arrays (n, time, ...), as many sequences in each.

    Raises:
        ValueError: If the file is none of these or its arrays do not fit.
    """
    name = os.fspath(path)
    try:
        # NumPy leaves a broken archive open.
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                arrays = {"arr_0": loaded}
            else:
                arrays = {key: loaded[key] for key in loaded.files}
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise ValueError(
            "Expected `calibration` to be a file that can be read. Received: "
            f"calibration={name!r} ({error})"
        ) from error
    # NumPy raises a dozen kinds for what is no such file.
    except Exception as error:
        raise ValueError(
            "Expected `calibration` to be a .npy file of numbers, or a .npz "
            "file of such arrays for several inputs. Cut sequences of "
            "different lengths to one, or join them. Received: "
            f"calibration={name!r} ({error})"
        ) from error
    counts = {len(a) if np.ndim(a) > 1 else 0 for a in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = {key: np.shape(array) for key, array in arrays.items()}
        raise ValueError(
            "Expected every array in `calibration` to be (n, time, features), "
            "with the same number of sequences and at least one. Received: "
            f"calibration={name!r} with shapes {shapes}"
        )
    return arrays


def sequences(
    arrays: dict[str, np.ndarray], names: list[str] | None
) -> list[tuple[np.ndarray, ...]]:
    """Sequence by sequence one array for each input of a model.

    Args:
        arrays: What `read` gives.
        names: Of the model's inputs, or `None` if they are not known.
    """
    return list(zip(*calibrations.in_order(arrays, names), strict=True))

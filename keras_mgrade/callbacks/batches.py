"""Batches of whatever `fit` takes as data, for ever."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

# The adapters of `fit`, which Keras does not export.
from keras.src.trainers import data_adapters


def endless(
    data: Any, batch_size: int, class_weight: dict[int, float] | None, seed: int
) -> Iterator[Any]:
    """Tuples `(x[, y[, sample_weight]])`, as `fit` would make them.

    Args:
        data: `(x, y)`, `(x, y, sample_weight)` or `x` alone of arrays, whose
            samples come in random order, or anything else that `fit` takes as
            `x`.
        batch_size: Samples in a batch, if `data` are arrays.
        class_weight: As for `fit`.
        seed: Seed of the random order.

    Yields:
        Batches, starting anew at the end of the data.
    """
    arrays = _arrays(data)
    if arrays is not None:
        yield from _random(arrays, batch_size, class_weight, seed)
    while True:
        adapter = data_adapters.get_data_adapter(
            data, class_weight=class_weight
        )
        empty = True
        try:
            for batch in adapter.get_numpy_iterator():
                empty = False
                yield batch
        finally:
            if isinstance(data, keras.utils.PyDataset):
                # Its workers stop, also when no more batches are asked for.
                adapter.on_epoch_end()
        if empty or isinstance(data, Iterator):
            raise ValueError(
                "`data` must give its batches anew each time it is gone "
                f"through. Received: data={data!r}"
            )


def check(data: Any, class_weight: dict[int, float] | None) -> None:
    """Refuses data that a probe could not read, before training begins."""
    arrays = _arrays(data)
    if arrays is None:
        if data is None or isinstance(data, (str, tuple, list)):
            raise ValueError(
                "`data` must be (x, y) or (x, y, sample_weight) of arrays, or "
                "anything else that `fit` takes as `x`. "
                f"Received: data={data!r}"
            )
        return
    lengths = {a.shape[0] for a in keras.tree.flatten(arrays) if a is not None}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            "`data` must be arrays of one length, at least one sample. "
            f"Received: lengths={sorted(lengths)}"
        )
    if class_weight is not None and arrays[2] is not None:
        raise ValueError(
            "`class_weight` and sample weights exclude each other, as in "
            f"`fit`. Received: class_weight={class_weight!r}"
        )


def _arrays(data):
    """`(x, y, sample_weight)` if these are arrays, else `None`."""
    if data is None or isinstance(data, str):
        return None
    if not isinstance(data, (tuple, list)):
        data = (data,)
    elif not 1 <= len(data) <= 3:
        return None
    arrays = keras.utils.unpack_x_y_sample_weight(tuple(data))
    if not data_adapters.array_data_adapter.can_convert_arrays(arrays):
        return None
    return arrays


def _random(arrays, batch_size, class_weight, seed):
    """All of one size, so that a compiled probe stays compiled."""
    arrays = keras.tree.map_structure(
        lambda a: ops.convert_to_numpy(a) if ops.is_tensor(a) else a, arrays
    )
    count = keras.tree.flatten(arrays)[0].shape[0]
    size = min(batch_size, count)
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size]
            x, y, weight = keras.tree.map_structure(
                lambda a, rows=chosen: None if a is None else _rows(a, rows),
                arrays,
            )
            adapter = data_adapters.get_data_adapter(
                x,
                y,
                weight,
                batch_size=size,
                class_weight=class_weight,
            )
            yield from adapter.get_numpy_iterator()


def _rows(array, rows):
    # pandas selects columns by brackets.
    return array.iloc[rows] if hasattr(array, "iloc") else array[rows]

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
    """Tuples `(x, y[, sample_weight])`, as `fit` would make them.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, whose samples come
            in random order, or anything else that `fit` takes as `x`.
        batch_size: Samples in a batch, if `data` are arrays.
        class_weight: As for `fit`.
        seed: Seed of the random order.

    Yields:
        Batches, starting anew at the end of the data.
    """
    x, y, weight = data, None, None
    if isinstance(x, (tuple, list)):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(tuple(x))
        arrays = data_adapters.array_data_adapter
        if arrays.can_convert_arrays((x, y, weight)):
            yield from _random((x, y, weight), batch_size, class_weight, seed)
    while True:
        adapter = data_adapters.get_data_adapter(
            x, y, weight, class_weight=class_weight
        )
        empty = True
        for batch in adapter.get_numpy_iterator():
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "`data` must give its batches anew each time it is gone "
                f"through. Received: data={data!r}"
            )


def _random(arrays, batch_size, class_weight, seed):
    """All of one size, so that a compiled probe stays compiled."""
    arrays = keras.tree.map_structure(
        lambda a: None if a is None else np.asarray(ops.convert_to_numpy(a)),
        arrays,
    )
    count = len(keras.tree.flatten(arrays)[0])
    size = min(batch_size, count)
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size]
            x, y, weight = keras.tree.map_structure(
                lambda a, rows=chosen: None if a is None else a[rows], arrays
            )
            adapter = data_adapters.get_data_adapter(
                x,
                y,
                weight,
                batch_size=size,
                class_weight=class_weight,
            )
            yield from adapter.get_numpy_iterator()

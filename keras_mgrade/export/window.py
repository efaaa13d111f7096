"""A whole window at once, for phones: no states, a fixed length.

The stream's graph once more, with time as rows: a layer that treats all steps
alike takes them as a batch, a recurrence adds them up by doubling, a delay
line is a convolution. Whatever else has a step is unrolled.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import streaming
from keras_mgrade.export import device
from keras_mgrade.export.lines import LineStep
from keras_mgrade.layers.keras_steps import step_of
from keras_mgrade.layers.min_gru import MinGRU
from keras_mgrade.layers.temporal_pooling import TemporalPooling


class Window:
    """A model over a window, as the converter wants it.

    Args:
        stream: A model from `streaming_model`, batch size 1.
        length: Steps of the window.
        timed: For each answer of the stream, whether the trained model gives
            one at every step; else it gives the last one only.

    Attributes:
        inputs: `(1, length, ...)` for each input of the trained model.
        outputs: For each answer `(1, length, ...)` or `(1, ...)`.
    """

    def __init__(self, stream: keras.Model, length: int, timed: list[bool]):
        self._stream, self._length, self._timed = stream, length, timed
        self._forms = {
            id(operation): device.form(operation, False)
            for operation in stream.operations
        }
        count = len(stream.inputs) - len(streaming.state_specs(stream))
        self.inputs = [
            keras.KerasTensor((1, length, *t.shape[1:]), t.dtype, name=t.name)
            for t in stream.inputs[:count]
        ]
        self.outputs = [
            keras.KerasTensor((1, length, *t.shape[1:]), t.dtype)
            for t in stream.outputs[: len(timed)]
        ]

    def __call__(self, values: list[Any]) -> list[Any]:
        rows = [ops.squeeze(value, 0) for value in values]
        # Nothing reads the states, but the graph has a place for each.
        states = self._stream.inputs[len(rows) :]
        flat = self._stream._run_through_graph(
            [*rows, *(rows[0] for _ in states)],
            operation_fn=lambda operation: operation,
            call_fn=self._call,
        )
        answers = keras.tree.flatten(flat)[: len(self._timed)]
        return [
            ops.expand_dims(y if timed else y[-1], 0)
            for y, timed in zip(answers, self._timed, strict=True)
        ]

    def _call(self, operation, *arguments, **keywords):
        form = self._forms[id(operation)]
        states = getattr(operation, "state_specs", [])
        if not states:
            return form(*arguments, **keywords)
        y = self._over_time(form, arguments[0][0])
        return [y, *(y for _ in states)]

    def _over_time(self, form, x):
        """All steps of a layer with states, `(time, channels)` to the same."""
        if isinstance(form, LineStep):
            return form.over_time(x)
        layer = form.layer
        if isinstance(layer, MinGRU):
            z, candidate = layer.cell.gates(x)
            return recurrence(1 - z, z * candidate)
        if isinstance(layer, TemporalPooling):
            return self._pooled(layer, x)
        stepped = step_of(layer)
        states, rows = stepped.get_initial_state(1), []
        for t in range(self._length):
            y_t, states = stepped.step(x[t : t + 1], states)
            rows.append(y_t)
        return ops.concatenate(rows, axis=0)

    def _pooled(self, layer, x):
        if layer.mode == "mean":
            steps = np.arange(1, self._length + 1, dtype="float32")[:, None]
            return recurrence(ops.ones_like(x), x) / steps
        share = np.float32(layer.share)
        return recurrence(ops.ones_like(x) * (1 - share), x * share)


def recurrence(a: Any, b: Any) -> Any:
    """`h[t] = a[t] * h[t-1] + b[t]` over axis 0, by doubling.

    After round n every row knows what 2^n rows up to it add up to: as many
    operators as the length has bits, none of them a loop.
    """
    length, reach = a.shape[0], 1
    while reach < length:
        before = [[reach, 0], [0, 0]]
        b = b + a * ops.pad(b[:-reach], before)
        a = a * ops.pad(a[:-reach], before)
        reach *= 2
    return b

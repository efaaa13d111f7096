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
from keras_mgrade.step_graph import keeps_time


class Window:
    """A model over a window, as the converter wants it.

    Args:
        stream: A model from `streaming_model`, batch size 1.
        length: Steps of the window.
        axes: Which inputs and answers of the trained model have a time axis.

    Attributes:
        inputs: For each input `(1, length, ...)` or, without a time axis,
            `(1, ...)`.
        outputs: The same for each answer.
    """

    def __init__(
        self, stream: keras.Model, length: int, axes: streaming.TimeAxes
    ):
        self._stream, self._length, self._axes = stream, length, axes
        self._forms = {
            id(operation): device.form(operation, False)
            for operation in stream.operations
        }
        self.inputs = self._with_time(stream.inputs, axes.inputs)
        self.outputs = self._with_time(stream.outputs, axes.answers)

    def _with_time(self, tensors, timed):
        return [
            keras.KerasTensor(
                (1, self._length, *t.shape[1:]) if every else t.shape,
                t.dtype,
                name=t.name,
            )
            # The states, which come after, are left out.
            for t, every in zip(tensors, timed, strict=False)
        ]

    def __call__(self, values: list[Any]) -> list[Any]:
        rows = [
            ops.squeeze(value, 0) if timed else value
            for value, timed in zip(values, self._axes.inputs, strict=True)
        ]
        # Nothing reads the states, but the graph has a place for each.
        states = self._stream.inputs[len(rows) :]
        flat = self._stream._run_through_graph(
            [*rows, *(rows[0] for _ in states)],
            operation_fn=lambda operation: operation,
            call_fn=self._call,
        )
        return [
            ops.expand_dims(y, 0) if timed else y
            for y, timed in zip(
                keras.tree.flatten(flat), self._axes.answers, strict=False
            )
        ]

    def _call(self, operation, *arguments, **keywords):
        form = self._forms[id(operation)]
        layer = getattr(operation, "layer", None)
        if keywords.get("timeless") or step_of(layer) is None:
            return form(*arguments, **keywords)
        stateful = bool(operation.state_specs)
        if stateful:
            y, states = self._over_time(form, arguments[0][0])
        else:
            y = form(*arguments, **keywords)
        x_t = operation._inbound_nodes[0].input_tensors[0]
        if not keeps_time(layer, x_t):
            y = y[-1:]
        return [y, *states] if stateful else y

    def _over_time(self, form, x):
        """All steps of a layer with states, and the states after the last.

        From `(time, channels)` to the same and to a list of `(1, ...)`.
        """
        layer = form.layer
        if isinstance(form, LineStep):
            ((_, (steps, _), _),) = form.state_specs
            line = ops.pad(x, [[steps, 0], [0, 0]])[-steps:]
            return form.over_time(x), [line[None]]
        if isinstance(layer, MinGRU):
            z, candidate = layer.cell.gates(x)
            y = recurrence(1 - z, z * candidate)
            return y, [y[-1:]]
        if isinstance(layer, TemporalPooling):
            y = self._pooled(layer, x)
            # It does not give its states out.
            return y, [y[-1:] for _ in form.state_specs]
        stepped = step_of(layer)
        states, rows = stepped.get_initial_state(1), []
        for t in range(self._length):
            y_t, states = stepped.step(x[t : t + 1], states)
            rows.append(y_t)
        return ops.concatenate(rows, axis=0), states

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

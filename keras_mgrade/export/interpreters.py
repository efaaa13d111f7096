"""The two runtimes an exported file runs in: LiteRT and TFLite Micro."""

import time
from collections.abc import Sequence

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.runners import StepRunner


class LiteRTRunner(StepRunner):
    """Streams samples through a file in LiteRT, on one thread.

    LiteRT is the runtime of phones and desktops. See `StepRunner` for what a
    runner does.

    Example:

    ```python
    runner = keras_mgrade.export.LiteRTRunner("har.tflite")
    y = runner.step(x)                 # x: (features,)
    outputs = runner.run(sequence)     # (time, features) -> (time, outputs)
    ```

    Args:
        path: Path of a `.tflite` file made by `to_tflite`.

    Raises:
        ValueError: If the file is not a complete TFLite flatbuffer or has no
            signature.
    """

    def _open(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=self._data, num_threads=1)
        self._interpreter.allocate_tensors()

    def _advance(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        for tensor, sample in zip(self._x, samples, strict=True):
            interpreter.set_tensor(tensor.index, sample)
        for state in self._states:
            interpreter.set_tensor(state.before.index, state.read())
        interpreter.invoke()
        get = interpreter.get_tensor
        for state in self._states:
            state.write(get(state.after.index))
        return [get(tensor.index) for tensor in self._y]

    def step_time(self, repeats: int = 200) -> float:
        """Median time of a step in microseconds, the interpreter's alone.

        Args:
            repeats: How many steps are timed. Defaults to `200`.
        """
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._interpreter.invoke()
            times.append(time.perf_counter() - start)
        if self._internal:
            self.reset()
        return 1e6 * float(np.median(times))


class TFLMRunner(StepRunner):
    """Streams samples through a file in TFLite Micro.

    TFLite Micro is the runtime of microcontrollers; its Python wheel runs the
    reference kernels. See `StepRunner` for what a runner does.

    Example:

    ```python
    runner = keras_mgrade.export.TFLMRunner("har.tflite")
    y = runner.step(x)                 # x: (features,)
    outputs = runner.run(sequence)     # (time, features) -> (time, outputs)
    ```

    Args:
        path: Path of a `.tflite` file made by `to_tflite`.

    Raises:
        ImportError: If the wheel is not installed (Linux on x86-64 only).
        ValueError: If the file is not a complete TFLite flatbuffer or has no
            signature.
    """

    def _open(self) -> None:
        runtime = import_tflm()
        self._interpreter = runtime.Interpreter.from_bytes(
            self._data, arena_size=_enough_arena(self._model, len(self._data))
        )
        graph = self._model.subgraphs[0]
        inputs = [int(i) for i in graph.inputs]
        outputs = [int(i) for i in graph.outputs]
        # This runtime knows positions only; the names give them.
        self._x_at = [inputs.index(t.index) for t in self._x]
        self._y_at = [outputs.index(t.index) for t in self._y]
        self._states_at = [
            (inputs.index(s.before.index), outputs.index(s.after.index))
            for s in self._states
        ]

    def _advance(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._interpreter
        for position, sample in zip(self._x_at, samples, strict=True):
            interpreter.set_input(sample, position)
        states = list(zip(self._states_at, self._states, strict=True))
        for (before, _), state in states:
            interpreter.set_input(state.read(), before)
        interpreter.invoke()
        get = interpreter.get_output
        for (_, after), state in states:
            state.write(get(after))
        return [get(position) for position in self._y_at]

    def tensor_counts(self) -> tuple[int, int]:
        """`(tensors, tensors that are not constants)` of all graphs.

        A scratch buffer of an operator counts as a tensor; each may have one.
        """
        graphs = self._model.subgraphs
        tensors = sum(len(graph.tensors) for graph in graphs)
        scratch = sum(len(graph.operators) for graph in graphs)
        constant = sum(
            fb.is_constant(self._model, index, graph)
            for graph in graphs
            for index in range(len(graph.tensors))
        )
        return tensors + scratch, tensors + scratch - constant

    def print_allocations(self) -> None:
        """Print what the arena holds, on the C stderr of the process."""
        self._interpreter.print_allocations()


def import_tflm():
    """The TFLite Micro runtime.

    Raises:
        ImportError: If its wheel is not installed.
    """
    try:
        from tflite_micro.python.tflite_micro import runtime
    except ImportError as error:
        raise ImportError(
            "TFLite Micro's Python wheel is needed to run a file in it: "
            "`pip install tflite-micro` (Linux on x86-64 only)."
        ) from error
    return runtime


def _enough_arena(model, file_bytes: int) -> int:
    """Arena size in bytes that is certainly enough.

    Too small an arena can crash the process, so this is a bound without any
    reuse of memory, not an estimate.
    """
    graph = model.subgraphs[0]
    total = 1 << 16
    for index, tensor in enumerate(graph.tensors):
        total += 256
        kind = fb.dtype_name(tensor)
        if kind != "resource" and not fb.is_constant(model, index):
            size = int(np.prod(fb.shape_of(tensor), dtype=int))
            total += 2 * size * np.dtype(kind).itemsize
    # The operators keep per-channel multipliers and other data there.
    return total + 4096 * len(graph.operators) + 2 * file_bytes

"""Run an exported step model sample by sample: LiteRT and TFLite Micro."""

import abc
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import (
    Interface,
    TensorInfo,
    read_interface,
)
from keras_mgrade.export.kept import Kept, make_state


class StepRunner(abc.ABC):
    """Common interface of the runtimes: a stream of samples through a file.

    The states are kept between the calls, in the file's own type: what comes
    out under a name goes in under the same name at the next step, bit by bit,
    as a program on a device does it. States are found by their names in the
    signature, never by their order.

    Example:

    ```python
    runner = keras_mgrade.export.LiteRTRunner("har.tflite")
    for x in samples:            # x: (features,)
        y = runner.step(x)
    runner.reset()
    outputs = runner.run(sequence)   # (time, features) -> (time, outputs)
    ```

    Args:
        path: Path of a `.tflite` file made by `to_tflite`.

    Raises:
        ValueError: If the file is not a complete TFLite flatbuffer or has no
            signature.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._data = self.path.read_bytes()
        self._model = fb.load(self._data, str(path))
        self.interface: Interface = read_interface(self._model, str(path))
        names = self.interface.states
        outputs = {t.name: t for t in self.interface.outputs}
        self._x = [t for t in self.interface.inputs if t.name not in names]
        self._y = [t for t in self.interface.outputs if t.name not in names]
        lines = fb.notes(self._model).get("lines", {})
        self._states = [
            make_state(t, outputs[t.name], lines.get(t.name))
            for t in self.interface.inputs
            if t.name in names
        ]
        self._internal = "VAR_HANDLE" in fb.operator_names(self._model)
        self._open()

    @property
    def samples(self) -> list[TensorInfo]:
        """The inputs that are not states."""
        return list(self._x)

    @property
    def states(self) -> dict[str, np.ndarray]:
        """The present states by name, in the file's own types.

        Of a delay line that the program holds the values at its taps; none of
        a file that keeps its states inside.
        """
        return {s.before.name: s.read().copy() for s in self._states}

    def kept_states(self) -> dict[str, np.ndarray]:
        """The present states without delay lines that the program holds."""
        return {
            s.before.name: s.read().copy()
            for s in self._states
            if isinstance(s, Kept)
        }

    def record(
        self, samples: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """A stream from its start, in the file's own types.

        Args:
            samples: For each input an array (time, features).

        Returns:
            For each input and for each output what went through it.
        """
        self.reset()
        columns = [
            _encode(self._fit_sequence(column, tensor), tensor)
            for column, tensor in zip(samples, self._x, strict=True)
        ]
        rows = [
            [value.copy() for value in self._advance(step)]
            for step in zip(*columns, strict=True)
        ]
        outputs = [np.concatenate(column) for column in zip(*rows, strict=True)]
        return [column[:, 0] for column in columns], outputs

    def reset(self) -> None:
        """Set all states to zero, where every stream starts."""
        for state in self._states:
            state.reset()
        if self._internal:
            # LiteRT cannot set such states back; a new interpreter can.
            self._open()

    def step(self, x: Any) -> Any:
        """Advance the stream by one sample.

        Args:
            x: Array of shape (features,) or (1, features); a list of them, in
                order, for a model with several inputs.

        Returns:
            The float output, with a batch dimension if `x` had one; a list
            for a model with several outputs.
        """
        samples = [np.asarray(v) for v in self._as_list(x, "x")]
        batched = all(
            s.ndim == len(t.shape)
            for s, t in zip(samples, self._x, strict=True)
        )
        encoded = [
            _encode(self._fit(sample, tensor)[None], tensor)[0]
            for sample, tensor in zip(samples, self._x, strict=True)
        ]
        raw = self._advance(encoded)
        outputs = [
            _decode(v, t) if batched else _decode(v, t)[0]
            for v, t in zip(raw, self._y, strict=True)
        ]
        return outputs if len(self._y) > 1 else outputs[0]

    def run(self, sequence: Any, progress: bool = False) -> Any:
        """Advance the stream by a whole sequence.

        Continues from the present states; call `reset` before a new stream.

        Args:
            sequence: Array of shape (time, features); a list of them, in
                order, for a model with several inputs.
            progress: Whether to show the progress on stderr. Defaults to
                `False`.

        Returns:
            The float outputs, an array of shape (time, ...); a list of them
            for a model with several outputs.
        """
        columns = [
            _encode(self._fit_sequence(column, tensor), tensor)
            for column, tensor in zip(
                self._as_list(sequence, "sequence"), self._x, strict=True
            )
        ]
        length = len(columns[0])
        if any(len(column) != length for column in columns):
            raise ValueError(
                "Expected `sequence` to hold inputs of equal length. "
                f"Received: lengths={[len(c) for c in columns]}"
            )
        results = [np.empty((length, *t.shape[1:]), t.dtype) for t in self._y]
        for t, samples in enumerate(zip(*columns, strict=True)):
            for result, value in zip(
                results, self._advance(samples), strict=True
            ):
                result[t] = value[0]
            if progress and (t + 1) % max(1, length // 100) == 0:
                print(f"\r{t + 1}/{length} steps", end="", file=sys.stderr)
        if progress:
            print(file=sys.stderr)
        outputs = [_decode(r, t) for r, t in zip(results, self._y, strict=True)]
        return outputs if len(self._y) > 1 else outputs[0]

    @abc.abstractmethod
    def _open(self) -> None:
        """Make the interpreter from `self._data`."""

    @abc.abstractmethod
    def _advance(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """One step in the file's own types; keeps the new states."""

    def _as_list(self, value: Any, name: str) -> list:
        if len(self._x) == 1:
            return [value]
        if not isinstance(value, (list, tuple)) or len(value) != len(self._x):
            names = [t.name for t in self._x]
            raise ValueError(
                f"Expected `{name}` to be a list of {len(self._x)} arrays, "
                f"one for each input {names}. Received: {name} of type "
                f"{type(value).__name__}"
            )
        return list(value)

    @staticmethod
    def _fit(sample: np.ndarray, tensor: TensorInfo) -> np.ndarray:
        if sample.shape not in (tensor.shape, tensor.shape[1:]):
            raise ValueError(
                f"Expected `x` of shape {tensor.shape[1:]} or {tensor.shape} "
                f"for the input {tensor.name!r}. Received: "
                f"x.shape={sample.shape}"
            )
        return sample.reshape(tensor.shape)

    @staticmethod
    def _fit_sequence(sequence: Any, tensor: TensorInfo) -> np.ndarray:
        array = np.asarray(sequence)
        if array.ndim == 0 or array.shape[1:] != tensor.shape[1:]:
            raise ValueError(
                f"Expected `sequence` of shape (time, *{tensor.shape[1:]}) "
                f"for the input {tensor.name!r}. Received: "
                f"sequence.shape={array.shape}"
            )
        return array.reshape(len(array), *tensor.shape)


def _encode(values: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    """Float values in the file's type, rounded to nearest and clipped."""
    if tensor.scale is None or tensor.zero_point is None:
        return np.ascontiguousarray(values, tensor.dtype)
    limits = np.iinfo(tensor.dtype)
    # In float32, as the loop on a device does it.
    values = np.asarray(values, np.float32)
    steps = np.round(values / np.float32(tensor.scale)) + tensor.zero_point
    return np.clip(steps, limits.min, limits.max).astype(tensor.dtype)


def _decode(values: np.ndarray, tensor: TensorInfo) -> np.ndarray:
    if tensor.scale is None:
        return values
    steps = values.astype(np.float32) - np.float32(tensor.zero_point)
    return steps * np.float32(tensor.scale)

"""What a `.tflite` file takes and gives: its tensors by name."""

import dataclasses

import numpy as np

from keras_mgrade.export import flatbuffer as fb


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One input or output of a file.

    Attributes:
        name: Name in the signature.
        shape: Shape with the batch dimension, which is 1.
        dtype: Element type, such as `"float32"` or `"int8"`.
        scale: Step between two neighbouring integers; `None` in float.
        zero_point: The integer that means zero; `None` in float.
        index: Number of the tensor in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    index: int = -1

    @property
    def bytes(self) -> int:
        size = int(np.prod(self.shape, dtype=int))
        return size * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Interface:
    """Inputs and outputs of a file in the file's own order.

    A name that stands among the inputs and among the outputs is a state: what
    comes out under it goes in under it at the next step.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    @property
    def states(self) -> list[str]:
        """Names of the states, in the order of the inputs."""
        outputs = {t.name for t in self.outputs}
        return [t.name for t in self.inputs if t.name in outputs]


@dataclasses.dataclass(frozen=True)
class StateLayout:
    """How a state of the Keras stream lies in the file.

    Attributes:
        name: Name of the state.
        role: `"recurrent"`, `"delay_line"` or `"accumulator"`.
        keras_shape: Shape in the stream, with the batch dimension.
        shape: Shape in the file.
        steps: Length of a delay line in the file, in steps: its last `steps`
            entries in Keras, oldest first. `None` for other states.
        delays: For a delay line that the program holds: the delay of each
            tap (rows) and channel (columns), in steps; 0 reads zero. `None`
            for other states.
    """

    name: str
    role: str
    keras_shape: tuple[int, ...]
    shape: tuple[int, ...]
    steps: int | None = None
    delays: list[list[int]] | None = None


def read_interface(model, source: str = "data") -> Interface:
    """Read the interface of a loaded model object.

    Args:
        model: Model object from `flatbuffer.load`.
        source: Where it came from, for error messages.

    Returns:
        An `Interface`.

    Raises:
        ValueError: If the file has no signature or names other tensors in it
            than the graph takes.
    """
    graph, signature = model.subgraphs[0], fb.signature(model, source)
    tables = []
    for kind in ("inputs", "outputs"):
        entries = getattr(signature, kind)
        indices = [int(i) for i in getattr(graph, kind)]
        if sorted({e.tensorIndex for e in entries}) != sorted(set(indices)):
            raise ValueError(
                f"Expected the signature to name the {kind} of the graph. "
                f"Export the file again. Received: {source}"
            )
        # Two names may stand for one tensor (an answer that is the state).
        if [e.tensorIndex for e in entries] != indices:
            entries = sorted(
                entries, key=lambda e: indices.index(e.tensorIndex)
            )
        tables.append(tuple(_info(graph, entry) for entry in entries))
    return Interface(*tables)


def _info(graph, entry) -> TensorInfo:
    tensor = graph.tensors[entry.tensorIndex]
    scale, zero_point = fb.quantization_of(tensor) or (None, None)
    return TensorInfo(
        name=fb.text(entry.name),
        shape=fb.shape_of(tensor),
        dtype=fb.dtype_name(tensor),
        scale=scale,
        zero_point=zero_point,
        index=int(entry.tensorIndex),
    )

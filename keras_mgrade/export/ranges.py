"""Ranges of all tensors over a real stream, for quantisation."""

import dataclasses
import warnings

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.fold import PRODUCT
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.kept import make_state

Ranges = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a stream's tensors were, by name.

    Attributes:
        ranges: (smallest, largest value).
        means: Mean of every element over the steps, flat.
        moments: Of what matrix products read: mean of `x x^T`.
    """

    ranges: Ranges
    means: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def stream_statistics(
    data: bytes,
    columns: list[np.ndarray],
    lines: dict[str, list[list[int]]] | None = None,
) -> Statistics:
    """Ranges and means of every tensor while a stream runs.

    The states are fed back and the steps are consecutive, because the range
    of a state is known only where it has been. A moving average of the
    extremes, which quantisers usually take, would cut the states off.

    Args:
        data: A float32 step model with unique tensor names.
        columns: For each input an array (steps, features).
        lines: The delays of each line that the program holds, by its name.
            Defaults to `None`.

    Returns:
        The `Statistics` of all float tensors.

    Raises:
        ValueError: If a tensor became infinite or not a number.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    model = fb.load(data)
    interface = read_interface(model)
    graph = model.subgraphs[0]
    with warnings.catch_warnings():
        # It warns that keeping all tensors costs memory.
        warnings.simplefilter("ignore")
        interpreter = Interpreter(
            model_content=data,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=(
                OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
            ),
        )
        interpreter.allocate_tensors()
    outputs = {t.name: t for t in interface.outputs}
    lines = lines or {}
    states = [
        make_state(t, outputs[t.name], lines.get(t.name))
        for t in interface.inputs
        if t.name in outputs
    ]
    samples_at = [t.index for t in interface.inputs if t.name not in outputs]
    watched = _float_activations(model)
    low = np.full(len(watched), np.inf)
    high = np.full(len(watched), -np.inf)
    sums = [0.0 for _ in watched]
    moments = {
        i: np.zeros((np.prod(fb.shape_of(graph.tensors[i])),) * 2)
        for i in _read_by_products(model)
    }
    for step in zip(*columns, strict=True):
        for index, sample in zip(samples_at, step, strict=True):
            interpreter.set_tensor(index, sample[None])
        for state in states:
            interpreter.set_tensor(state.before.index, state.read())
        interpreter.invoke()
        values = [interpreter.get_tensor(i) for i in watched]
        low = np.minimum(low, [v.min() for v in values])
        high = np.maximum(high, [v.max() for v in values])
        sums = [s + v for s, v in zip(sums, values, strict=True)]
        for index, total in moments.items():
            x = np.ravel(interpreter.get_tensor(index)).astype(np.float64)
            total += np.outer(x, x)
        for state in states:
            state.write(interpreter.get_tensor(state.after.index))
    names = [fb.text(graph.tensors[i].name) for i in watched]
    ranges = {
        name: (float(a), float(b))
        for name, a, b in zip(names, low, high, strict=True)
    }
    broken = [n for n, pair in ranges.items() if not np.isfinite(pair).all()]
    if broken:
        raise ValueError(
            "Expected `calibration` to keep every value of the model finite. "
            "Check it for missing values and the model for divergence. "
            f"Received: not finite in {broken[:5]}"
        )
    means = {
        name: np.ravel(total) / len(columns[0])
        for name, total in zip(names, sums, strict=True)
    }
    moments = {
        fb.text(graph.tensors[i].name): total / len(columns[0])
        for i, total in moments.items()
    }
    return Statistics(ranges, means, moments)


def _read_by_products(model) -> set[int]:
    return {
        fb.inputs_of(op)[0]
        for op in model.subgraphs[0].operators
        if fb.operator_name(model, op) == PRODUCT
    }


def _float_activations(model) -> list[int]:
    """Tensors that change from step to step."""
    graph = model.subgraphs[0]
    touched = {int(i) for i in graph.inputs}
    for op in graph.operators:
        touched.update(fb.outputs_of(op))
    return [
        i
        for i in sorted(touched)
        if fb.dtype_name(graph.tensors[i]) == "float32"
    ]

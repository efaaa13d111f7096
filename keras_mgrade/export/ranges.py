"""Ranges of all tensors over a real stream, for quantisation."""

import dataclasses
import warnings

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import moments as moments_of
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.kept import make_state

Ranges = dict[str, tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What a stream's tensors were, by name.

    Attributes:
        ranges: (smallest, largest value).
        means: Mean of every element over the steps, flat.
        moments: By the names of outputs of operators with weights: mean of
            `x x^T` of what they read, see `moments`.
    """

    ranges: Ranges
    means: dict[str, np.ndarray]
    moments: dict[str, np.ndarray]


def stream_statistics(
    data: bytes,
    columns: list[np.ndarray],
    lines: dict[str, list[list[int]]] | None = None,
    starts: dict[str, np.ndarray] | None = None,
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
        starts: What states begin with, by their names. Defaults to `None`,
            which is zero.

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
    for state in states:
        if starts and state.before.name in starts:
            start = starts[state.before.name].astype("float32")
            state.write(start.reshape(state.before.shape))
    samples_at = [t.index for t in interface.inputs if t.name not in outputs]
    watched = _float_activations(model)
    low = np.full(len(watched), np.inf)
    high = np.full(len(watched), -np.inf)
    sums = [0.0 for _ in watched]
    moments = moments_of.watch(model)
    reads = {id(found): (index, found) for index, found in moments.values()}
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
        for index, found in reads.values():
            found.add(interpreter.get_tensor(index))
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
    mean_moments = {name: m.mean() for name, (_, m) in moments.items()}
    return Statistics(ranges, means, mean_moments)


def wider(first: Statistics, second: Statistics) -> Statistics:
    """The first stream's statistics, with ranges that hold for both."""
    ranges = {
        name: (
            min(low, second.ranges[name][0]),
            max(high, second.ranges[name][1]),
        )
        for name, (low, high) in first.ranges.items()
    }
    return dataclasses.replace(first, ranges=ranges)


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

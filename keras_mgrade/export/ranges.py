"""Ranges of all tensors over a real stream, for quantisation."""

import warnings
from collections.abc import Iterable

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import read_interface

Ranges = dict[str, tuple[float, float]]


def stream_ranges(data: bytes, sequences: Iterable[list[np.ndarray]]) -> Ranges:
    """Smallest and largest value of every tensor while a stream runs.

    The states are fed back and the steps are consecutive, because the range
    of a state is known only where it has been; they are never set back
    between sequences. A moving average of the extremes, which quantisers
    usually take, would cut the states off.

    Args:
        data: A float32 step model with unique tensor names.
        sequences: For each sequence a list of arrays (time, features), one
            for each input.

    Returns:
        A dictionary from tensor name to (minimum, maximum).

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
    outputs = {t.name: t.index for t in interface.outputs}
    states = [
        (t.index, outputs[t.name])
        for t in interface.inputs
        if t.name in outputs
    ]
    for tensor in interface.inputs:
        interpreter.set_tensor(
            tensor.index, np.zeros(tensor.shape, tensor.dtype)
        )
    samples_at = [t.index for t in interface.inputs if t.name not in outputs]
    watched = _float_activations(model)
    low = np.full(len(watched), np.inf)
    high = np.full(len(watched), -np.inf)
    for sequence in sequences:
        for step in zip(*sequence, strict=True):
            for index, sample in zip(samples_at, step, strict=True):
                interpreter.set_tensor(index, sample[None])
            interpreter.invoke()
            values = [interpreter.get_tensor(i) for i in watched]
            low = np.minimum(low, [v.min() for v in values])
            high = np.maximum(high, [v.max() for v in values])
            for before, after in states:
                interpreter.set_tensor(before, interpreter.get_tensor(after))
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
    return ranges


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

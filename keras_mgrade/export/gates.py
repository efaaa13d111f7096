"""The gates of a step model, and which of them are slow."""

from collections.abc import Iterator

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.graph import Graph, state_update
from keras_mgrade.export.interface import Interface, read_interface
from keras_mgrade.export.ranges import Statistics

# A hard gate in eight bits has steps of 1/256 and is off by up to half of one.
# Below this mean it gets sixteen, and so does a state of eight bits warn.
SLOW_GATE = 0.02
# A state that had fewer time constants than this to settle in a stream is
# somewhere between zero and where it tends to.
SETTLED = 5.0


def updates(
    model, interface: Interface, roles: dict[str, str]
) -> Iterator[tuple[str, int, int, int]]:
    """`(state, its output, gate, candidate)` of each gated state."""
    graph = Graph(model)
    outputs = {t.name: t.index for t in interface.outputs}
    for tensor in interface.inputs:
        if roles.get(tensor.name) == "recurrent":
            after = outputs[tensor.name]
            for pair in _of_state(graph, tensor.index, after):
                yield tensor.name, after, *pair


def slowest_gates(
    data: bytes, statistics: Statistics, roles: dict[str, str]
) -> dict[str, float]:
    """The smallest mean gate of each recurrent state that has gates.

    Args:
        data: Float32 model with canonical order and unique names.
        statistics: Of its tensors, over a real stream.
        roles: Role of each state by name.

    Returns:
        From the name of a state to the mean over time of the gate of its
        slowest unit, whose reciprocal is a time constant in steps.
    """
    model = fb.load(data)
    interface = read_interface(model)
    return {
        state: float(_mean(model, statistics, gate).min())
        for state, _, gate, _ in updates(model, interface, roles)
    }


def unsettled(
    data: bytes, statistics: Statistics, roles: dict[str, str], steps: int
) -> dict[str, np.ndarray]:
    """Where the states tend to that a stream was too short for.

    Args:
        data: Float32 model with canonical order and unique names.
        statistics: Of its tensors, over the stream.
        roles: Role of each state by name.
        steps: Length of the stream.

    Returns:
        From the name of such a state to the mean of its candidate.
    """
    model = fb.load(data)
    interface = read_interface(model)
    tensors = model.subgraphs[0].tensors
    return {
        state: statistics.means[fb.text(tensors[candidate].name)]
        for state, _, gate, candidate in updates(model, interface, roles)
        if _mean(model, statistics, gate).min() * steps < SETTLED
    }


def _mean(model, statistics: Statistics, gate: int) -> np.ndarray:
    """A gate's mean over time; one that is a constant is its own."""
    if fb.is_constant(model, gate):
        return np.ravel(fb.constant(model, gate))
    name = fb.text(model.subgraphs[0].tensors[gate].name)
    return statistics.means[name]


def slow_products(
    model, interface: Interface, statistics: Statistics, roles: dict[str, str]
) -> set[int]:
    """Products that are hard gates and too slow for eight bits."""
    graph, slow = Graph(model), set()
    for _, _, gate, _ in updates(model, interface, roles):
        number = _product_of(graph, gate)
        mean = _mean(model, statistics, gate).min()
        if number is not None and mean < SLOW_GATE:
            slow.add(number)
    return slow


def _of_state(graph: Graph, before: int, after: int) -> list[tuple[int, int]]:
    """`(gate, candidate)` of each update of a state that is an average.

    `h + gate * (candidate - h)`, or as Keras's GRU has it,
    `keep * h + (1 - keep) * candidate`. The state is an average of what its
    candidate has been and tends to it; the gate, in [0, 1], says how fast.
    """
    inner = state_update(graph, before, after)
    found = []
    for number in inner:
        read = graph.inputs(number)
        if (
            graph.names[number] == "SUB"
            and len(read) == 2
            and read[1] == before
        ):
            found += _gated(graph, graph.outputs(number)[0], read[0], inner)
        if graph.names[number] == "ADD" and len(read) == 2:
            found += _kept_and_new(graph, read, before)
    return found


def _gated(graph, difference, candidate, inner):
    """Of `gate * difference`; the gate may be a constant."""
    return [
        (gate, candidate)
        for reader in graph.readers.get(difference, [])
        if graph.names[reader] == "MUL" and reader in inner
        for gate in fb.inputs_of(graph.operators[reader])
        if gate != difference
    ]


def _kept_and_new(graph, read, before):
    """Of the sum of `keep * before` and `(1 - keep) * candidate`."""
    found = []
    for kept, new in (read, read[::-1]):
        pairs = [_factors(graph, index) for index in (kept, new)]
        if None in pairs or before not in pairs[0]:
            continue
        keep = next((i for i in pairs[0] if i != before), None)
        for gate, candidate in (pairs[1], pairs[1][::-1]):
            number = graph.producer.get(gate)
            rest = number is not None and graph.names[number] == "SUB"
            if rest and graph.inputs(number) == [keep]:
                found.append((gate, candidate))
    return found


def _factors(graph, index):
    """The two tensors whose product a tensor is."""
    number = graph.producer.get(index)
    if number is None or graph.names[number] != "MUL":
        return None
    return fb.inputs_of(graph.operators[number])


def _product_of(graph: Graph, gate: int) -> int | None:
    """The product that a gate is by constants only, with a RELU6 in it."""
    number = graph.producer.get(gate)
    if number is not None and graph.names[number] == "MUL":
        read = graph.inputs(number)
        number = graph.producer.get(read[0]) if len(read) == 1 else None
    if number is None or graph.names[number] != "FULLY_CONNECTED":
        return None
    fused = graph.operators[number].builtinOptions.fusedActivationFunction
    return number if fused == fb.schema().ActivationFunctionType.RELU6 else None

"""The gates of a step model, and which of them are slow."""

from collections.abc import Iterator

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.graph import Graph, state_update
from keras_mgrade.export.interface import Interface, read_interface
from keras_mgrade.export.ranges import Statistics

# A hard gate in eight bits has steps of 1/256 and is off by up to half of one.
# Below this mean it gets sixteen, and so does a state of eight bits warn.
SLOW_GATE = 0.02


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
    tensors = model.subgraphs[0].tensors
    return {
        state: float(statistics.means[fb.text(tensors[gate].name)].min())
        for state, _, gate, _ in updates(model, interface, roles)
    }


def slow_products(
    model, interface: Interface, statistics: Statistics, roles: dict[str, str]
) -> set[int]:
    """Products that are hard gates and too slow for eight bits."""
    graph, slow = Graph(model), set()
    tensors = model.subgraphs[0].tensors
    for _, _, gate, _ in updates(model, interface, roles):
        number = _product_of(graph, gate)
        mean = statistics.means[fb.text(tensors[gate].name)].min()
        if number is not None and mean < SLOW_GATE:
            slow.add(number)
    return slow


def _of_state(graph: Graph, before: int, after: int) -> list[tuple[int, int]]:
    """`(gate, candidate)` of each update `h + gate * (candidate - h)`.

    The state is an average of what its candidate has been and tends to it;
    the gate, in [0, 1], says how fast.
    """
    found = []
    inner = state_update(graph, before, after)
    for number in inner:
        read = graph.inputs(number)
        if graph.names[number] != "SUB" or len(read) != 2 or read[1] != before:
            continue
        difference = graph.outputs(number)[0]
        found += [
            (gate, read[0])
            for reader in graph.readers.get(difference, [])
            if graph.names[reader] == "MUL" and reader in inner
            for gate in graph.inputs(reader)
            if gate != difference
        ]
    return found


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

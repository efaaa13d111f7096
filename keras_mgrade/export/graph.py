"""Walks through the operators of a loaded model."""

from keras_mgrade.export import flatbuffer as fb

# Matrix products end the walk: they are what pays in int8, and they
# accumulate in 32 bits.
PRODUCTS = (
    "FULLY_CONNECTED",
    "DEPTHWISE_CONV_2D",
    "CONV_2D",
    "BATCH_MATMUL",
)


class Graph:
    """Producers and readers of the tensors of a loaded model."""

    def __init__(self, model):
        self.model = model
        self.operators = list(model.subgraphs[0].operators)
        self.names = [fb.operator_name(model, op) for op in self.operators]
        self.producer: dict[int, int] = {}
        self.readers: dict[int, list[int]] = {}
        for number, op in enumerate(self.operators):
            for index in fb.outputs_of(op):
                self.producer[index] = number
            for index in fb.inputs_of(op):
                self.readers.setdefault(index, []).append(number)

    def inputs(self, number: int) -> list[int]:
        """Tensors that an operator reads, without constants."""
        indices = fb.inputs_of(self.operators[number])
        return [i for i in indices if not fb.is_constant(self.model, i)]

    def outputs(self, number: int) -> list[int]:
        return fb.outputs_of(self.operators[number])


def state_update(graph: Graph, before: int, after: int) -> set[int]:
    """The operators between a state's input and its output.

    With them go nonlinearities of a single product (a gate, a candidate):
    those feed nothing else, and eight bits are too coarse for a gate.
    """
    update = upstream(graph, after) & downstream(graph, before)
    feeding = {i for n in update for i in graph.inputs(n)}
    for index in feeding:
        chain = upstream(graph, index)
        sources = {i for n in chain for i in graph.inputs(n)}
        sources -= {i for n in chain for i in graph.outputs(n)}
        if len(sources) == 1:
            update |= chain
    return update


def upstream(graph: Graph, index: int) -> set[int]:
    """Operators that lead to a tensor, back to the products."""
    found: set[int] = set()
    pending = [index]
    while pending:
        number = graph.producer.get(pending.pop())
        if number is None or number in found:
            continue
        if graph.names[number] not in PRODUCTS:
            found.add(number)
            pending += graph.inputs(number)
    return found


def downstream(graph: Graph, index: int) -> set[int]:
    """Operators that depend on a tensor."""
    found: set[int] = set()
    pending = [index]
    while pending:
        for number in graph.readers.get(pending.pop(), []):
            if number not in found:
                found.add(number)
                pending += graph.outputs(number)
    return found

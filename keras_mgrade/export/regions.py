"""Which operators of a step model stay in float32 when it is quantised.

A recurrent state in eight bits forgets: increments smaller than half a step
vanish. So the operators that update a recurrent or accumulator state stay in
float32, and so do normalisations, whose statistics span too wide a range, the
sums (skips) beside either, and operators of which TFLite Micro has no int8
form, with all between them and the samples. All are found by walking the graph
from the state outputs and from RSQRT; names of tensors mean nothing.
"""

from collections.abc import Iterable

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.operators import SUPPORTED

FLOAT_ROLES = ("recurrent", "accumulator")

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


def float_operators(model, roles: dict[str, str]) -> set[int]:
    """Numbers of the operators that stay in float32.

    Args:
        model: Float32 model object.
        roles: Role of each state by its name, from `state_specs`.

    Returns:
        A set of positions in the list of operators.
    """
    graph = Graph(model)
    interface = read_interface(model)
    outputs = {t.name: t.index for t in interface.outputs}
    kept: set[int] = set()
    for tensor in interface.inputs:
        if roles.get(tensor.name) in FLOAT_ROLES:
            kept |= _state_update(graph, tensor.index, outputs[tensor.name])
        if roles.get(tensor.name) == "accumulator":
            kept |= _readers_of_accumulator(graph, tensor.index)
            kept |= _readers_of_accumulator(graph, outputs[tensor.name])
    for number, name in enumerate(graph.names):
        if "int8" not in SUPPORTED.get(name, {"int8"}):
            kept |= {number} | _from_samples(graph, number, interface, roles)
        if name == "RSQRT":
            kept |= _normalisation(graph, number)
    return kept | _sums_beside(graph, kept)


def _from_samples(graph: Graph, number: int, interface, roles) -> set[int]:
    """The operators between the samples and an operator, if nothing else.

    Eight bits in front of a logarithm would round away what it is there to
    spread; so such samples enter in float32.
    """
    chain: set[int] = set()
    for index in graph.inputs(number):
        chain |= _upstream(graph, index)
    sources = {i for n in chain for i in graph.inputs(n)}
    sources -= {i for n in chain for i in graph.outputs(n)}
    samples = {t.index for t in interface.inputs if t.name not in roles}
    return chain if sources <= samples else set()


def _state_update(graph: Graph, before: int, after: int) -> set[int]:
    """The operators between a state's input and its output.

    With them go nonlinearities of a single product (a gate, a candidate):
    those feed nothing else, and eight bits are too coarse for a gate.
    """
    update = _upstream(graph, after) & _downstream(graph, before)
    feeding = {i for n in update for i in graph.inputs(n)}
    for index in feeding:
        chain = _upstream(graph, index)
        sources = {i for n in chain for i in graph.inputs(n)}
        sources -= {i for n in chain for i in graph.outputs(n)}
        if len(sources) == 1:
            update |= chain
    return update


def _upstream(graph: Graph, index: int) -> set[int]:
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


def _downstream(graph: Graph, index: int) -> set[int]:
    """Operators that depend on a tensor."""
    found: set[int] = set()
    pending = [index]
    while pending:
        for number in graph.readers.get(pending.pop(), []):
            if number not in found:
                found.add(number)
                pending += graph.outputs(number)
    return found


def _readers_of_accumulator(graph: Graph, index: int) -> set[int]:
    """Operators that turn a growing sum into something of bounded range."""
    numbers = graph.readers.get(index, [])
    return {n for n in numbers if graph.names[n] not in PRODUCTS}


def _normalisation(graph: Graph, rsqrt: int) -> set[int]:
    """The operators of the normalisation around one RSQRT.

    x -> [MEAN -> SUB ->] MUL -> MEAN -> ADD -> RSQRT -> MUL [-> MUL] [-> ADD]
    """
    kept = {rsqrt}
    number = rsqrt
    # Back through the mean square to what is squared.
    while graph.names[number] not in ("MUL", "SQUARE", "SQUARED_DIFFERENCE"):
        inputs = graph.inputs(number)
        if len(inputs) != 1 or inputs[0] not in graph.producer:
            return kept
        number = graph.producer[inputs[0]]
        kept.add(number)
    for index in graph.inputs(number):
        kept |= _centring(graph, index)
    # Forward through the scaling by constants, if it is not folded.
    pending = graph.outputs(rsqrt)
    while pending:
        for reader in graph.readers.get(pending.pop(), []):
            if graph.names[reader] not in ("MUL", "ADD", "SUB"):
                continue
            inputs = graph.inputs(reader)
            from_kept = [i for i in inputs if graph.producer.get(i) in kept]
            scaled = len(inputs) == 1 or graph.names[reader] == "MUL"
            if from_kept and scaled and reader not in kept:
                kept.add(reader)
                pending += graph.outputs(reader)
    return kept


def _sums_beside(graph: Graph, kept: set[int]) -> set[int]:
    """Sums of two tensors that read from or lead to a float operator.

    A skip past a recurrence carries quiet and loud passages: in one int8
    scale the quiet ones drown, and a normalisation then amplifies what is
    left. Between float operators a sum in float costs no conversion either.
    """
    sums = {
        n
        for n, name in enumerate(graph.names)
        if name in ("ADD", "SUB") and len(graph.inputs(n)) == 2
    }
    found: set[int] = set()
    grown = True
    while grown:
        beside = {
            n
            for n in sums - found
            if any(
                other in kept | found
                for other in (
                    *(graph.producer.get(i) for i in graph.inputs(n)),
                    *(
                        reader
                        for i in graph.outputs(n)
                        for reader in graph.readers.get(i, [])
                    ),
                )
            )
        }
        grown = bool(beside)
        found |= beside
    return found


def _centring(graph: Graph, index: int) -> set[int]:
    """SUB and MEAN if the tensor is `x - mean(x)`, else nothing."""
    number = graph.producer.get(index)
    if number is None or graph.names[number] not in ("SUB", "MEAN"):
        return set()
    if graph.names[number] == "MEAN":
        return {number}
    inputs = graph.inputs(number)
    means = [
        graph.producer[i]
        for i in inputs
        if graph.names[graph.producer.get(i, 0)] == "MEAN"
        and i in graph.producer
    ]
    if means and set(graph.inputs(means[0])) <= set(inputs):
        return {number, means[0]}
    return set()


def output_tensors(model, numbers: Iterable[int]) -> list[str]:
    """Names of the tensors that the numbered operators write."""
    graph = model.subgraphs[0]
    return [
        fb.text(graph.tensors[i].name)
        for n in sorted(numbers)
        for i in fb.outputs_of(graph.operators[n])
    ]

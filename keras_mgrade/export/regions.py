"""Which operators of a step model are not of the precision of the others.

In mixed precision a recurrent state does not get eight bits, in which it would
forget: increments smaller than half a step vanish. So the operators that
update it have float32, or 16 bits, and so have the sums (skips) beside them.
Normalisations, whose statistics span too wide a range, stay in float32, as do
running sums and operators of which TFLite Micro has no quantised form, with
all between them and the samples. All are found by walking the graph from the
state outputs and from RSQRT; names of tensors mean nothing.
"""

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.operators import SUPPORTED

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


def apart(
    model, roles: dict[str, str], precision: str, state_dtype: str
) -> dict[int, int | None]:
    """The operators that do not get the bits of the precision.

    Args:
        model: Float32 model object.
        roles: Role of each state by its name, from `state_specs`.
        precision: `"mixed"`, `"int8"` or `"int16x8"`.
        state_dtype: What recurrent states are in mixed precision,
            `"float32"` or `"int16"`.

    Returns:
        From an operator's position in the list of operators to its bits, or
        to `None` for float32.

    Raises:
        ValueError: If an operator has no form of eight bits and all must.
    """
    graph = Graph(model)
    interface = read_interface(model)
    outputs = {t.name: t.index for t in interface.outputs}
    states = [(t, roles.get(t.name)) for t in interface.inputs]
    kept: set[int] = set()
    for tensor, role in states:
        if role == "accumulator":
            after = outputs[tensor.name]
            kept |= _state_update(graph, tensor.index, after)
            kept |= _readers_of_accumulator(graph, tensor.index)
            kept |= _readers_of_accumulator(graph, after)
    if kept and precision == "int8":
        raise ValueError(
            "Expected no running mean for precision 'int8': its sum grows "
            "without end, which eight bits cannot hold. Use "
            "TemporalPooling('exponential', time_constant=...) or "
            "precision='mixed'. Received: precision='int8' and the states "
            f"{[t.name for t, role in states if role == 'accumulator']}"
        )
    kind = "int16" if precision == "int16x8" else "int8"
    for number, name in enumerate(graph.names):
        if kind not in SUPPORTED.get(name, {kind}):
            if precision == "int8":
                raise ValueError(
                    f"Expected operators that compute in int8, but {name} "
                    "does not. Use precision='mixed', which keeps it in "
                    f"float32. Received: precision='int8', operator={name}"
                )
            kept |= {number} | _from_samples(graph, number, interface, roles)
        if name == "RSQRT" and precision != "int8":
            kept |= _normalisation(graph, number)
    if precision != "mixed":
        return dict.fromkeys(kept)
    updates: set[int] = set()
    for tensor, role in states:
        if role == "recurrent":
            after = outputs[tensor.name]
            updates |= _state_update(graph, tensor.index, after)
    sums = _sums_beside(graph, kept | updates)
    bits = None if state_dtype == "float32" else 16
    return dict.fromkeys(sums | updates, bits) | dict.fromkeys(kept)


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


def product_of_gate(graph: Graph, gate: int) -> int | None:
    """The product that a gate is by constants only, with a RELU6 in it."""
    number = graph.producer.get(gate)
    if number is not None and graph.names[number] == "MUL":
        read = graph.inputs(number)
        number = graph.producer.get(read[0]) if len(read) == 1 else None
    if number is None or graph.names[number] != "FULLY_CONNECTED":
        return None
    fused = graph.operators[number].builtinOptions.fusedActivationFunction
    return number if fused == fb.schema().ActivationFunctionType.RELU6 else None


def updates(graph: Graph, before: int, after: int) -> list[tuple[int, int]]:
    """`(gate, candidate)` of each update `h + gate * (candidate - h)`.

    The state is an average of what its candidate has been and tends to it;
    the gate, in [0, 1], says how fast.
    """
    found = []
    inner = _state_update(graph, before, after)
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

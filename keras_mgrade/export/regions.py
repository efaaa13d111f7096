"""Which operators of a step model are not of the precision of the others.

In mixed precision a recurrent state does not get eight bits, in which it would
forget: increments smaller than half a step vanish. So the operators that
update it have float32, or 16 bits, and so have the sums (skips) beside them.
Normalisations, whose statistics span too wide a range, stay in float32, as do
running sums and operators of which TFLite Micro has no quantised form, with
all between them and the samples, whose products get 16 bits, as does a product
that makes an answer of what is not in eight. All are found by walking the graph
from the state outputs and from RSQRT; names of tensors mean nothing.
"""

from keras_mgrade.export.graph import (
    PRODUCTS,
    Graph,
    state_update,
    upstream,
)
from keras_mgrade.export.interface import read_interface
from keras_mgrade.export.operators import SUPPORTED


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
    products: set[int] = set()
    for tensor, role in states:
        if role == "accumulator":
            after = outputs[tensor.name]
            kept |= state_update(graph, tensor.index, after)
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
            samples = {t.index for t, _ in states if t.name not in roles}
            chain, before = _from_samples(graph, number, samples)
            kept |= {number} | chain
            products |= before
        if name == "RSQRT" and precision != "int8":
            kept |= _normalisation(graph, number)
    if precision != "mixed":
        return dict.fromkeys(kept)
    updates: set[int] = set()
    for tensor, role in states:
        if role == "recurrent":
            after = outputs[tensor.name]
            updates |= state_update(graph, tensor.index, after)
    sums = _sums_beside(graph, kept | updates)
    answers = {t.index for t in interface.outputs if t.name not in roles}
    products |= _last_products(graph, answers, kept | updates | sums)
    bits = None if state_dtype == "float32" else 16
    return (
        dict.fromkeys(sums | updates, bits)
        | dict.fromkeys(products, 16)
        | dict.fromkeys(kept)
    )


def _from_samples(
    graph: Graph, number: int, samples: set[int]
) -> tuple[set[int], set[int]]:
    """What lies between the samples and an operator, if nothing else does.

    Eight bits in front of a logarithm would round away what it is there to
    spread: so the operators before it compute in float32, and products (a
    filter bank) in 16 bits, which is what a microphone gives.

    Returns:
        The operators but for the products, and the products.
    """
    chain: set[int] = set()
    products: set[int] = set()
    pending = [number]
    while pending:
        reading = {pending.pop()}
        for index in graph.inputs(*reading):
            reading |= upstream(graph, index)
        chain |= reading
        before = {
            graph.producer[i]
            for n in reading
            for i in graph.inputs(n)
            if i in graph.producer
        }
        pending += before - chain - products
        products |= before - chain
    inner = chain | products
    sources = {i for n in inner for i in graph.inputs(n)}
    sources -= {i for n in inner for i in graph.outputs(n)}
    if not sources <= samples:
        return set(), set()
    return chain - products, products


def _last_products(
    graph: Graph, answers: set[int], apart: set[int]
) -> set[int]:
    """Products that alone make an answer of what is not in eight bits.

    An answer in eight bits has 256 values, a forecast of temperature steps of
    half a degree; between float operators sixteen cost no conversion more.
    """
    last: set[int] = set()
    for index in answers:
        chain = upstream(graph, index)
        ends = {graph.producer.get(i) for n in chain for i in graph.inputs(n)}
        products = (ends | {graph.producer.get(index)}) - chain - {None}
        for n in products if len(products) == 1 else ():
            before = {graph.producer.get(i) for i in graph.inputs(n)}
            if graph.names[n] == "FULLY_CONNECTED" and chain | before <= apart:
                last.add(n)
    return last


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

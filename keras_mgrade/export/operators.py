"""The operators a file may have: what TFLite Micro runs correctly.

The table is in our code because the runtime's own answer to a wrong file is
in the worst case a crash, an endless loop or wrong numbers, and because its
Python wheel exists for one platform only.
"""

from keras_mgrade.export import flatbuffer as fb

_FLOAT = frozenset({"float32"})
_BOTH = frozenset({"float32", "int8"})

# Operator -> element types in which TFLite Micro gives the right numbers.
SUPPORTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "ABS ADD AVERAGE_POOL_2D BATCH_MATMUL BROADCAST_TO CONCATENATION "
            "CONV_2D DEPTHWISE_CONV_2D DIV EXPAND_DIMS FULLY_CONNECTED "
            "GATHER GATHER_ND HARD_SWISH L2_NORMALIZATION LEAKY_RELU "
            "LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MUL PACK PAD PRELU "
            "REDUCE_MAX RELU RESHAPE REVERSE_V2 RSQRT SELECT_V2 SLICE "
            "SOFTMAX SPLIT SPLIT_V SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE "
            "SUB TANH TRANSPOSE UNPACK"
        ).split(),
        _BOTH,
    ),
    # Right in float only: int8 is missing, or computed wrongly (RELU6, SUM).
    **dict.fromkeys(
        (
            "CEIL COS ELU EXP FLOOR LOG NEG RELU6 ROUND SIN SQRT SQUARE SUM"
        ).split(),
        _FLOAT,
    ),
    "QUANTIZE": _BOTH,
    "DEQUANTIZE": frozenset({"int8"}),
}

WAYS_OUT: dict[str, str] = {
    "GELU": "train with 'relu', 'silu', 'tanh' or 'hard_silu' instead of "
    "'gelu'",
    "Erf": "train with 'relu', 'silu', 'tanh' or 'hard_silu' instead of 'gelu'",
    "WHILE": "export the step model, which has no loop",
    "SELECT": "train with 'relu', 'elu', 'silu' or 'tanh'",
}


def unsupported_operators(model) -> list[str]:
    """What of a model TFLite Micro would not run, one text for each kind.

    Args:
        model: Loaded model object.

    Returns:
        A list of texts such as `"GELU in float32 (at dense/Gelu)"`; empty if
        all is well.
    """
    graph = model.subgraphs[0]
    problems: dict[str, str] = {}
    for op in graph.operators:
        name = fb.operator_name(model, op)
        kinds = _element_types(model, op)
        allowed = SUPPORTED.get(name, frozenset())
        if len(kinds) == 1 and kinds <= allowed:
            continue
        output = graph.tensors[fb.outputs_of(op)[0]]
        place = fb.text(output.name).rsplit(";", 1)[-1]
        what = f"{name} in {' and '.join(sorted(kinds)) or 'integers'}"
        problems.setdefault(what, f"{what} (at {place})")
    return list(problems.values())


def _element_types(model, op) -> set[str]:
    """Element types an operator computes with.

    Shapes, indices and biases are int32 and not counted; weights are, because
    TFLite Micro has no kernels that mix float activations and int8 weights.
    """
    tensors = model.subgraphs[0].tensors
    kinds = [fb.dtype_name(tensors[i]) for i in fb.inputs_of(op)]
    return {kind for kind in kinds if kind not in ("int32", "bool")}


def check_operators(model) -> None:
    """Raise unless TFLite Micro runs every operator of a model.

    Raises:
        ValueError: Names the operators, where they are, and what to do.
    """
    problems = unsupported_operators(model)
    if not problems:
        return
    names = {problem.split()[0] for problem in problems}
    advice = [WAYS_OUT[name] for name in WAYS_OUT if name in names]
    refuse(problems, advice)


def refuse(problems: list[str], advice: list[str]) -> None:
    """Raise the error about operators outside of the table."""
    ways = "; ".join(dict.fromkeys(advice)) or (
        "build the model from operators on the list "
        "`keras_mgrade.export.operators.SUPPORTED`"
    )
    raise ValueError(
        "Expected `model` to need only operators that TFLite Micro runs. "
        f"What to do: {ways}. Received: operators={problems}"
    )

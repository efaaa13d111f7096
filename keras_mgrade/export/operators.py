"""The operators a file may have: what TFLite Micro runs correctly.

The table is in our code because the runtime's own answer to a wrong file is
in the worst case a crash, an endless loop or wrong numbers, and because its
Python wheel exists for one platform only.
"""

from keras_mgrade.export import flatbuffer as fb

_FLOAT = frozenset({"float32"})
_BYTE = _FLOAT | {"int8"}
_EVERY = _BYTE | {"int16"}

# Operator -> element types in which TFLite Micro and LiteRT give the right
# numbers.
SUPPORTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(
        (
            "ADD BATCH_MATMUL CONCATENATION CONV_2D DEPTHWISE_CONV_2D "
            "FULLY_CONNECTED LOGISTIC MAXIMUM MEAN MUL PACK PAD RELU RESHAPE "
            "SLICE SOFTMAX SPLIT STRIDED_SLICE SUB TANH TRANSPOSE UNPACK"
        ).split(),
        _EVERY,
    ),
    **dict.fromkeys(
        (
            "ABS AVERAGE_POOL_2D BROADCAST_TO DIV EXPAND_DIMS GATHER "
            "GATHER_ND HARD_SWISH L2_NORMALIZATION LEAKY_RELU MAX_POOL_2D "
            "MINIMUM PRELU REDUCE_MAX REVERSE_V2 RSQRT SELECT_V2 SPLIT_V "
            "SQUARED_DIFFERENCE SQUEEZE"
        ).split(),
        _BYTE,
    ),
    # Right in float only: int8 is missing, or computed wrongly (RELU6, SUM).
    **dict.fromkeys(
        (
            "CEIL COS ELU EXP FLOOR LOG NEG RELU6 ROUND SIN SQRT SQUARE SUM"
        ).split(),
        _FLOAT,
    ),
    # Of states inside of the file; they compute nothing.
    **dict.fromkeys(
        "ASSIGN_VARIABLE CALL_ONCE READ_VARIABLE VAR_HANDLE".split(), _EVERY
    ),
    "QUANTIZE": _EVERY,
    "DEQUANTIZE": frozenset({"int8", "int16"}),
}

_WITHOUT_DATA = ("CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE")

# Operators with weights, which are int8 where the activations are int16.
_WEIGHTED = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "FULLY_CONNECTED",
)

WAYS_OUT: dict[str, str] = {
    "GELU": "train with 'relu', 'silu', 'tanh' or 'hard_silu' instead of "
    "'gelu'",
    "Erf": "train with 'relu', 'silu', 'tanh' or 'hard_silu' instead of 'gelu'",
    "WHILE": "export the step model, which has no loop",
    # What activations that compare are made of.
    **dict.fromkeys(
        (
            "SELECT EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL "
            "LOGICAL_AND LOGICAL_NOT LOGICAL_OR"
        ).split(),
        "train with 'relu', 'elu', 'silu' or 'tanh', which compare nothing",
    ),
    "CAST": "declare inputs that are numbers as float32, give an Embedding an "
    "input of its own, keras.Input(..., dtype='int32'), and leave casts out",
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
        if kinds <= allowed and (len(kinds) == 1 or name in _WITHOUT_DATA):
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
    if fb.operator_name(model, op) in _WEIGHTED and kinds[0] == "int16":
        # 16 bits by 8, with biases of 64.
        kinds = [k for k in kinds if k not in ("int8", "int64")]
    return set(kinds) - {"int32", "bool", "resource"}


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
    refuse(problems, advice, "TFLite Micro runs")


def refuse(problems: list[str], advice: list[str], which: str) -> None:
    """Raise the error about operators that are not among `which`."""
    ways = "; ".join(dict.fromkeys(advice)) or (
        "build the model from operators on the list "
        "`keras_mgrade.export.operators.SUPPORTED`"
    )
    raise ValueError(
        f"Expected `model` to need only operators that {which}. "
        f"What to do: {ways}. Received: operators={problems}"
    )

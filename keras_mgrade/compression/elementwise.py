"""What a file's operators compute, over whole sequences, in Keras.

Values have batch and time in front of what they are in the file for one step.
"""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mgrade.export import flatbuffer as fb


def aligned(*values: Any) -> list[Any]:
    """Values with axes of one behind time, as many as the longest has."""
    rank = max(len(v.shape) for v in values)
    found = []
    for value in values:
        for _ in range(rank - len(value.shape)):
            value = ops.expand_dims(value, 2)
        found.append(value)
    return found


def activate(x: Any, options: dict[str, Any]) -> Any:
    """The activation that is fused into an operator."""
    number = options.get("fusedActivationFunction", 0)
    return _FUSED[fb.names("ActivationFunctionType")[number]](x)


_FUSED: dict[str, Callable] = {
    "NONE": lambda x: x,
    "RELU": ops.relu,
    "RELU_N1_TO_1": lambda x: ops.clip(x, -1.0, 1.0),
    "RELU6": ops.relu6,
    "TANH": ops.tanh,
}

# Of one value and the operator's options.
UNARY: dict[str, Callable] = {
    "ABS": ops.abs,
    "CEIL": ops.ceil,
    "COS": ops.cos,
    "DEQUANTIZE": lambda x: x,
    "ELU": keras.activations.elu,
    "EXP": ops.exp,
    "FLOOR": ops.floor,
    "HARD_SWISH": keras.activations.hard_silu,
    "LOG": ops.log,
    "LOGISTIC": ops.sigmoid,
    "NEG": ops.negative,
    "QUANTIZE": lambda x: x,
    "RELU": ops.relu,
    "RELU6": ops.relu6,
    "RSQRT": ops.rsqrt,
    "SIN": ops.sin,
    "SOFTMAX": lambda x: ops.softmax(x, axis=-1),
    "SQRT": ops.sqrt,
    "SQUARE": ops.square,
    "TANH": ops.tanh,
}

BINARY: dict[str, Callable] = {
    "ADD": ops.add,
    "DIV": ops.divide,
    "MAXIMUM": ops.maximum,
    "MINIMUM": ops.minimum,
    "MUL": ops.multiply,
    "PRELU": lambda x, slope: ops.where(x >= 0, x, slope * x),
    "SQUARED_DIFFERENCE": lambda x, y: ops.square(x - y),
    "SUB": ops.subtract,
}

REDUCTIONS: dict[str, Callable] = {
    "MEAN": ops.mean,
    "REDUCE_MAX": ops.max,
    "SUM": ops.sum,
}

# What gives the same values in another form.
RESHAPES = ("RESHAPE", "EXPAND_DIMS", "SQUEEZE")

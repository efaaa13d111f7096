"""keras_mgrade: sequence layers for Keras 3 that run on microcontrollers."""

import importlib
from typing import Any

from keras_mgrade import (
    activations,
    callbacks,
    initializers,
    models,
    ops,
    plotting,
    regularizers,
)
from keras_mgrade.gate_memory import time_constants
from keras_mgrade.layers import (
    DelayConv1D,
    MGrade,
    MinGRU,
    MinGRUCell,
    TemporalPooling,
)
from keras_mgrade.memory import memory_report
from keras_mgrade.regrowth import regrow_delays
from keras_mgrade.snapping import snap_delays
from keras_mgrade.states import (
    get_states,
    reset_rows,
    reset_states,
    set_states,
)
from keras_mgrade.streaming import compile_step, initial_states, streaming_model
from keras_mgrade.version import __version__
from keras_mgrade.weight_decay import weights_without_decay

__all__ = [
    "DelayConv1D",
    "MGrade",
    "MinGRU",
    "MinGRUCell",
    "TemporalPooling",
    "__version__",
    "activations",
    "callbacks",
    "compile_step",
    "get_states",
    "initial_states",
    "initializers",
    "memory_report",
    "models",
    "ops",
    "plotting",
    "regrow_delays",
    "regularizers",
    "reset_rows",
    "reset_states",
    "set_states",
    "snap_delays",
    "streaming_model",
    "time_constants",
    "weights_without_decay",
]


def __getattr__(name: str) -> Any:
    # They bring the file format's modules: imported when first used.
    if name in ("compression", "export"):
        return importlib.import_module(f"keras_mgrade.{name}")
    raise AttributeError(f"module 'keras_mgrade' has no attribute {name!r}")

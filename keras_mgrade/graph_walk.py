"""Keras's own traversal of a model, with values of ours for its tensors."""

from collections.abc import Callable
from typing import Any

import keras

# What `keras.Model(inputs, outputs)` makes; Keras exports only its base.
from keras.src.models.functional import Functional


def is_graph(layer: Any) -> bool:
    """Whether a layer is a model whose call is its graph and nothing else."""
    graphs = (keras.Sequential, Functional)
    return any(type(layer).call is graph.call for graph in graphs)


def graph_of(model: keras.Model) -> Functional:
    """The graph of a Sequential or functional model."""
    return getattr(model, "_functional", None) or model


def walk(model: keras.Model, inputs: Any, visit: Callable[..., Any]) -> Any:
    """What comes out of a Sequential or functional model.

    Args:
        model: The model.
        inputs: A value for each of its inputs, in their structure.
        visit: `visit(operation, args, kwargs) -> value` of every operation.
    """

    def call(operation, *args, **kwargs):
        return visit(operation, args, kwargs)

    # `clone_model` uses it in the same way, but refuses `call_function` for
    # Sequential.
    return graph_of(model)._run_through_graph(
        inputs, operation_fn=lambda operation: operation, call_fn=call
    )

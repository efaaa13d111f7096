"""Keras's own traversal of a model, with values of ours for its tensors."""

from collections.abc import Callable
from typing import Any

import keras


def walk(
    model: keras.Model, inputs: list[Any], visit: Callable[[Any, Any], Any]
) -> Any:
    """What comes out of a Sequential or functional model.

    Args:
        model: The model.
        inputs: A value for each of its inputs.
        visit: `visit(operation, values) -> value` of every operation.
    """

    def call(operation, *args, **kwargs):
        return visit(operation, args)

    graph = getattr(model, "_functional", None) or model
    return graph._run_through_graph(
        inputs, operation_fn=lambda operation: operation, call_fn=call
    )

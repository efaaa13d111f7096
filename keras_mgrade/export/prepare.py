"""A model from a file, made fit for TensorFlow's graphs and for the device."""

import re
from typing import Any

import keras

from keras_mgrade.step_graph import identifier

# What TensorFlow takes as the name of a scope in a graph.
_SCOPE = re.compile(r"[A-Za-z0-9.][\w.\\/>-]*", re.ASCII)


def compute_in_float32(model: Any) -> None:
    """Undo mixed precision: the device computes in float32 or int8.

    Raises:
        ValueError: If a layer has weights of another type.
    """
    for layer in model._flatten_layers():
        if layer.variable_dtype != "float32":
            raise ValueError(
                "Expected `model` to have float32 weights. Make it under the "
                "dtype policy 'float32' or a mixed one and copy the weights. "
                f"Received: layer {layer.name!r} with dtype policy "
                f"{layer.dtype_policy.name!r}"
            )
        if layer.compute_dtype != "float32":
            layer.dtype_policy = "float32"


def name_scopes(model: Any) -> None:
    """Rename layers whose names other backends take and TensorFlow does not.

    States are called as if they had kept their names: those are C identifiers
    in any case.
    """
    for layer in model._flatten_layers():
        if not _SCOPE.fullmatch(layer.name):
            layer.name = identifier(layer.name)


def input_types(stream: keras.Model) -> keras.Model:
    """A stream whose inputs are of the types that a device has.

    Float inputs, states of mixed precision among them, become float32, and
    what only tables of vectors read becomes int32: the tokens that it means.

    Args:
        stream: A model from `streaming_model`.

    Returns:
        A stream of the same layers, or the same stream.
    """
    types = [_type(stream, tensor) for tensor in stream.inputs]
    if types == [tensor.dtype for tensor in stream.inputs]:
        return stream
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=dtype, name=tensor.name)
        for tensor, dtype in zip(stream.inputs, types, strict=True)
    ]
    return keras.models.clone_model(
        stream, input_tensors=inputs, clone_function=lambda layer: layer
    )


def _type(stream: keras.Model, tensor: Any) -> str:
    if not keras.backend.is_float_dtype(tensor.dtype):
        return tensor.dtype
    readers = [
        getattr(operation, "layer", None)
        for operation in stream.operations
        for node in operation._inbound_nodes
        if any(tensor is x for x in node.input_tensors)
    ]
    tables = [isinstance(x, keras.layers.Embedding) for x in readers]
    return "int32" if tables and all(tables) else "float32"

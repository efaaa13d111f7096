"""A Keras 3 model as its twin in tf_keras, where tfmot's own wrappers work."""

from typing import Any

import keras
import numpy as np

from keras_mgrade import validation
from keras_mgrade.graph_walk import is_graph
from keras_mgrade.layers.mgrade import MGrade
from keras_mgrade.layers.min_gru import MinGRU


def to_tf_keras(model: keras.Model, annotate: bool = False) -> Any:
    """Makes the tf_keras twin of a model, with copies of its weights.

    tensorflow-model-optimization takes tf_keras models only. On the twin its
    functions run as they are, and `from_tf_keras` brings the weights back:

    ```python
    twin = keras_mgrade.compression.to_tf_keras(model)
    pruned = tfmot.sparsity.keras.prune_low_magnitude(twin, schedule)
    # ... compile and fit it with tf_keras
    keras_mgrade.compression.from_tf_keras(pruned, model)
    ```

    For training the callbacks and `quantization_aware` of this package are
    the shorter way, on any backend; the twin steps through a recurrence.

    Args:
        model: A built Sequential or functional model of this package's layers
            and of Dense, Activation, ReLU, BatchNormalization,
            LayerNormalization, Dropout, Add, Subtract, Multiply and
            Concatenate, and of models of those; without masks and states.
        annotate: Whether the layers are annotated for
            `tfmot.quantization.keras.quantize_apply`, to be called within
            `tf_keras_scope()`. Defaults to `False`.

    Returns:
        A functional `tf_keras.Model` whose layers have the names of the
        model's, of the parts of an `MGrade` and of a model within the model
        with its name and `__` in front.

    Raises:
        ValueError: If a layer has no twin; it is named.
    """
    validation.built_graph("model", model)
    from keras_mgrade.compression.bridge_graph import TwinGraph

    names = {id(layer): name for name, layer in _named_parts(model)}
    return TwinGraph(annotate, names).model(model)


def from_tf_keras(twin: Any, model: keras.Model) -> None:
    """Copies the weights of a twin, wrapped by tfmot or not, to its model.

    Args:
        twin: From `to_tf_keras`, or what tfmot made of it.
        model: The model the twin was made of.

    Raises:
        ValueError: If `twin` is no such model.
    """
    validation.not_tf_keras("model", model)
    twins = {}
    for layer in _stripped(twin).layers:
        # What rounds weights holds the layer that they belong to.
        inner = getattr(layer, "layer", layer)
        twins[inner.name] = {
            # Names are paths, and end in the number of an output.
            weight.name.rsplit("/", 1)[-1].split(":")[0]: weight.numpy()
            for weight in layer.weights
        }
    parts = [
        (name, _weights_of(layer))
        for name, layer in _named_parts(model)
        if layer.weights
    ]
    # All of them before the first is copied.
    for name, variables in parts:
        if name not in twins:
            raise ValueError(
                "`twin` must be made of `model` by to_tf_keras: it has no "
                f"layer {name!r}. Received: twin={twin!r}"
            )
        _check_weights(name, variables, twins[name])
    for name, variables in parts:
        for weight, variable in variables.items():
            variable.assign(twins[name][weight])


def tf_keras_scope() -> Any:
    """`tfmot.quantization.keras.quantize_scope` with the twins' layers."""
    from keras_mgrade.compression import tf_keras_layers as made

    return made.quantization.quantize_scope(made.CUSTOM)


def _named_parts(model):
    """`[(name in the twin, layer)]` of every layer, each of them once."""
    found = {}

    def add(layers, prefix):
        for layer in layers:
            name = prefix + layer.name
            if isinstance(layer, MGrade):
                add(layer._layers, f"{name}__")
            elif is_graph(layer):
                add(layer.layers, f"{name}__")
            else:
                found.setdefault(id(layer), (name, layer))

    add(model.layers, "")
    return list(found.values())


def _stripped(twin: Any) -> Any:
    """A twin without tfmot's wrappers around pruned or clustered layers."""
    import tf_keras

    from keras_mgrade.compression import tf_keras_layers as made

    if not isinstance(twin, tf_keras.Model):
        raise ValueError(
            "`twin` must be a tf_keras model made by to_tf_keras, or what "
            f"tfmot made of it. Received: twin={twin!r}"
        )
    with made.quantization.quantize_scope(made.CUSTOM):
        twin = made.sparsity.strip_pruning(twin)
        return made.clustering.strip_clustering(twin)


def _weights_of(layer: keras.Layer) -> dict[str, keras.Variable]:
    if isinstance(layer, MinGRU):
        layer = layer.cell
    found = {name: getattr(layer, name, None) for name in _WEIGHTS}
    return {
        k: variable for k, variable in found.items() if variable is not None
    }


def _check_weights(
    layer: str,
    variables: dict[str, keras.Variable],
    values: dict[str, np.ndarray],
) -> None:
    """Refuses a layer of a twin that has not the model's weights."""
    wanted = {name: tuple(v.shape) for name, v in variables.items()}
    found = {n: values[n].shape for n in _WEIGHTS if n in values}
    if found != wanted:
        raise ValueError(
            "`twin` must be made of `model` by to_tf_keras, with the weights "
            f"that its layer {layer!r} has, {wanted}. "
            f"Received: twin.{layer}={found}"
        )


_WEIGHTS = (
    "kernel",
    "bias",
    "gamma",
    "beta",
    "moving_mean",
    "moving_variance",
)

"""Models of Keras 3 as twins in tf_keras, in tfmot's own wrappers."""

import keras
import numpy as np
import pytest

import keras_mgrade
from keras_mgrade import activations
from keras_mgrade.compression import (
    Clustering,
    Pruning,
    from_tf_keras,
    quantization_aware,
    shrink,
    tf_keras_scope,
    tfmot_parts,
    to_tf_keras,
)
from test_export import once

# The twin is TensorFlow's whatever the backend.
pytestmark = once

# Float32 sums in another order, through some ten layers.
CLOSE = 1e-5


def make_model(normalization="batch"):
    return keras.Sequential(
        [
            keras.Input((None, 6)),
            keras_mgrade.MGrade(8, 4, 16, normalization=normalization),
            keras_mgrade.MinGRU(
                8, recurrent_activation="hard_sigmoid", return_sequences=True
            ),
            keras_mgrade.TemporalPooling("exponential", time_constant=5.0),
            keras.layers.Dense(3),
        ]
    )


def apart(twin, model, x):
    ours = model.predict(x, verbose=0)
    return np.abs(twin.predict(x, verbose=0) - ours).max()


@pytest.fixture
def x(rng):
    return rng.normal(size=(8, 30, 6)).astype("float32")


@pytest.mark.parametrize("normalization", ["batch", "layer", None])
def test_the_twin_computes_the_same(normalization, x):
    model = make_model(normalization)
    assert apart(to_tf_keras(model), model, x) < CLOSE


def test_functional_models(x):
    inputs = keras.Input((None, 6))
    y = keras.layers.Dense(6, activation="relu")(inputs)
    y = keras.layers.Add()([y, inputs]) + inputs
    y = keras_mgrade.MinGRU(5)(y)
    model = keras.Model(inputs, keras.layers.Dense(2)(y))
    assert apart(to_tf_keras(model), model, x) < CLOSE


def test_every_activation_means_the_same(x):
    from keras_mgrade.compression.tf_keras_layers import ACTIVATIONS

    inputs = keras.Input((None, 6))
    answers = []
    for name in ACTIVATIONS:
        function = activations.get(name)
        y = keras.layers.Dense(3, activation=function)(inputs)
        answers += [y, keras.layers.Activation(function)(y)]
    for words in (
        {"max_value": 0.5},
        {"negative_slope": 0.3},
        {"threshold": 0.2},
    ):
        answers.append(keras.layers.ReLU(**words)(inputs))
    model = keras.Model(inputs, keras.layers.Concatenate()(answers))
    assert apart(to_tf_keras(model), model, x) < CLOSE


def test_layers_and_models_called_twice(x, rng):
    """In whatever order; sums have names that no layer has."""
    shared = keras.layers.Dense(6, "hard_sigmoid", name="shared")
    block = keras_mgrade.MGrade(6, 2, 3, name="block")
    norm = keras.layers.BatchNormalization(axis=1)
    inner = keras.Sequential([keras.Input((30, 6)), block, shared, norm])
    inputs = keras.Input((30, 6))
    back = keras_mgrade.MinGRU(6, return_sequences=True, go_backwards=True)
    y = back(block(inner(shared(inner(inputs)))))
    y = keras.layers.Add(name="sum")([y, inputs]) + inputs
    y = keras.layers.Concatenate(axis=1)([y, block(y)])
    model = keras.Model(inputs, y)
    for weight in norm.weights:
        weight.assign(rng.uniform(0.5, 2.0, weight.shape))
    twin = to_tf_keras(model)
    assert apart(twin, model, x) < CLOSE
    before = model.get_weights()
    for weight in model.weights:
        # Delays stay where they are in the twin, and do not come back.
        if not weight.path.endswith("delays"):
            weight.assign(weight * 0.0)
    from_tf_keras(twin, model)
    for weight, wanted in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, wanted)


def test_tfmots_functions_run_and_weights_come_back(x, rng):
    tools = tfmot_parts.tfmot()
    model = make_model()
    y = rng.normal(size=(8, 3)).astype("float32")
    schedule = tools.sparsity.keras.ConstantSparsity(0.5, 0, frequency=1)
    pruned = tools.sparsity.keras.prune_low_magnitude(
        to_tf_keras(model), schedule
    )
    pruned.compile("adam", "mse")
    step = tools.sparsity.keras.UpdatePruningStep()
    pruned.fit(x, y, epochs=2, verbose=0, callbacks=[step])
    from_tf_keras(pruned, model)
    stripped = tools.sparsity.keras.strip_pruning(pruned)
    assert apart(stripped, model, x) < CLOSE
    assert np.mean(model.layers[1].get_weights()[0] == 0) == 0.5

    cluster = tools.clustering.keras
    clustered = cluster.cluster_weights(
        to_tf_keras(model),
        number_of_clusters=4,
        cluster_centroids_init=cluster.CentroidInitialization.LINEAR,
    )
    clustered.compile("adam", "mse")
    clustered.fit(x, y, verbose=0)
    from_tf_keras(clustered, model)
    assert apart(cluster.strip_clustering(clustered), model, x) < CLOSE
    assert len(np.unique(model.layers[1].get_weights()[0])) <= 4

    with tf_keras_scope():
        quantised = tools.quantization.keras.quantize_apply(
            to_tf_keras(model, annotate=True)
        )
    quantised.compile("adam", "mse")
    quantised.fit(x, y, epochs=2, verbose=0)
    from_tf_keras(quantised, model)
    # Ranges start at 6 in tfmot: steps of 1/21, over some ten layers.
    assert 0 < apart(quantised, model, x) < 1


def test_what_has_no_twin_is_named():
    model = keras.Sequential(
        [keras.Input((None, 3)), keras.layers.GRU(4, name="old")]
    )
    with pytest.raises(ValueError, match="Received: layer 'old', GRU"):
        to_tf_keras(model)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, activation="gelu")]
    )
    with pytest.raises(ValueError, match="activations .* activation=gelu"):
        to_tf_keras(model)
    inputs = keras.Input((None, 3), batch_size=2)
    for words in ({"return_state": True}, {"stateful": True}):
        y = keras_mgrade.MinGRU(4, **words, name="kept")(inputs)
        model = keras.Model(inputs, y)
        with pytest.raises(ValueError, match="states.* Received: layer 'kept"):
            to_tf_keras(model)


@pytest.mark.parametrize(
    "other", [{"units": 4}, {"use_bias": False}], ids=["width", "bias"]
)
def test_a_twin_of_another_model_is_refused(other):
    """And nothing of it is copied."""

    def make(**words):
        first = keras.layers.Dense(3, name="first")
        second = keras.layers.Dense(**{"units": 2, **words}, name="second")
        return keras.Sequential([keras.Input((3,)), first, second])

    model = make()
    before = model.get_weights()
    with pytest.raises(ValueError, match="`twin` .*'second'.* Received: twin"):
        from_tf_keras(to_tf_keras(make(**other)), model)
    with pytest.raises(ValueError, match="`twin` .*'second'.* Received: twin"):
        from_tf_keras(to_tf_keras(model), make(**other))
    for weight, same in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, same)


def test_foreign_models_are_refused(x):
    import tf_keras

    model = make_model()
    other = tf_keras.Sequential([tf_keras.layers.Dense(2)])
    for call in (
        to_tf_keras,
        lambda m: from_tf_keras(other, m),
        shrink,
        lambda m: quantization_aware(m, x),
    ):
        with pytest.raises(ValueError, match="belongs to tf_keras"):
            call(other)
    other.compile("sgd", "mse")
    for callback in (Pruning(0.5), Clustering(4)):
        with pytest.raises(ValueError, match="`model` belongs to tf_keras"):
            other.fit(x, x[..., :2], verbose=0, callbacks=[callback])
    with pytest.raises(ValueError, match="`layers` belongs to tf_keras"):
        Pruning(0.5, layers=other.layers)
    with pytest.raises(ValueError, match="`twin` must be"):
        from_tf_keras(model, model)
    with pytest.raises(ValueError, match="it has no layer"):
        from_tf_keras(other, model)

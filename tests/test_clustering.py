"""Weights that share values, beside tfmot's own clustering."""

import keras
import numpy as np
import pytest

from keras_mgrade.compression import Clustering, tfmot_parts


def dense_model(layers):
    return layers.Sequential(
        [
            layers.Input((8,)),
            layers.layers.Dense(16, activation="relu"),
            layers.layers.Dense(4),
        ]
    )


def data(rng):
    x = rng.normal(size=(64, 8)).astype("float32")
    return x, rng.normal(size=(64, 4)).astype("float32")


@pytest.mark.parametrize("aggregation", ["AVG", "SUM"])
@pytest.mark.parametrize("keep", [False, True])
def test_equals_cluster_weights(aggregation, keep, rng):
    import tf_keras

    tools = tfmot_parts.tfmot().clustering.keras
    from tensorflow_model_optimization.python.core.clustering.keras import (
        cluster_config,
    )

    x, y = data(rng)
    model, twin = dense_model(keras), dense_model(tf_keras)
    weights = [
        rng.normal(scale=0.3, size=w.shape).astype("float32")
        for w in model.get_weights()
    ]
    weights[0][rng.uniform(size=weights[0].shape) < 0.5] = 0
    model.set_weights(weights)
    twin.set_weights(weights)
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    model.compile(keras.optimizers.SGD(0.01), "mse")
    words = {"number_of_clusters": 8, "preserve_sparsity": keep}
    callback = Clustering(
        **words,
        cluster_centroids_init="LINEAR",
        cluster_gradient_aggregation=aggregation,
    )
    model.fit(x, y, **fit, callbacks=[callback])
    clustered = tools.cluster_weights(
        twin,
        **words,
        cluster_centroids_init=tools.CentroidInitialization.LINEAR,
        cluster_gradient_aggregation=cluster_config.GradientAggregation[
            aggregation
        ],
    )
    clustered.compile(tf_keras.optimizers.SGD(0.01), "mse")
    clustered.fit(x, y, **fit)
    wanted = tools.strip_clustering(clustered).get_weights()
    for mine, other in zip(model.get_weights(), wanted, strict=True):
        # The same sums in another order, over 32 steps.
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["KMEANS_PLUS_PLUS", "DENSITY_BASED"])
def test_few_values_and_zeros_stay(method, rng, tmp_path):
    x, y = data(rng)
    model = dense_model(keras)
    kernel = model.get_weights()[0]
    kernel[rng.uniform(size=kernel.shape) < 0.5] = 0
    model.layers[0].kernel.assign(kernel)
    model.compile("adam", "mse")
    callback = Clustering(
        6, cluster_centroids_init=method, preserve_sparsity=True
    )
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    after = model.get_weights()[0]
    assert len(np.unique(after)) <= 6
    assert np.all(after[kernel == 0] == 0)
    # What has few values already keeps them as centroids.
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    again.fit(x, y, verbose=0, callbacks=[Clustering(6)])
    assert len(np.unique(again.get_weights()[0])) <= 6


@pytest.mark.parametrize(
    "policy_everywhere", ["float16", "mixed_bfloat16"], indirect=True
)
def test_weights_loaded_in_between_and_averages(policy_everywhere, rng):
    """A callback that is used again starts from the weights there are."""
    x, y = data(rng)
    model = dense_model(keras)
    # Steps of nothing.
    model.compile(keras.optimizers.SGD(1e-30), "mse")
    callback = Clustering(4, preserve_sparsity=True)
    model.fit(x, y, verbose=0, callbacks=[callback])
    few = model.get_weights()
    model.fit(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(model.get_weights()[0], few[0])
    model.set_weights([-w for w in few])
    model.fit(x, y, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(model.get_weights()[0], -few[0])
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    model.fit(x, y, verbose=0, callbacks=[callback])
    after = model.get_weights()[0]
    assert len(np.unique(after)) <= 4 and np.any(after != -few[0])
    np.testing.assert_array_equal(after == 0, few[0] == 0)


@pytest.mark.parametrize("order", [1, -1])
def test_weights_of_the_best_epoch_stay_as_they_were(order, rng):
    x, y = data(rng)
    model = dense_model(keras)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    # The first epoch, the worst, is the one that it goes back to.
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=9, mode="max", restore_best_weights=True
    )
    callbacks = [Clustering(4, preserve_sparsity=True), stop][::order]
    model.fit(x, y, epochs=9, verbose=0, callbacks=callbacks)
    assert stop.best_epoch == 0
    for weights, best in zip(
        model.get_weights(), stop.best_weights, strict=True
    ):
        np.testing.assert_array_equal(weights, best)


@pytest.mark.parametrize("order", [1, -1])
def test_goes_on_from_a_backup(order, tmp_path, rng):
    """Whichever callback is named first."""
    x, y = data(rng)
    model = dense_model(keras)
    model.compile(keras.optimizers.SGD(1e-30), "mse")

    def fit(epochs):
        backup = keras.callbacks.BackupAndRestore(
            tmp_path, delete_checkpoint=False
        )
        callbacks = [Clustering(4), backup][::order]
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)
        return model.get_weights()[0]

    before = fit(1)
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(fit(2), before)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least 2. Received"):
        Clustering(1)
    with pytest.raises(ValueError, match="cluster_centroids_init"):
        Clustering(4, cluster_centroids_init="BEST")
    with pytest.raises(ValueError, match="cluster_gradient_aggregation"):
        Clustering(4, cluster_gradient_aggregation="MAX")
    with pytest.raises(ValueError, match="preserve_sparsity='yes'"):
        Clustering(4, preserve_sparsity="yes")


def test_a_matrix_of_few_values_and_no_zeros_keeps_them(rng):
    x, y = data(rng)
    model = dense_model(keras)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    signs = np.sign(model.get_weights()[0])
    model.layers[0].kernel.assign(signs)
    few = Clustering(4, preserve_sparsity=True)
    model.fit(x, y, verbose=0, callbacks=[few])
    np.testing.assert_array_equal(model.get_weights()[0], signs)

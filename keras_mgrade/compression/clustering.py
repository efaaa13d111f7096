"""Weights that share a few values, learned during `fit`, by tfmot's rules."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import validation
from keras_mgrade.callbacks.scheduled import sync
from keras_mgrade.compression import kernels, tfmot_parts
from keras_mgrade.compression.weight_callback import WeightCallback


class Clustering(WeightCallback):
    """Lets the weights of each matrix share a few values during `fit`.

    A file of few values compresses well. At the start
    tensorflow-model-optimization finds centroids and gives each weight to the
    nearest; then both train. On any backend a model under SGD ends with the
    weights that tfmot's `cluster_weights` gives it. A matrix
    with as few values already (of a training before, or of a file) keeps
    them as centroids. A later `fit` moves the weights apart again unless it
    has this callback, too.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model.compile("sgd", "mse")
    >>> cluster = keras_mgrade.compression.Clustering(4)
    >>> history = model.fit(
    ...     np.ones((8, 4)), np.ones((8, 8)), verbose=0, callbacks=[cluster])
    >>> len(np.unique(model.get_weights()[0]))
    4

    Args:
        number_of_clusters: Values a matrix, at least 2. Defaults to `16`.
        layers: As for `Pruning`. Defaults to `None`, all.
        cluster_centroids_init: How centroids are found, a name of tfmot's
            `CentroidInitialization`: `"KMEANS_PLUS_PLUS"`, `"LINEAR"`,
            `"DENSITY_BASED"` or `"RANDOM"`. Defaults to
            `"KMEANS_PLUS_PLUS"`.
        preserve_sparsity: Whether one value is zero, and weights that are
            zero stay so. Defaults to `False`.
        cluster_gradient_aggregation: `"AVG"`: a centroid moves as its weights
            would in the mean, with the optimizer's usual rate; `"SUM"`: as
            far as all of them together, tfmot's default, which wants a small
            rate. Defaults to `"AVG"`.

    Raises:
        ValueError: If an argument is not of its kind or a layer is missing.
    """

    def __init__(
        self,
        number_of_clusters: int = 16,
        layers: Sequence[Any] | None = None,
        cluster_centroids_init: str = "KMEANS_PLUS_PLUS",
        preserve_sparsity: bool = False,
        cluster_gradient_aggregation: str = "AVG",
    ):
        super().__init__(layers)
        self.number_of_clusters = validation.positive_integer(
            "number_of_clusters", number_of_clusters
        )
        if self.number_of_clusters < 2:
            raise ValueError(
                "`number_of_clusters` must be at least 2. "
                f"Received: number_of_clusters={number_of_clusters!r}"
            )
        self.cluster_centroids_init = validation.one_of(
            "cluster_centroids_init",
            cluster_centroids_init,
            tuple(tfmot_parts.centroid_methods()),
        )
        self.preserve_sparsity = validation.one_of(
            "preserve_sparsity", preserve_sparsity, (False, True)
        )
        self.cluster_gradient_aggregation = validation.one_of(
            "cluster_gradient_aggregation",
            cluster_gradient_aggregation,
            ("AVG", "SUM"),
        )
        self._clusters: list[_Clusters] = []

    def begin(self):
        found = kernels.matrices(self.model, self.layers)
        # Of a fit before, unless other weights were loaded in between.
        known = {id(c.variable): c for c in self._clusters if c.holds()}
        self._clusters = [
            known.get(id(variable)) or _Clusters(variable, self)
            for variable in found
        ]
        for clusters in self._clusters:
            clusters.apply()

    def on_train_batch_end(self, batch, logs=None):
        sync(self.model)
        for clusters in self._clusters:
            clusters.move()
            clusters.apply()

    def on_train_end(self, logs=None):
        if not self._begun:
            return
        sync(self.model)
        # What else may have put weights in place by now: `EarlyStopping`,
        # those of another epoch, which have few values; an optimizer with
        # `use_ema`, its averages, which have not.
        for index, clusters in enumerate(self._clusters):
            if clusters.holds():
                continue
            values = np.unique(ops.convert_to_numpy(clusters.variable))
            if len(values) <= self.number_of_clusters:
                clusters = _Clusters(clusters.variable, self)
                self._clusters[index] = clusters
            else:
                clusters.settle()
            clusters.apply()


class _Clusters:
    """Centroids of one variable, and which of its weights have which.

    As in tfmot, each weight keeps a value of its own besides, which its
    gradient moves, and has the centroid that is nearest to that.
    """

    def __init__(self, variable: keras.Variable, rule: Clustering):
        import tensorflow as tf

        self.variable = variable
        self._own = ops.convert_to_numpy(variable).astype("float32")
        values = np.unique(self._own)
        if len(values) > rule.number_of_clusters:
            maker = tfmot_parts.centroid_initializer(
                rule.cluster_centroids_init
            )(
                self._own,
                rule.number_of_clusters,
                preserve_sparsity=rule.preserve_sparsity,
            )
            values = np.asarray(maker.get_cluster_centroids())
        elif len(values) < rule.number_of_clusters and rule.preserve_sparsity:
            # No other value has to become zero.
            values = np.union1d(values, np.float32(0))
        self._centroids = tf.Variable(values)
        self._algorithm = tfmot_parts.clustering_class()(self._centroids)
        self._mean = rule.cluster_gradient_aggregation == "AVG"
        self._zero = None
        self._assign()
        if rule.preserve_sparsity:
            self._kept = self._shared() != 0
            self._zero = int(np.argmin(np.abs(values)))
            self._assign()

    def _assign(self) -> None:
        """Give each weight the nearest centroid."""
        if self._zero is not None:
            self._own = self._own * self._kept
            values = self._centroids.numpy()
            values[self._zero] = 0.0
            self._centroids.assign(values)
        nearest = self._algorithm.get_pulling_indices(self._own)
        self._members = np.asarray(nearest)

    def _shared(self) -> np.ndarray:
        return self._centroids.numpy()[self._members]

    def move(self) -> None:
        """Let weights and centroids follow a step of the optimizer."""
        steps = ops.convert_to_numpy(self.variable) - self._shared()
        self._own = self._own + steps
        count = self._centroids.shape[0]
        members = self._members.ravel()
        moves = np.bincount(members, steps.ravel(), minlength=count)
        if self._mean:
            sizes = np.bincount(members, minlength=count)
            moves = moves / np.maximum(sizes, 1)
        self._centroids.assign_add(moves.astype("float32"))
        self._assign()

    def settle(self) -> None:
        """Let each centroid be the mean of what its weights are now."""
        members = self._members.ravel()
        values = ops.convert_to_numpy(self.variable).astype("float32").ravel()
        count = self._centroids.shape[0]
        sizes = np.bincount(members, minlength=count)
        means = np.bincount(members, values, minlength=count) / np.maximum(
            sizes, 1
        )
        if self._zero is not None:
            means[self._zero] = 0.0
        self._centroids.assign(means.astype("float32"))

    def holds(self) -> bool:
        """Whether the variable is as `apply` left it."""
        held = ops.convert_to_tensor(self._shared(), self.variable.dtype)
        return bool(ops.all(ops.equal(self.variable, held)))

    def apply(self) -> None:
        self.variable.assign(self._shared())

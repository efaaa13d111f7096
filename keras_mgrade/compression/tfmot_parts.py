"""All that this package takes from tensorflow-model-optimization.

Importing it sets TF_USE_LEGACY_KERAS, which makes `tf.keras` another Keras in
this process and its children; here the variable is left as it was.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any

_VARIABLE = "TF_USE_LEGACY_KERAS"


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before


@functools.cache
def tfmot() -> Any:
    """The public package.

    Raises:
        ImportError: If it is not installed; says how to.
    """
    with _environment_kept(), warnings.catch_warnings():
        # It compares versions by distutils, which says that it is old.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import tensorflow

            # Looked up once: with the variable set, that would be Keras 2.
            _ = tensorflow.keras.layers
            import tensorflow_model_optimization
        except ImportError as error:
            raise ImportError(
                "This needs tensorflow-model-optimization: install "
                f"keras_mgrade[compression] ({error})"
            ) from error
    return tensorflow_model_optimization


def quantizer_class(kind: str) -> type:
    return getattr(tfmot().quantization.keras.quantizers, kind)


def schedule_class() -> type:
    """The base class of pruning schedules; the package does not export it."""
    tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_schedule,
    )

    return pruning_schedule.PruningSchedule


def pruning_class() -> type:
    """What computes masks; private."""
    tfmot()
    from tensorflow_model_optimization.python.core.sparsity.keras import (
        pruning_impl,
    )

    return pruning_impl.Pruning


def clustering_class() -> type:
    """What assigns weights to centroids; private."""
    tfmot()
    from tensorflow_model_optimization.python.core.clustering.keras import (
        clustering_algorithm,
    )

    return clustering_algorithm.ClusteringAlgorithm


def centroid_initializer(method: str) -> type:
    """What finds the centroids that clustering starts from; private."""
    kinds = tfmot().clustering.keras.CentroidInitialization
    from tensorflow_model_optimization.python.core.clustering.keras import (
        clustering_centroids,
    )

    factory = clustering_centroids.CentroidsInitializerFactory
    return factory.get_centroid_initializer(kinds[method])


def centroid_methods() -> list[str]:
    """Names of the ways to find them."""
    kinds = tfmot().clustering.keras.CentroidInitialization
    return [kind.name for kind in kinds]

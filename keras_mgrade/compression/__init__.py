"""Smaller models: quantisation-aware training, pruning, clustering.

Keras 3 on any backend; tensorflow-model-optimization does the maths. It and
TensorFlow are imported when first used.
"""

from keras_mgrade.compression.bridge import (
    from_tf_keras,
    tf_keras_scope,
    to_tf_keras,
)
from keras_mgrade.compression.clustering import Clustering
from keras_mgrade.compression.fake_quantize import FakeQuantize
from keras_mgrade.compression.pruning import Pruning
from keras_mgrade.compression.quantization_aware import quantization_aware
from keras_mgrade.compression.quantized_steps import QuantizedSteps
from keras_mgrade.compression.shrink import shrink

__all__ = [
    "Clustering",
    "FakeQuantize",
    "Pruning",
    "QuantizedSteps",
    "from_tf_keras",
    "quantization_aware",
    "shrink",
    "tf_keras_scope",
    "to_tf_keras",
]

"""Export a trained model to `.tflite` and run it in LiteRT and TFLite Micro.

TensorFlow is needed only by the process that converts, and the runtimes only
where they are used.
"""

from keras_mgrade.export.convert import to_tflite
from keras_mgrade.export.inspection import check
from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner
from keras_mgrade.export.result import TFLiteFile, TFLiteModel
from keras_mgrade.export.runners import StepRunner

__all__ = [
    "LiteRTRunner",
    "StepRunner",
    "TFLMRunner",
    "TFLiteFile",
    "TFLiteModel",
    "check",
    "to_tflite",
]

"""A trained model as it is put on a microcontroller without this package.

    KERAS_BACKEND=tensorflow python benchmarks/device_users.py \\
        MODEL.keras WINDOWS.npy FILE.tflite [--float] [--loop]

A file that takes a whole window and gives one answer: recurrent layers
unrolled (TFLite Micro does not come back from a loop of Keras's), everything
in int8, by TensorFlow's converter alone. A process of its own, since the
converter needs TensorFlow and may end it.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np
from keras import layers

from device_peers import load, replaced, same
from keras_mgrade import TemporalPooling


def converted(model, windows, path, *flags):
    """Writes the file of `model`, from a process on TensorFlow.

    Args:
        model: From `(batch, steps, channels)` to answers.
        windows: Real ones, `(n, steps, channels)`: they set the ranges.
        path: Where to write the file.
        *flags: Of the command line.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = [f"{folder}/model.keras", f"{folder}/windows.npy"]
        model.save(parts[0])
        np.save(parts[1], windows)
        subprocess.run(
            [sys.executable, __file__, *parts, str(path), *flags],
            env={**os.environ, "KERAS_BACKEND": "tensorflow"},
            check=True,
            stdout=subprocess.DEVNULL,
        )


def of_window(model, length, unroll=True):
    """The model over a window of that length, one answer at its end."""
    sequences = any(isinstance(la, TemporalPooling) for la in model.layers)
    body = [la for la in model.layers if hasattr(la, "return_sequences")]

    def call(layer, x):
        if isinstance(layer, TemporalPooling):
            return pooled(layer, x)
        changes = {"unroll": unroll} if isinstance(layer, layers.GRU) else {}
        if layer is body[-1]:
            changes["return_sequences"] = sequences
        return same(layer, layer.name, x, **changes)

    shape = (1, length, model.inputs[0].shape[-1])
    return replaced(
        model,
        (TemporalPooling, *{type(layer) for layer in body}),
        call,
        input_tensors=keras.Input(batch_shape=shape),
    )


def pooled(layer, x):
    """An exponential average over a window, as a product with its weights."""
    ages = np.arange(x.shape[1])[::-1]
    weights = layer.share * (1 - layer.share) ** ages
    average = layers.Dense(1, use_bias=False, name="average")
    y = average(layers.Permute((2, 1))(x))
    average.set_weights([weights[:, None].astype("float32")])
    return layers.Flatten()(y)


def bytes_of(model, windows):
    """The file of TensorFlow's converter: in int8 if there are `windows`."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if windows is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: (
            [window[None]] for window in windows
        )
        int8 = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
        converter.target_spec.supported_ops = [int8]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    return converter.convert()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("model", "windows", "file"):
        parser.add_argument(name)
    parser.add_argument("--float", action="store_true", help="not in int8")
    parser.add_argument("--loop", action="store_true", help="not unrolled")
    arguments = parser.parse_args()
    windows = np.load(arguments.windows)
    model = load(arguments.model)
    model = of_window(model, windows.shape[1], not arguments.loop)
    data = bytes_of(model, None if arguments.float else windows)
    pathlib.Path(arguments.file).write_bytes(data)


if __name__ == "__main__":
    main()

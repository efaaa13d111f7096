"""Rounding in training beside tfmot's, on every backend."""

import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_mgrade
from keras_mgrade.compression import FakeQuantize, quantizers, tfmot_parts
from test_export import once

BACKEND = keras.backend.backend()
# Of the twin at 16 bits: a value half way between two steps may fall to
# either side, in float32. (The step of this batch is a little off the last's.)
ONE_STEP = 1.1

CONFIGURATIONS = [
    (kind, bits, per_axis, symmetric, narrow)
    for kind, bits, per_axis, symmetric, narrow in itertools.product(
        quantizers.KINDS, (4, 8, 16), (False, True), (False, True), (0, 1)
    )
    # tfmot knows no ranges a channel of all values.
    if not per_axis or kind != "AllValuesQuantizer"
]


def tfmots(kind, words, batches, start, training):
    """What tfmot's own operations give: outputs, gradients and the range."""
    import tensorflow as tf

    engine = quantizers.Quantizer(kind, **words).to_tfmot()
    ranges = {
        name: tf.Variable(value)
        for name, value in zip(("min_var", "max_var"), start, strict=True)
    }
    outputs, gradients = [], []
    for batch in batches:
        x = tf.constant(batch)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = engine(x, training, ranges)
        outputs.append(y.numpy())
        gradients.append(tape.gradient(y, x).numpy())
    return outputs, gradients, [v.numpy() for v in ranges.values()]


def gradient(layer, x, training):
    """Output and gradient of its sum on the backend at hand."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return y.numpy(), tape.gradient(y, x).numpy()
    if BACKEND == "torch":
        import torch

        x = torch.tensor(x, requires_grad=True)
        y = layer(x, training=training)
        y.sum().backward()
        return y.detach().numpy(), x.grad.numpy()
    import jax

    y = layer(x, training=training)
    # The range has moved already: as it was in this call.
    slope = jax.grad(lambda x: layer(x, training=False).sum())(x)
    return np.asarray(y), np.asarray(slope)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_equals_tfmot(configuration, rng):
    kind, bits, per_axis, symmetric, narrow = configuration
    words = {
        "num_bits": bits,
        "per_axis": per_axis,
        "symmetric": symmetric,
        "narrow_range": bool(narrow),
    }
    start = [np.full(5, v, "float32") if per_axis else v for v in (-1.5, 2.0)]
    start = [np.asarray(v, "float32") for v in start]
    batches = [rng.normal(size=(40, 5)).astype("float32") for _ in range(3)]
    layer = FakeQuantize({"kind": kind, **words}, *start)
    layer.build((None, 5))
    for training in (True, False):
        before = [
            keras.ops.convert_to_numpy(v)
            for v in (layer.minimum, layer.maximum)
        ]
        wanted, slopes, ranges = tfmots(kind, words, batches, before, training)
        for x, y, slope in zip(batches, wanted, slopes, strict=True):
            got, grad = gradient(layer, x, training)
            step = np.max(ranges[1] - ranges[0]) / (2**bits - 2)
            off = np.abs(got - y).max() / step
            # 8 bits and below: the same values but for float rounding.
            assert off < (ONE_STEP if bits == 16 else 1e-3)
            assert np.mean(grad != slope) < 0.01
        found = layer.minimum, layer.maximum
        for mine, other in zip(found, ranges, strict=True):
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(mine), other, rtol=1e-6, atol=1e-7
            )


def test_a_range_that_does_not_follow_stays():
    layer = FakeQuantize(
        {"kind": "MovingAverageQuantizer"}, -1.0, 1.0, follows=False
    )
    layer(np.full((4, 3), 9.0, "float32"), training=True)
    assert float(layer.maximum) == 1.0


def test_channels_of_zeros_stay_finite():
    words = {"per_axis": True, "symmetric": True, "narrow_range": True}
    layer = FakeQuantize({"kind": "LastValueQuantizer", **words})
    x = np.array([[0.0, 1.0], [0.0, -2.0]], "float32")
    y, slope = gradient(layer, x, True)
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(y, x, atol=2e-2)


def test_ranges_of_channels_in_sequences(rng):
    words = {"per_axis": True, "symmetric": True, "narrow_range": True}
    x = rng.normal(size=(4, 7, 3)).astype("float32")
    answers = []
    for shape in ((4, 7, 3), (28, 3)):
        layer = FakeQuantize({"kind": "LastValueQuantizer", **words})
        y = layer(x.reshape(shape), training=True)
        answers.append(keras.ops.convert_to_numpy(y).reshape(x.shape))
    np.testing.assert_array_equal(*answers)


def test_called_twice_in_a_step(rng):
    """What a range was in the first call counts for its gradient."""
    quantizer = {"kind": "LastValueQuantizer"}
    layer = FakeQuantize(quantizer)
    inputs = keras.Input((3,))
    y = keras.layers.Dense(3)(layer(keras.layers.Dense(3)(layer(inputs))))
    model = keras.Model(inputs, y)
    model.compile("sgd", "mse")
    x = rng.normal(size=(8, 3)).astype("float32")
    losses = model.fit(x, x, epochs=20, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_configuration_comes_back():
    layer = FakeQuantize(tfmot_quantizer(), -2.0, 3.0, follows=False)
    again = FakeQuantize.from_config(layer.get_config())
    assert again.quantizer == layer.quantizer
    assert again.get_config() == layer.get_config()


def tfmot_quantizer():
    kinds = tfmot_parts.tfmot().quantization.keras.quantizers
    return kinds.MovingAverageQuantizer(8, False, False, False)


@pytest.mark.parametrize(
    "wrong",
    [
        "MovingAverageQuantizer",
        {"kind": "OtherQuantizer"},
        {"kind": "LastValueQuantizer", "num_bits": 1},
        {"kind": "LastValueQuantizer", "bits": 8},
        {"num_bits": 8},
        {"kind": "AllValuesQuantizer", "per_axis": True},
        None,
    ],
)
def test_wrong_quantizers_are_refused(wrong):
    with pytest.raises(ValueError, match="`quantizer` must be .* Received"):
        FakeQuantize(wrong)


@pytest.mark.parametrize(
    "words, message",
    [
        ({"minimum": 1.0, "maximum": -1.0}, "above .* Received: minimum=1.0"),
        ({"minimum": "a"}, "finite number.* Received: minimum='a'"),
        ({"maximum": np.nan}, "finite number.* Received: maximum=nan"),
        ({"minimum": [-1.0, -2.0]}, "one number.* Received: minimum="),
        ({"follows": "yes"}, "`follows` .* Received: follows='yes'"),
        ({"dtype": "float16"}, "`dtype` .* Received: dtype='float16'"),
    ],
)
def test_wrong_ranges_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        FakeQuantize(tfmot_quantizer(), **words)(np.ones((2, 2), "float32"))


@pytest.mark.parametrize(
    "symbol",
    [
        "quantizer_class('FixedQuantizer')",
        "schedule_class()",
        "pruning_class()._update_mask",
        "pruning_class().conditional_mask_update",
        "clustering_class().get_pulling_indices",
        "centroid_initializer('LINEAR').get_cluster_centroids",
        "centroid_methods()[3]",
    ],
)
def test_every_private_symbol_of_tfmot_is_there(symbol):
    assert eval(f"tfmot_parts.{symbol}", {"tfmot_parts": tfmot_parts})


@once
def test_the_environment_stays_as_it_was():
    code = (
        "import os, keras_mgrade.compression.tfmot_parts as parts\n"
        "parts.tfmot()\n"
        "import keras, tensorflow\n"
        "assert tensorflow.keras.Sequential is keras.Sequential\n"
        "assert 'TF_USE_LEGACY_KERAS' not in os.environ\n"
        "os.environ['TF_USE_LEGACY_KERAS'] = '0'\n"
        "parts.tfmot.cache_clear()\n"
        "parts.tfmot()\n"
        "assert os.environ['TF_USE_LEGACY_KERAS'] == '0'\n"
    )
    environment = {
        k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@once
def test_compression_imports_no_tensorflow():
    code = (
        "import sys, keras_mgrade\n"
        "keras_mgrade.compression.quantization_aware\n"
        "import keras\n"
        "if keras.backend.backend() != 'tensorflow':\n"
        "    assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_has_it_as_an_attribute():
    assert keras_mgrade.compression.FakeQuantize is FakeQuantize

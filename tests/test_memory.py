"""The table of a model's cost, against counts made by hand."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_mgrade import (
    DelayConv1D,
    MGrade,
    MinGRU,
    TemporalPooling,
    memory_report,
)


def sequential(*parts):
    return keras.Sequential([keras.Input((None, 3)), *parts])


def row(report, name):
    (found,) = [layer for layer in report.layers if layer.name == name]
    return found


def test_dense():
    dense = row(memory_report(sequential(layers.Dense(5, name="d"))), "d")
    assert dense.parameters == 3 * 5 + 5
    assert (dense.state, dense.delay_line, dense.delay_line_in_use) == (0, 0, 0)
    assert dense.multiply_adds == 3 * 5
    # The matrix takes one byte a weight where it is int8, the bias four.
    assert dense.bytes == {
        "float32": 4 * 15 + 4 * 5,
        "mixed": 15 + 4 * 5,
        "int8": 15 + 4 * 5,
    }


def test_min_gru():
    gru = row(memory_report(sequential(MinGRU(4, name="g"))), "g")
    # Two matrices, two biases; a product with both and h + z * (c - h).
    assert gru.parameters == 2 * (3 * 4 + 4)
    assert (gru.state, gru.delay_line) == (4, 0)
    assert gru.multiply_adds == 2 * 3 * 4 + 4
    # The state takes four bytes a value, and one only in pure int8.
    assert gru.bytes == {
        "float32": 4 * 24 + 4 * 8 + 4 * 4,
        "mixed": 24 + 4 * 8 + 4 * 4,
        "int8": 24 + 4 * 8 + 4,
    }


def test_delay_conv1d():
    layer = DelayConv1D(2, 10, interpolation="integer", name="taps")
    model = sequential(layer)
    layer.kernel.assign([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    layer.set_delays([[0, 4, 2], [3, 1, 9]])
    taps = row(memory_report(model), "taps")
    # Kernel, delays and bias; ten past samples a channel.
    assert taps.parameters == 2 * 3 + 2 * 3 + 3
    assert (taps.state, taps.delay_line) == (0, 10 * 3)
    # The tap of weight zero reads nothing: neither memory nor work.
    assert taps.delay_line_in_use == 3 + 4 + 2
    assert taps.multiply_adds == 5
    assert taps.bytes == {
        "float32": 4 * (12 + 3 + 30),
        "mixed": 12 + 4 * 3 + 30,
        "int8": 12 + 4 * 3 + 30,
    }


@pytest.mark.parametrize(
    "interpolation, entries, longest",
    [("linear", 3, 4), ("integer", 2, 3), ("gaussian", 11, 10)],
)
def test_taps_read_as_many_steps_as_they_touch(interpolation, entries, longest):
    width = 3.0 if interpolation == "gaussian" else 0.8
    layer = DelayConv1D(2, 10, interpolation, width=width)
    model = keras.Sequential([keras.Input((None, 1)), layer])
    layer.kernel.assign([[1.0], [1.0]])
    # Linear: a tap at 3.5 reads two steps, one at a whole delay one.
    layer.set_delays([[0], [3 if interpolation == "integer" else 3.5]])
    total = memory_report(model).total
    assert total.multiply_adds == entries
    assert total.delay_line_in_use == longest


def test_normalisations_and_pooling():
    model = sequential(
        layers.BatchNormalization(),
        layers.LayerNormalization(),
        layers.LayerNormalization(scale=False),
        layers.RMSNormalization(),
        TemporalPooling("mean", name="mean"),
    )
    report = memory_report(model)
    batch, layer, offset, power, mean = report.layers
    assert (batch.parameters, batch.multiply_adds) == (4 * 3, 3)
    assert (layer.parameters, layer.multiply_adds) == (2 * 3, 3 * 3)
    assert (offset.parameters, offset.multiply_adds) == (3, 3 * 3)
    assert (power.parameters, power.multiply_adds) == (3, 2 * 3)
    assert batch.bytes == dict.fromkeys(("float32", "mixed", "int8"), 4 * 12)
    # The sum and the count stay 32-bit in every precision.
    assert (mean.state, mean.multiply_adds) == (3 + 1, 3)
    assert mean.bytes == dict.fromkeys(("float32", "mixed", "int8"), 4 * 4)


MODELS = {
    "mgrade": lambda: sequential(MGrade(4, 2, 8), layers.Dense(2)),
    "all switches": lambda: sequential(
        MGrade(
            4, 2, 8, normalization="batch", recurrence_norm=True,
            recurrence_dense=True, convolution_on_input=True,
        )
    ),
    "after time is gone": lambda: sequential(
        MinGRU(4), layers.LayerNormalization(), layers.Dense(2)
    ),
    "nested": lambda: sequential(sequential(MinGRU(3, return_sequences=True))),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_that_keras_counts(model):
    model = MODELS[model]()
    report = memory_report(model)
    assert report.total.parameters == model.count_params()
    for name in ("parameters", "state", "delay_line", "multiply_adds"):
        rows = [getattr(layer, name) for layer in report.layers]
        assert getattr(report.total, name) == sum(rows)


def test_seeds_are_not_parameters():
    dropout = sequential(MGrade(4, 2, 8, dropout=0.5), layers.Dropout(0.5))
    report = memory_report(dropout)
    without = memory_report(sequential(MGrade(4, 2, 8)))
    assert report.total.parameters == without.total.parameters


def test_a_layer_called_twice_has_its_weights_once_and_its_states_twice():
    x = keras.Input((None, 3))
    gru = MinGRU(3, return_sequences=True, name="gru")
    taps = DelayConv1D(2, 8, interpolation="integer", name="taps")
    model = keras.Model(x, taps(gru(taps(gru(x)))))
    taps.set_delays([[0, 0, 0], [5, 5, 5]])
    report = memory_report(model)
    assert len(report.layers) == 2
    gru, taps = row(report, "gru"), row(report, "taps")
    assert gru.parameters + taps.parameters == model.count_params()
    assert gru.state == 2 * 3
    assert gru.multiply_adds == 2 * (3 * 6 + 3)
    assert taps.delay_line == 2 * 8 * 3
    assert taps.delay_line_in_use == 2 * 5 * 3
    assert taps.multiply_adds == 2 * 2 * 3


def test_a_layer_after_time_is_gone_called_twice_counts_twice_as_work():
    x = keras.Input((None, 3))
    dense = layers.Dense(4, name="dense")
    model = keras.Model(x, dense(dense(MinGRU(4)(x))))
    counted = row(memory_report(model), "dense")
    assert counted.parameters == 4 * 4 + 4
    assert counted.multiply_adds == 2 * 4 * 4


def reference_model():
    return keras.Sequential(
        [
            keras.Input((None, 6)),
            MGrade(24, 8, 64, name="first"),
            MGrade(24, 8, 64, name="second"),
            layers.Dense(6, name="answer"),
        ]
    )


def test_the_reference_model():
    report = memory_report(reference_model())
    assert report.total.parameters == 8_430
    assert report.total.state == 2 * 24
    assert report.total.delay_line == 2 * 64 * 24
    assert report.footprint == 8_430 + 2 * 24 + 2 * 64 * 24
    # The even delays end at 56 steps, and no tap weighs nothing.
    assert report.total.delay_line_in_use == 2 * 56 * 24


def test_the_table_shows_every_row_and_the_totals():
    report = memory_report(reference_model())
    lines = str(report).splitlines()
    for layer in (*report.layers, report.total):
        (line,) = [text for text in lines if text.split()[0] == layer.name]
        assert line.split()[1:] == [
            f"{value:,}"
            for value in (
                layer.parameters,
                layer.state,
                layer.delay_line,
                layer.delay_line_in_use,
                layer.multiply_adds,
                *layer.bytes.values(),
            )
        ]
    assert "first/convolution" in str(report)
    assert len({len(line) for line in lines[:-1]}) == 1
    assert lines[-1].endswith(f"{report.footprint:,} values")
    assert np.all([len(line) < 120 for line in lines])

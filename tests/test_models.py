"""Ready models: the published sizes, and that they stream."""

import keras
import numpy as np
import pytest

import keras_mgrade
from keras_mgrade import models

# (model, parameters as the authors' code counts them, frozen standard
# deviations among them, which here are no parameters)
PUBLISHED = [
    (models.paper_mgrade(1, 10, kernel_size=4), 41_290, 768),
    (models.paper_mgrade(1, 10, kernel_size=8), 43_594, 1_536),
    (models.paper_min_gru(1, 10), 38_986, 0),
    (models.paper_mgrade(1, 35, units=64, task="speech"), 189_027, 3_072),
    (models.paper_mgrade(1, 35, units=96, task="speech"), 412_547, 4_608),
]


def widths(model):
    return sum(
        int(np.prod(w.shape)) for w in model.weights if w.name == "width"
    )


def delays(model):
    return sum(
        int(np.prod(w.shape)) for w in model.weights if w.name == "delays"
    )


@pytest.mark.parametrize(("model", "published", "deviations"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(model, published, deviations):
    assert widths(model) == deviations
    assert model.count_params() == published


def test_parameters_of_the_convolution_alone():
    # The authors' has fixed dilations, 27,850: no delays are counted.
    model = models.paper_convolution(1, 10, kernel_size=8)
    assert model.count_params() - delays(model) - widths(model) == 27_850


def test_parameters_of_the_speech_model_without_convolution():
    model = models.paper_min_gru(
        1, 35, units=64, task="speech", recurrence_dense=False
    )
    assert model.count_params() == 154_083


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.paper_mgrade(3, 5, units=8, depth=2, max_delay=6),
        lambda: models.paper_mgrade(
            3, 5, units=8, depth=2, max_delay=6, task="speech"
        ),
        lambda: models.paper_min_gru(3, 5, units=8, depth=2),
        lambda: models.paper_convolution(3, 5, units=8, depth=2, max_delay=6),
        lambda: models.mgrade_classifier(3, 5, units=8, max_delay=6),
        lambda: models.mgrade_classifier(3, 5, units=3, pooling="last"),
        lambda: models.mgrade_classifier(
            3, 5, pooling="exponential", time_constant=4.0
        ),
        lambda: models.mgrade_classifier(3, 5, use_convolution=False),
    ],
)
def test_they_stream_and_are_saved(make, tmp_path, rng):
    model = make()
    x = rng.normal(size=(1, 12, 3)).astype("float32")
    whole = keras.ops.convert_to_numpy(model(x))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    stream = keras_mgrade.streaming_model(loaded)
    step = keras_mgrade.compile_step(stream)
    states = keras_mgrade.initial_states(stream)
    for t in range(12):
        y, states = step(x[:, t], states)
    last = whole[:, -1] if whole.ndim == 3 else whole
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(y), last, atol=1e-5 * np.abs(whole).max()
    )


def test_the_first_delay_line_holds_the_fewest_channels():
    def on_input(features):
        model = models.mgrade_classifier(features, 2, units=8)
        return [layer.convolution_on_input for layer in model.layers[:2]]

    assert on_input(3) == [True, False]
    assert on_input(20) == [False, False]


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (models.paper_mgrade, {"task": "text"}, "'pixels', 'speech'"),
        (models.paper_mgrade, {"depth": 0}, "`depth`.*depth=0"),
        (models.paper_min_gru, {"classes": 0}, "`classes`.*classes=0"),
        (models.mgrade_classifier, {"features": 0}, "`features`"),
        (models.mgrade_classifier, {"units": 1.5}, "`units`.*1.5"),
        (
            models.mgrade_classifier,
            {"time_constant": 3},
            "pooling=None, time_constant=3",
        ),
        (models.mgrade_classifier, {"pooling": "max"}, "`mode`.*'max'"),
    ],
)
def test_bad_arguments_say_what_to_do(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**{"features": 3, "classes": 2, **arguments})

"""The activity recogniser of the examples: what its training reads."""

import keras
import numpy as np

import activity
import hapt


def test_the_front_end_of_all_recordings_is_that_of_each(rng):
    settings = activity.Settings()
    recordings = [
        hapt.Recording(
            rng.normal(size=(length, 6)).astype("float32"),
            *[np.zeros(length, "int32"), 1, 1],
            *[np.zeros(0, "int32")] * 2,
        )
        for length in (5, 8, 3)
    ]
    found = activity.through_front_end(recordings, settings)
    for before, after in zip(recordings, found, strict=True):
        wanted = activity.front_end(before.signal, settings)
        # TensorFlow's logarithm of a few values differs in the last bit.
        np.testing.assert_allclose(
            after.signal, keras.ops.convert_to_numpy(wanted), rtol=1e-6
        )

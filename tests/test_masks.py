"""Masks: where they come from, what they hide, how a padded row goes on."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from control import BOTH, array, data
from keras_mgrade import DelayConv1D, MGrade, MinGRU, MinGRUCell
from tolerances import SAME_SUMS, assert_close

MASKS = {
    "right": [[1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]],
    "holes": [[1, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0]],
    "fully masked row": [[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]],
    "none masked": [[1] * 6] * 2,
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("zero_output_for_mask", [False, True])
def test_masks_as_the_cell_in_rnn(
    name, go_backwards, zero_output_for_mask, rng
):
    """From zero, since Keras's backends differ in what stands before the
    first valid step of a sequence with an initial state."""
    flags = {
        "go_backwards": go_backwards,
        "zero_output_for_mask": zero_output_for_mask,
        "return_sequences": True,
        "return_state": True,
    }
    mask = np.array(MASKS[name], bool)
    x = data(rng, 2, 6)
    rnn = layers.RNN(MinGRUCell(4), **flags)
    y, state = rnn(x, mask=ops.convert_to_tensor(mask))
    layer = MinGRU(4, **flags)
    layer.build(x.shape)
    layer.set_weights(rnn.get_weights())
    # What a mask hides has no influence, be it NaN.
    x[~mask] = np.nan
    got, reached = layer(x, mask=ops.convert_to_tensor(mask))
    assert_close(array(got), array(y), SAME_SUMS)
    assert_close(array(reached), array(state), SAME_SUMS)


@BOTH
def test_masks_from_layers_and_by_hand(make, rng):
    x = data(rng, 3, 6)
    x[0, 4:] = x[1, 2:] = x[2] = 0.0
    layer = make(4)
    masking = layers.Masking()
    by_masking = array(keras.Sequential([masking, layer])(x))
    mask = masking.compute_mask(x)
    assert_close(by_masking, array(layer(x, mask=mask)), SAME_SUMS)
    for row, length in enumerate((4, 2)):
        alone = array(layer(x[row : row + 1, :length]))
        assert_close(by_masking[row : row + 1], alone, SAME_SUMS)
    assert (by_masking[2] == 0).all()
    # The output of a sequence carries its mask on.
    sequence = make(4, return_sequences=True)
    pooled = keras.Sequential(
        [layers.Masking(), sequence, layers.GlobalAveragePooling1D()]
    )
    mean = array(sequence(x[:1, :4])).mean(axis=1)
    assert_close(array(pooled(x))[:1], mean, SAME_SUMS)


def test_masks_from_embeddings(rng):
    tokens = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0]])
    model = keras.Sequential(
        [layers.Embedding(5, 3, mask_zero=True), MGrade(4, 2, 3), MinGRU(4)]
    )
    y = array(model(tokens))
    assert_close(y[:1], array(model(tokens[:1, :3])), SAME_SUMS)
    assert_close(y[1:], array(model(tokens[1:, :1])), SAME_SUMS)


def test_resuming_a_padded_row(rng):
    """A delay line counts time: pad on the left to go on from a state."""
    x = data(rng, 1, 12)
    layer = DelayConv1D(3, 5, return_state=True)
    whole, _ = layer(x)
    masked = np.zeros((1, 3, 3), "float32") + np.nan
    left = np.concatenate([masked, x[:, :7]], axis=1)
    mask = np.arange(10)[None] >= 3
    _, line = layer(left, mask=ops.convert_to_tensor(mask))
    resumed, _ = layer(x[:, 7:], initial_state=line)
    assert_close(array(resumed), array(whole)[:, 7:], SAME_SUMS)
    # On the right the padding is what came last, and is in the line.
    right = np.concatenate([x[:, :7], masked], axis=1)
    _, line = layer(right, mask=ops.convert_to_tensor(mask[:, ::-1].copy()))
    assert (array(line)[:, -3:] == 0).all()
    padded = np.concatenate([x[:, :7], np.zeros((1, 3, 3)), x[:, 7:]], axis=1)
    shifted, _ = layer(padded.astype("float32"))
    resumed, _ = layer(x[:, 7:], initial_state=line)
    assert_close(array(resumed), array(shifted)[:, 10:], SAME_SUMS)

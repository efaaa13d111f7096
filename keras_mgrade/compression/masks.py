"""Which weights are left: tfmot's masks, for variables of any backend."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade.compression import tfmot_parts
from keras_mgrade.compression.channels import Group, row_scores


class Mask:
    """tfmot's mask of one variable.

    Args:
        variable: The variable.
        rule: The `Pruning` whose blocks it goes by.
        schedule: tfmot's schedule of the shares of zeros.

    Raises:
        ValueError: If the variable has no such blocks.
    """

    def __init__(self, variable: keras.Variable, rule: Any, schedule: Any):
        import tensorflow as tf

        self.variable = variable
        scores = self.scores()
        blocks = rule.block_size != (1, 1)
        larger = any(np.greater(rule.block_size, scores.shape))
        if blocks and (larger or 1 in scores.shape):
            raise ValueError(
                "`block_size` is for matrices of several rows and columns, at "
                "least as large as a block; name those in `layers`. "
                f"Received: block_size={rule.block_size}, {variable.path} of "
                f"shape {tuple(variable.shape)}"
            )
        self._step = tf.Variable(0, dtype="int64")
        self._scores = tf.Variable(scores)
        # A weight that is zero has left before, unless none has started.
        self._left = (scores != 0) | ~np.any(scores)
        self._mask = tf.Variable(self._left.astype("float32"))
        self._pruning = tfmot_parts.pruning_class()(
            lambda: self._step,
            [(self._scores, self._mask, tf.Variable(0.0))],
            schedule,
            rule.block_size,
            rule.block_pooling_type,
            rule.sparsity_m_by_n,
        )

    def scores(self) -> np.ndarray:
        """What is compared, as tfmot takes it: a matrix, in float32."""
        weights = ops.convert_to_numpy(self.variable).astype("float32")
        return weights.reshape(-1, weights.shape[-1])

    def update(self, step: int) -> None:
        """Finds and applies the mask of a step that is due."""
        self._step.assign(step)
        self._scores.assign(self.scores())
        self._pruning.conditional_mask_update()
        # Under a smaller share than theirs tfmot would let zeros come back.
        self._mask.assign(self._mask * self._left)
        self.apply()

    def apply(self) -> None:
        """Sets to zero what has left."""
        mask = self._mask.numpy().reshape(self.variable.shape)
        _multiply(self.variable, mask)


class UnitMask(Mask):
    """Of whole channels: nothing reads those that have left."""

    def __init__(self, group: Group, rule: Any, schedule: Any):
        self._group = group
        super().__init__(None, rule, schedule)

    def scores(self):
        return row_scores(self._group).astype("float32")[None]

    def apply(self):
        mask = self._mask.numpy().T
        for kernel in self._group.reads:
            _multiply(kernel, mask)


def _multiply(variable: keras.Variable, mask: np.ndarray) -> None:
    variable.assign(variable * ops.convert_to_tensor(mask, variable.dtype))

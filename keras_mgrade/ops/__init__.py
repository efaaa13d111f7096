"""Pure functions on tensors: no layers, no variables."""

from keras_mgrade.ops.linear_recurrence import linear_recurrence

__all__ = ["linear_recurrence"]

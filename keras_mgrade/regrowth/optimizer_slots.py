"""What an optimiser remembers of a tap, restarted where the tap has moved."""

from typing import Any

import keras
import numpy as np
from keras import ops

# Optimiser -> the lists of slots it keeps for each weight. All of them
# restart at zero, which is where they start.
SLOTS = {
    keras.optimizers.SGD: ("momentums",),
    keras.optimizers.RMSprop: (
        "_velocities",
        "_momentums",
        "_average_gradients",
    ),
    keras.optimizers.Adam: ("_momentums", "_velocities", "_velocity_hats"),
    keras.optimizers.AdamW: ("_momentums", "_velocities", "_velocity_hats"),
    keras.optimizers.Nadam: ("_momentums", "_velocities"),
    keras.optimizers.Lion: ("_momentums",),
}


def check(optimizer: Any) -> None:
    """Refuses an optimiser whose slots are not known, by name."""
    _slots(optimizer)


def restart(optimizer: Any, variable: Any, moved: np.ndarray) -> None:
    """Restarts slots and gradient sums of a variable where `moved` is true.

    Args:
        optimizer: A Keras optimiser, or a `LossScaleOptimizer` around one.
        variable: The weight, whose new value has been assigned already.
        moved: Boolean, of the weight's shape.
    """
    for level in _with_inner(optimizer):
        if not level.built or not _knows(level, variable):
            continue
        index = level._get_variable_index(variable)
        for name in () if _wraps(level) else _slots(level):
            slots = getattr(level, name, None)
            if slots:
                _zero(slots[index], moved)
        if getattr(level, "_accumulated_gradients", None):
            _zero(level._accumulated_gradients[index], moved)
        if level.use_ema:
            average = level._model_variables_moving_average[index]
            old, new = (ops.convert_to_numpy(v) for v in (average, variable))
            average.assign(np.where(moved, new, old))


def _zero(slot, moved):
    slot.assign(np.where(moved, 0, ops.convert_to_numpy(slot)))


def _wraps(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _with_inner(optimizer):
    if _wraps(optimizer):
        return [optimizer, optimizer.inner_optimizer]
    return [optimizer]


def _knows(optimizer, variable):
    key = optimizer._var_key(variable)
    return key in optimizer._trainable_variables_indices


def _slots(optimizer):
    inner = _with_inner(optimizer)[-1]
    # PyTorch has subclasses of its own for the same optimisers; a user's
    # subclass may keep more.
    for cls in type(inner).__mro__:
        if cls in SLOTS and type(inner).__module__.startswith("keras."):
            return SLOTS[cls]
    known = ", ".join(sorted(cls.__name__ for cls in SLOTS))
    raise ValueError(
        "`optimizer` must be one whose moments are known, so that those of a "
        f"moved tap can restart: {known}, or a LossScaleOptimizer around one "
        "of them, all of Keras. Received: "
        f"optimizer={type(inner).__module__}.{type(inner).__name__}"
    )

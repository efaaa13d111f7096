"""Weights that leave one after the other during `fit`, by tfmot's rules."""

import numbers
from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_mgrade import validation
from keras_mgrade.callbacks.scheduled import sync
from keras_mgrade.compression import kernels, tfmot_parts
from keras_mgrade.compression.masks import Mask, UnitMask
from keras_mgrade.compression.weight_callback import WeightCallback


class Pruning(WeightCallback):
    """Sets the smallest weights of matrices to zero during `fit`.

    tensorflow-model-optimization computes the masks, on any backend: a model
    of the same weights ends with the same zeros as in its
    `prune_low_magnitude`. Weights that are zero already (of a training before,
    or of a file) stay so.

    Beside other callbacks: weights of one value leave or stay together, so
    let a share leave before `Clustering`, and name `Pruning()` beside it,
    which keeps the zeros. Name it before `RegrowDelays`: taps that have left
    then stay out, and others move. A best epoch that another callback keeps
    may have fewer zeros than the last one:
    `EarlyStopping(start_from_epoch=...)` looks at those that have all.

    Example:

    >>> import tensorflow_model_optimization as tfmot
    >>> schedule = tfmot.sparsity.keras.PolynomialDecay(
    ...     initial_sparsity=0.2, final_sparsity=0.8, begin_step=0,
    ...     end_step=100, frequency=10)
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(
    ...     np.ones((128, 4)), np.ones((128, 8)), batch_size=1, verbose=0,
    ...     callbacks=[keras_mgrade.compression.Pruning(schedule)])
    >>> int(np.sum(model.get_weights()[0] == 0))
    26

    Args:
        schedule: A schedule of `tfmot.sparsity.keras` (`PolynomialDecay`,
            `ConstantSparsity`), in steps of the optimizer; or a number, the
            share of zeros from the first step of each `fit` on. A step is due
            where `(step - begin_step) % frequency` is zero: let `frequency`
            divide their distance, or the final share is missed by a little.
            Defaults to `None`, which keeps the zeros there are (in
            quantisation-aware training, say).
        layers: Names of layers, or layers, whose matrices are meant. Defaults
            to `None`, all: kernels of Dense layers, convolutions over
            channels and recurrences, but no taps.
        block_size: Height and width of blocks that leave as one, in kernels
            written as `(inputs, outputs)`. Defaults to `(1, 1)`.
        block_pooling_type: `"AVG"` or `"MAX"`: what of a block is compared.
            Defaults to `"AVG"`.
        sparsity_m_by_n: `(2, 4)` lets two of four neighbouring inputs of an
            output leave, in the first step of each `fit`, whatever
            `schedule` says. Defaults to `None`.
        structure: What leaves: `"weights"`; `"units"`, whole channels with
            all that makes and reads them, in every layer that they pass
            through; `"taps"` of delay convolutions. `shrink` then rebuilds
            the model without them. Channels that a layer normalisation sees
            stay (`MGrade(normalization="batch")` lets them leave), as do the
            model's own inputs and outputs. Defaults to `"weights"`.

    Raises:
        ValueError: If an argument is not of its kind, a layer is missing, or
            a matrix has no blocks of this size.
    """

    def __init__(
        self,
        schedule: Any = None,
        layers: Sequence[Any] | None = None,
        block_size: tuple[int, int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: tuple[int, int] | None = None,
        structure: str = "weights",
    ):
        super().__init__(layers)
        self.structure = validation.one_of(
            "structure", structure, ("weights", "units", "taps")
        )
        self.schedule = _schedule(schedule)
        self.block_size = _pair("block_size", block_size)
        self.block_pooling_type = validation.one_of(
            "block_pooling_type", block_pooling_type, ("AVG", "MAX")
        )
        self.sparsity_m_by_n = sparsity_m_by_n
        if sparsity_m_by_n is not None:
            self.sparsity_m_by_n = _few_of_many(sparsity_m_by_n)
        self._check_that_they_go_together()
        self._masks: list[Mask] = []

    def _check_that_they_go_together(self):
        given = {
            "block_size": self.block_size != (1, 1),
            "sparsity_m_by_n": self.sparsity_m_by_n is not None,
            "block_pooling_type": self.block_pooling_type != "AVG",
        }
        for name in given:
            if given[name] and self.structure != "weights":
                raise ValueError(
                    f'`{name}` is for single weights, structure="weights". '
                    f"Received: {name}={getattr(self, name)!r}, "
                    f"structure={self.structure!r}"
                )
        if given["block_size"] and given["sparsity_m_by_n"]:
            raise ValueError(
                "`sparsity_m_by_n` is for single weights, not for blocks. "
                f"Received: sparsity_m_by_n={self.sparsity_m_by_n}, "
                f"block_size={self.block_size}"
            )

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._masks = []

    def begin(self):
        self._first = self._next = self._iterations() + 1
        self._due = self.schedule
        if isinstance(self.schedule, float):
            kinds = tfmot_parts.tfmot().sparsity.keras
            self._due = kinds.ConstantSparsity(self.schedule, self._first)
        make, find = {
            "weights": (Mask, kernels.matrices),
            "units": (UnitMask, kernels.groups),
            "taps": (Mask, kernels.taps),
        }[self.structure]
        self._masks = [
            make(part, self, self._due)
            for part in find(self.model, self.layers)
        ]

    def on_train_batch_begin(self, batch, logs=None):
        self._update(ahead=1)

    def on_train_batch_end(self, batch, logs=None):
        # Before other callbacks look at the weights.
        self._apply()

    def on_epoch_end(self, epoch, logs=None):
        self._update(ahead=0)

    def on_train_end(self, logs=None):
        # An optimizer with `use_ema` has just put its averages in place.
        self._apply()

    def _apply(self):
        sync(self.model)
        for mask in self._masks:
            mask.apply()

    def _update(self, ahead):
        """Masks as of the steps that were taken, and those `ahead`."""
        sync(self.model)
        # Several at a time with `steps_per_execution`.
        steps = range(self._next, self._iterations() + ahead + 1)
        self._next = max(self._next, steps.stop)
        due = [step for step in steps if self._is_due(step)]
        if due:
            # tfmot looks for two of four in the very first step only.
            step = 1 if self.sparsity_m_by_n else due[-1]
            for mask in self._masks:
                mask.update(step)

    def _is_due(self, step):
        if self.sparsity_m_by_n:
            return step == self._first
        return self._due is not None and bool(self._due(step)[0])

    def _iterations(self):
        return int(ops.convert_to_numpy(self.model.optimizer.iterations))


def _schedule(schedule: Any) -> Any:
    """A schedule of tfmot, a share, or `None`."""
    if schedule is None or isinstance(schedule, tfmot_parts.schedule_class()):
        return schedule
    real = isinstance(schedule, numbers.Real) and not isinstance(schedule, bool)
    if real and 0 < schedule < 1:
        return float(schedule)
    raise ValueError(
        "`schedule` must be a schedule of tfmot.sparsity.keras, the share "
        "of zeros between 0 and 1, or None to keep those there are. "
        f"Received: schedule={schedule!r}"
    )


def _pair(name: str, value: Any) -> tuple[int, ...]:
    try:
        first, second = value
        return tuple(
            validation.positive_integer(name, part) for part in (first, second)
        )
    except (TypeError, ValueError):
        raise ValueError(
            f"`{name}` must be two positive integers. "
            f"Received: {name}={value!r}"
        ) from None


def _few_of_many(value: Any) -> tuple[int, ...]:
    few, many = _pair("sparsity_m_by_n", value)
    if few >= many:
        raise ValueError(
            "`sparsity_m_by_n` must be how many weights leave and of how many, "
            f"(2, 4) say. Received: sparsity_m_by_n={value!r}"
        )
    return few, many

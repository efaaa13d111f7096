"""Taps that jump to the delays where the loss wants them, during `fit`."""

import math
import time
import warnings
from typing import Any

import numpy as np
from keras import ops

from keras_mgrade import validation
from keras_mgrade.callbacks.batches import check, endless
from keras_mgrade.callbacks.scheduled import Scheduled, sync
from keras_mgrade.ops import kernels
from keras_mgrade.regrowth import kept_regrowth

# At most this share of the steps of a training may be probes.
LARGEST_SHARE = 0.15


class RegrowDelays(Scheduled):
    """Lets taps jump to the delays where the loss wants them, during `fit`.

    At even intervals, in each channel of each trained `DelayConv1D` (those in
    `MGrade` count) of integer or linear taps, the tap with the smallest
    weight moves to the whole delay at which the loss gradient of a dense
    kernel is largest, at least one step from every other tap. It starts there
    from a weight of zero, with fresh moments in the optimiser. The gradient
    is measured by a probe, a few batches through the model with a kernel of
    zeros on every delay; it changes no variable, and frozen layers and
    Gaussians are left alone.

    At the end of each epoch the logs have `taps_moved` and
    `channels_settled`: how many taps have jumped so far, and the share of the
    channels whose weakest tap stood at its best delay already.

    Example:

    >>> x = np.random.default_rng(0).normal(size=(64, 50, 1))
    >>> y = np.roll(x, 11, axis=1)
    >>> model = keras.Sequential([
    ...     keras.Input((None, 1)), keras_mgrade.DelayConv1D(2, 16, "integer")
    ... ])
    >>> model.compile(keras.optimizers.Adam(0.01), "mse")
    >>> regrow = keras_mgrade.callbacks.RegrowDelays((x, y), verbose=0)
    >>> history = model.fit(
    ...     x, y, epochs=60, verbose=0, callbacks=[regrow]
    ... )
    >>> 11 in model.layers[0].delays
    True

    Args:
        data: What the probes see: `(x, y)` or `(x, y, sample_weight)` of
            arrays, or anything else that `fit` accepts as `x`. The training
            data is the right choice, without what `validation_split` sets
            aside. A dataset that shuffles, or a `PyDataset` with a state,
            should be one of its own: what it gives here it would not give to
            `fit`.
        moves: How many times a tap may move, on average over the training.
            Defaults to `2.0`.
        until: The share of the training after which no tap moves any more.
            Defaults to `0.75`.
        probe_batches: Batches in a probe. Defaults to `4`.
        batch_size: Samples in a batch of a probe, if `data` are arrays.
            Defaults to `32`.
        class_weight: As for `fit`. Defaults to `None`.
        total_steps: Steps of the whole training, if several calls of `fit`
            make one schedule, or if `fit` cannot know its steps. Defaults to
            `None`: each `fit` has a schedule of its own.
        seed: Seed of the choice of samples, if `data` are arrays. Defaults
            to `0`.
        verbose: 0 for silence, 1 for a line at the end with what the probes
            found and cost. Defaults to `1`.

    Raises:
        ValueError: If no layer can regrow, the optimiser's moments are not
            known, or the number of steps is not.

    Reference:
        RigL, [Evci et al., 2020](https://arxiv.org/abs/1911.11134); DEEP R,
        [Bellec et al., 2018](https://arxiv.org/abs/1711.05136); on delays of
        spiking networks, [Meszaros et al.,
        2024](https://arxiv.org/abs/2407.18917)
    """

    def __init__(
        self,
        data: Any,
        moves: float = 2.0,
        until: float = 0.75,
        probe_batches: int = 4,
        batch_size: int = 32,
        class_weight: dict[int, float] | None = None,
        total_steps: int | None = None,
        seed: int = 0,
        verbose: int = 1,
    ):
        super().__init__(total_steps)
        check(data, class_weight)
        self.data = data
        self.moves = validation.number("moves", moves, 0.0)
        self.until = validation.share("until", until)
        self.probe_batches = validation.positive_integer(
            "probe_batches", probe_batches
        )
        self.batch_size = validation.positive_integer("batch_size", batch_size)
        self.class_weight = class_weight
        self.seed = validation.seed("seed", seed)
        self.verbose = verbose
        self._batches = None
        self._moved, self._settled = 0, {}

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._started = time.perf_counter()
        if self._begun:
            # The optimiser may be another one.
            self._prepare()

    def begin(self, total):
        self._prepare()
        self._schedule = self._make_schedule(total)
        self._probes = self._moved = self._failed = 0
        self._seconds = self._spent = 0.0
        self._settled = {}
        self._randomness = kernels.OwnRandomness()
        self._batches = endless(
            self.data, self.batch_size, self.class_weight, self.seed
        )

    def _prepare(self):
        self._regrowth = kept_regrowth(self.model, None, self.model.optimizer)

    def step(self):
        due = set()
        # What came due together (several steps an execution) is one move:
        # a second one would move the same young taps again.
        while self._schedule and self._schedule[0][0] <= self.steps_done:
            due.update(self._schedule.pop(0)[1])
        if due:
            self._move([self._regrowth.layers[index] for index in sorted(due)])

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["taps_moved"] = self._moved
            logs["channels_settled"] = self._share_settled()

    def on_train_end(self, logs=None):
        if not self._begun:
            return
        self._spent += time.perf_counter() - self._started
        if self.total_steps is None:
            self._batches.close()
            self._batches = None
        if self.verbose and self._probes:
            failed = ""
            if self._failed:
                failed = f" ({self._failed} of a loss that was not finite)"
            print(
                f"RegrowDelays: {self._probes} probes{failed}, {self._moved} "
                f"moves of taps, {self._share_settled():.0%} of the channels "
                f"settled; {self._seconds:.1f} s, "
                f"{self._seconds / self._spent:.1%} of the training"
            )

    def _make_schedule(self, total):
        """`(step, layers that move then)`, in order."""
        wanted = [
            round(self.moves * layer.kernel_size)
            for layer in self._regrowth.layers
        ]
        most = slots = max(wanted)
        affordable = int(LARGEST_SHARE * total / self.probe_batches)
        if affordable < slots:
            warnings.warn(
                f"RegrowDelays: {total} steps are few for {slots} probes of "
                f"{self.probe_batches} batches; {affordable} will be made, "
                f"{LARGEST_SHARE:.0%} of the steps. Train longer, or ask for "
                "fewer with moves= or probe_batches=.",
                stacklevel=2,
            )
            slots = affordable
        # Fewer probes for all; a layer of few taps still has one of them.
        wanted = [
            min(slots, math.ceil(count * slots / max(most, 1)))
            for count in wanted
        ]
        schedule = []
        for slot in range(slots):
            step = math.ceil(self.until * total * (slot + 1) / slots)
            # Layers of fewer taps move at fewer of the probes, evenly.
            due = [
                index
                for index, count in enumerate(wanted)
                if (slot + 1) * count // slots > slot * count // slots
            ]
            if step > self.steps_done:
                schedule.append((step, due))
        return schedule

    def _move(self, layers):
        sync(self.model)
        # What training has under way is not the probe's time.
        ops.convert_to_numpy(layers[0].kernel)
        begun = time.perf_counter()
        moved, settled = self._regrowth.move(self._draw(), layers)
        self._seconds += time.perf_counter() - begun
        self._probes += 1
        self._moved += sum(int(array.sum()) for array in moved.values())
        self._failed += len(settled) < len(moved)
        self._settled.update(settled)

    def _draw(self):
        """The batches of a probe; what they draw at random is their own."""
        with self._randomness:
            return [next(self._batches) for _ in range(self.probe_batches)]

    def _share_settled(self):
        """Of all channels, each as the last probe that moved it found it."""
        if not self._settled:
            return 0.0
        return float(np.mean(np.concatenate([*self._settled.values()])))

"""Callbacks for `fit`: taps that find their delays, widths that narrow."""

import math
import time
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.trainers import data_adapters

from keras_mgrade import validation
from keras_mgrade.layers import DelayConv1D
from keras_mgrade.regrowth import Regrowth

# At most this share of the steps of a training may be probes.
LARGEST_SHARE = 0.15


class _Scheduled(keras.callbacks.Callback):
    """Counts the steps of a training, over several calls of `fit` if told."""

    def __init__(self, total_steps):
        super().__init__()
        if total_steps is not None:
            validation.positive_integer("total_steps", total_steps)
        self.total_steps = total_steps
        self.steps_done = 0
        self._begun = False

    def on_train_begin(self, logs=None):
        if self.total_steps is None:
            self._begun = False

    def on_epoch_begin(self, epoch, logs=None):
        if not self._begun:
            total, self.steps_done = self.total_steps, 0
            if total is None:
                steps = self.params.get("steps")
                if not steps:
                    raise ValueError(
                        "`total_steps` is needed where `fit` does not know "
                        "its number of steps (a generator). "
                        "Received: total_steps=None"
                    )
                total = steps * self.params["epochs"]
                # A training that goes on from an epoch has had what was due.
                self.steps_done = steps * epoch
            self.begin(total)
            self._begun = True
        self._epoch_start = self.steps_done

    def on_train_batch_end(self, batch, logs=None):
        self.steps_done = self._epoch_start + batch + 1
        self.step()

    def sync(self):
        """On JAX `fit` holds the variables; this writes them back."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()


class RegrowDelays(_Scheduled):
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
            data is the right choice.
        moves: How many times a tap moves, on average over the training.
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
        if not moves > 0:
            raise ValueError(
                "`moves` must be above 0, moves a tap. "
                f"Received: moves={moves!r}"
            )
        self.data = data
        self.moves = moves
        self.until = validation.share("until", until)
        self.probe_batches = validation.positive_integer(
            "probe_batches", probe_batches
        )
        self.batch_size = validation.positive_integer("batch_size", batch_size)
        self.class_weight = class_weight
        self.seed = seed
        self.verbose = verbose

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._regrowth = Regrowth(self.model, optimizer=self.model.optimizer)
        self._batches = _endless(self)
        self._started, self._seconds = time.perf_counter(), 0.0

    def begin(self, total):
        self._schedule = self._make_schedule(total)
        self._probes = self._moved = 0
        self._settled = 0.0

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
            logs["channels_settled"] = self._settled

    def on_train_end(self, logs=None):
        if self.verbose and self._probes:
            spent = time.perf_counter() - self._started
            print(
                f"RegrowDelays: {self._probes} probes, {self._moved} moves of "
                f"taps, {self._settled:.0%} of the channels settled; "
                f"{self._seconds:.1f} s, {self._seconds / spent:.1%} of the "
                "training"
            )

    def _make_schedule(self, total):
        """`(step, layers that move then)`, in order."""
        wanted = [
            max(1, round(self.moves * layer.kernel_size))
            for layer in self._regrowth.layers
        ]
        slots = max(wanted)
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
        schedule = []
        for slot in range(slots):
            step = math.ceil(self.until * total * (slot + 1) / slots)
            # Layers of fewer taps move at fewer of the probes, evenly.
            due = [
                index
                for index, count in enumerate(wanted)
                if (slot + 1) * count // max(wanted)
                > slot * count // max(wanted)
                or count == max(wanted)
            ]
            if step > self.steps_done:
                schedule.append((step, due))
        return schedule

    def _move(self, layers):
        self.sync()
        # What training has under way is not the probe's time.
        ops.convert_to_numpy(layers[0].kernel)
        begun = time.perf_counter()
        batches = [next(self._batches) for _ in range(self.probe_batches)]
        moved, settled = self._regrowth.move(batches, layers)
        self._seconds += time.perf_counter() - begun
        self._probes += 1
        self._moved += sum(int(array.sum()) for array in moved.values())
        self._settled = float(np.mean(np.concatenate([*settled.values()])))


class AnnealWidth(_Scheduled):
    """Narrows the Gaussians of `DelayConv1D` layers during `fit`.

    Their width goes from where it stands to `end`, by equal factors, over the
    first part of the training; for layers with `interpolation="gaussian"`
    and a fixed width. It is how delays of spiking networks are learned: wide
    kernels feel far, narrow ones are nearly a tap.

    Example:

    >>> layer = keras_mgrade.DelayConv1D(2, 16, "gaussian", width=4.0)
    >>> model = keras.Sequential([keras.Input((None, 1)), layer])
    >>> model.compile("adam", "mse")
    >>> x = np.zeros((8, 50, 1))
    >>> history = model.fit(
    ...     x, x, epochs=4, verbose=0,
    ...     callbacks=[keras_mgrade.callbacks.AnnealWidth(0.3)],
    ... )
    >>> round(float(layer.widths.max()), 3)
    0.3

    Args:
        end: The last width, a standard deviation in steps. Defaults to
            `0.3`.
        until: The share of the training after which it is reached. Defaults
            to `0.5`.
        total_steps: As for `RegrowDelays`. Defaults to `None`.

    Raises:
        ValueError: If no layer has Gaussians of a fixed width.

    Reference:
        [Hammouamri et al., 2023](https://arxiv.org/abs/2306.17670)
    """

    # As many widths on the way: each is a write into the training state.
    STEPS = 100

    def __init__(
        self,
        end: float = 0.3,
        until: float = 0.5,
        total_steps: int | None = None,
    ):
        super().__init__(total_steps)
        self.end = end
        self.until = validation.share("until", until)

    def begin(self, total):
        self._layers = [
            layer
            for layer in self.model._flatten_layers()
            if isinstance(layer, DelayConv1D)
            and layer.interpolation == "gaussian"
            and not layer.train_width
        ]
        if not self._layers:
            raise ValueError(
                "`model` must have a DelayConv1D layer with "
                "interpolation='gaussian' and train_width=False. "
                f"Received: model={self.model!r}"
            )
        self._starts = [layer.widths for layer in self._layers]
        self._last = max(1, round(self.until * total))
        self._reached = 0

    def step(self):
        share = min(self.steps_done / self._last, 1)
        if int(share * self.STEPS) == self._reached:
            return
        self._reached = int(share * self.STEPS)
        self.sync()
        for layer, start in zip(self._layers, self._starts, strict=True):
            layer.set_widths(start ** (1 - share) * self.end**share)


def _endless(callback: RegrowDelays) -> Iterator[Any]:
    """Batches of the callback's data, for ever."""
    x, y, weight = callback.data, None, None
    if isinstance(x, (tuple, list)):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(tuple(x))
        arrays = data_adapters.array_data_adapter
        if arrays.can_convert_arrays((x, y, weight)):
            yield from _random_batches(callback, (x, y, weight))
    while True:
        adapter = data_adapters.get_data_adapter(
            x, y, weight, class_weight=callback.class_weight
        )
        empty = True
        for batch in adapter.get_numpy_iterator():
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "`data` must give its batches anew each time it is gone "
                f"through. Received: data={callback.data!r}"
            )


def _random_batches(callback, arrays):
    """All of one size, so that a compiled probe stays compiled."""
    arrays = keras.tree.map_structure(
        lambda a: None if a is None else np.asarray(ops.convert_to_numpy(a)),
        arrays,
    )
    count = len(keras.tree.flatten(arrays)[0])
    size = min(callback.batch_size, count)
    rng = np.random.default_rng(callback.seed)
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            chosen = order[start : start + size]
            x, y, weight = keras.tree.map_structure(
                lambda a, rows=chosen: None if a is None else a[rows], arrays
            )
            adapter = data_adapters.get_data_adapter(
                x,
                y,
                weight,
                batch_size=size,
                class_weight=callback.class_weight,
            )
            yield from adapter.get_numpy_iterator()

"""Where the taps of a layer stand: read, written, snapped, stored by name."""

from typing import Any

import numpy as np
from keras import ops

from keras_mgrade.regularizers import DelayLength

# Delays are stored in units of four steps, so that one learning rate serves
# kernels and delays; a power of two keeps whole steps exact.
UNIT = 4.0


# A trained Gaussian gets no narrower than this, in steps: by then it reads
# one step, and its gradient in the delay is gone.
NARROWEST = 0.1

# The paper's width, in steps.
DEFAULT_WIDTH = 0.8


class TapWeights:
    """Mixin for `DelayConv1D`; comes before the Keras class."""

    @property
    def delays(self) -> np.ndarray:
        """Delays in steps, `(kernel_size, channels)`, as the layer reads."""
        self._require_built()
        steps = UNIT * ops.convert_to_numpy(self._delays)
        if self.interpolation == "integer":
            steps = np.round(steps)
        return np.clip(steps, 0, self.max_delay)

    def _require_built(self):
        if not self.built:
            raise ValueError(
                "The layer has no delays before it is built: call it once, "
                "or build((None, None, channels)). Received: built=False"
            )

    def set_delays(self, steps: Any) -> None:
        """Puts the taps at given delays.

        Args:
            steps: From 0 to `max_delay`, `(kernel_size, channels)`.
        """
        self._require_built()
        steps = np.asarray(steps)
        shape = tuple(self._delays.shape)
        whole = self.interpolation == "integer"
        if (
            steps.shape != shape
            or not np.all((steps >= 0) & (steps <= self.max_delay))
            or (whole and np.any(steps != np.round(steps)))
        ):
            kind = "whole steps" if whole else "steps"
            raise ValueError(
                f"`steps` must be of shape {shape}, {kind} from 0 to "
                f"{self.max_delay}. Received: steps={steps!r}"
            )
        self._delays.assign(steps / UNIT)

    @property
    def widths(self) -> np.ndarray:
        """Widths of Gaussians in steps, `(kernel_size, channels)`."""
        self._require_built()
        widths = ops.convert_to_numpy(self._require_gaussian())
        return np.maximum(widths, NARROWEST)

    def set_widths(self, steps: Any) -> None:
        """Gives Gaussians the widths `steps`, of the shape of `widths`."""
        self._require_built()
        width, steps = self._require_gaussian(), np.asarray(steps)
        if steps.shape != tuple(width.shape) or not np.all(steps >= NARROWEST):
            raise ValueError(
                f"`steps` must be of shape {tuple(width.shape)}, at least "
                f"{NARROWEST}. Received: steps={steps!r}"
            )
        width.assign(steps)

    def _require_gaussian(self):
        if self._width is None:
            raise ValueError(
                "Only Gaussians have a width. "
                f"Received: interpolation={self.interpolation!r}"
            )
        return self._width

    def snap_delays(self) -> float:
        """Turns linear or Gaussian taps into integer ones, in place.

        Each channel's taps go to the `kernel_size` largest entries of its
        dense kernel: rounding each by itself would be wrong where taps share
        the work. Taps that are left over rest at delay 0 with weight 0.

        Compile the model anew afterwards, and train it for a short while at
        a tenth of the learning rate to make up for what was lost.

        Returns:
            How far the sum over the taps moves on white noise, as a share of
            its rms; 0 where nothing is lost.
        """
        self._require_built()
        if self.interpolation == "integer":
            return 0.0
        dense = ops.convert_to_numpy(self.dense_kernel())
        places = np.argsort(-np.abs(dense), axis=0)[: self.kernel_size]
        weights = np.take_along_axis(dense, places, axis=0)
        rest = self.kernel_size - len(places)
        places, weights = (
            np.pad(a, ((0, rest), (0, 0))) for a in (places, weights)
        )
        places = np.where(weights == 0, 0, places)

        self._become_integer()
        self.kernel.assign(weights)
        self.set_delays(places)
        power = np.sum(dense.astype("float64") ** 2)
        kept = np.sum(weights.astype("float64") ** 2)
        return float(np.sqrt(max(1 - kept / power, 0))) if power else 0.0

    def _become_integer(self):
        self.interpolation = "integer"
        if not isinstance(self.delay_regularizer, DelayLength):
            self.delay_regularizer = None
        self.width, self.train_width = DEFAULT_WIDTH, False
        self.normalize_kernel = False
        # Among the weights that `layer.trainable = True` does not touch. Keras
        # locks a built layer.
        self._untrack_variable(self._delays)
        self._delays.trainable = False
        self._tracker.unlock()
        self._track_variable(self._delays)
        self._tracker.lock()
        if self._width is not None:
            self._untrack_variable(self._width)
            self._width = None

    def _named_weights(self):
        if not self.built:
            return {}
        weights = (self.kernel, self._delays, self._width, self.bias)
        return {w.name: w for w in weights if w is not None}

    # By name: Keras stores by position, trainable weights first, and which
    # weights are trainable depends on the interpolation.
    def save_own_variables(self, store):
        for name, weight in self._named_weights().items():
            store[name] = ops.convert_to_numpy(weight)

    def load_own_variables(self, store):
        weights = self._named_weights()
        if set(store.keys()) != set(weights):
            raise ValueError(
                f"Layer '{self.name}' ({type(self).__name__}) has weights "
                f"{sorted(weights)}, so the file must hold just these. "
                f"Received: names={sorted(store.keys())}"
            )
        for name, weight in weights.items():
            weight.assign(store[name])

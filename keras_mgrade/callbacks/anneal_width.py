"""Gaussians that narrow during `fit`."""

from keras_mgrade import validation
from keras_mgrade.callbacks.scheduled import Scheduled, sync
from keras_mgrade.layers import DelayConv1D
from keras_mgrade.layers.tap_weights import NARROWEST


class AnnealWidth(Scheduled):
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
        self.end = validation.number("end", end, NARROWEST)
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
        # As they stand: a training that goes on has narrowed them already.
        self._starts = [layer.widths for layer in self._layers]
        self._last = max(1, round(self.until * total))
        self._gone = min(self.steps_done / self._last, 1)
        self._reached = int(self._gone * self.STEPS)

    def step(self):
        share = min(self.steps_done / self._last, 1)
        if int(share * self.STEPS) == self._reached:
            return
        self._reached = int(share * self.STEPS)
        sync(self.model)
        rest = (1 - share) / (1 - self._gone)
        for layer, start in zip(self._layers, self._starts, strict=True):
            layer.set_widths(start**rest * self.end ** (1 - rest))

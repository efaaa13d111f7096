"""Delay lines in a file: what a layer's past inputs are on the device.

A line is a state of the file, its newest entry last, or it is the program's:
then the file takes the values at the taps, and gives what to push.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import streaming
from keras_mgrade.layers.delay_conv1d import DelayConv1D
from keras_mgrade.layers.keras_steps import ConvolutionStep, step_of

# Weights this far below the largest do not change a float32 sum.
NEGLIGIBLE = 1e-9

# The ring buffers count in sixteen bits.
LONGEST = 65_535


class LineStep(streaming.Step):
    """A step whose line is `(1, rows, 1, channels)`, as kernels want it.

    Args:
        layer: The layer with a line.
        application: Whether the program holds the line. Defaults to `False`.
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        rows: Rows of the state: steps, or taps in the program's line.
        delays: For the program's line, the delay of each tap and channel,
            `(rows, channels)`, in steps; 0 is none, which reads zero.
    """

    def __init__(
        self, layer: keras.Layer, application: bool = False, **kwargs: Any
    ):
        super().__init__(layer, **kwargs)
        self.application = application
        self.delays = None

    def run(self, x_t, states):
        channels = x_t.shape[-1]
        newest = ops.reshape(x_t, (1, 1, 1, channels))
        window = ops.concatenate([*states, newest], axis=1)
        y_t = self.product(window)
        return y_t, [newest if self.application else window[:, 1:]]


class DelayStep(LineStep):
    """Of a `DelayConv1D`: one depthwise convolution.

    As a state of the file the line is as long as the longest delay in use, at
    least one step: a state stays a state, even where all taps sit at delay 0.
    """

    def __init__(self, layer: DelayConv1D, **kwargs: Any):
        super().__init__(layer, **kwargs)
        kernel = ops.convert_to_numpy(layer.dense_kernel())
        used = np.abs(kernel) > NEGLIGIBLE * np.abs(kernel).max()
        if self.application:
            self.delays, taps = _tap_rows(np.where(used, kernel, 0))
        else:
            rows = np.flatnonzero(used.any(axis=1))
            longest = max(1, int(rows[-1])) if len(rows) else 1
            # Oldest first, as the line lies.
            taps = kernel[longest::-1]
        self.taps = np.ascontiguousarray(taps)
        self.rows = len(taps) - 1

    def product(self, window):
        """`(steps, channels)` from `(1, rows + steps, 1, channels)`."""
        channels = self.taps.shape[-1]
        y_t = ops.depthwise_conv(
            window,
            ops.reshape(self.taps, (-1, 1, channels, 1)),
            padding="valid",
            data_format="channels_last",
        )
        if self.layer.use_bias:
            y_t = ops.add(y_t, self.layer.bias)
        return self.layer.activation(ops.reshape(y_t, (-1, channels)))

    def over_time(self, x):
        """All steps from the start of a stream, `(time, channels)`."""
        window = ops.pad(x, [[self.rows, 0], [0, 0]])
        return self.product(window[None, :, None])


def _tap_rows(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Taps of a kernel over every delay: their delays, their weights.

    The weights have one row more, the last, for delay 0: that value does not
    lie in the line yet.
    """
    channels = kernel.shape[1]
    count = max(1, int(np.count_nonzero(kernel[1:], axis=0).max()))
    delays = np.zeros((count, channels), int)
    weights = np.zeros((count + 1, channels), kernel.dtype)
    weights[-1] = kernel[0]
    for channel in range(channels):
        found = np.flatnonzero(kernel[1:, channel])[::-1] + 1
        delays[: len(found), channel] = found
        weights[: len(found), channel] = kernel[found, channel]
    return delays, weights


class ConvolutionLineStep(LineStep):
    """Of Keras's causal convolutions: the taps, then one product."""

    def __init__(self, layer: keras.Layer, **kwargs: Any):
        super().__init__(layer, **kwargs)
        self.stepped = ConvolutionStep(layer)
        (size,), (dilation,) = layer.kernel_size, layer.dilation_rate
        self.stride = 1 if self.application else dilation
        self.rows = self.stepped.span
        if self.application:
            self.rows = size - 1
            oldest_first = dilation * np.arange(size - 1, 0, -1)
            ones = np.ones((1, self.stepped.channels), int)
            self.delays = oldest_first[:, None] * ones

    def product(self, window):
        """`(1, filters)` from `(1, rows + 1, 1, channels)`."""
        taps = window[:, :: self.stride] if self.stride > 1 else window
        if self.stepped.depthwise:
            kernel = ops.expand_dims(self.layer.kernel, 1)
            y_t = ops.depthwise_conv(
                taps, kernel, padding="valid", data_format="channels_last"
            )
            y_t = ops.reshape(y_t, (1, -1))
        else:
            y_t = self.stepped.product(taps)
        return self.stepped.finish(y_t)

    def over_time(self, x):
        """All steps from the start of a stream, `(time, channels)`."""
        window = ops.pad(x, [[self.stepped.span, 0], [0, 0]])
        depthwise = self.stepped.depthwise
        convolve = ops.depthwise_conv if depthwise else ops.conv
        y = convolve(
            window[None],
            self.layer.kernel,
            padding="valid",
            data_format="channels_last",
            dilation_rate=self.layer.dilation_rate[0],
        )
        return self.stepped.finish(y[0])


def line_step(layer: Any, application: bool, name: str) -> LineStep | None:
    """The form of a layer with a delay line, or `None` for any other.

    Raises:
        ValueError: If the program shall hold a line that is not read at whole
            delays.
    """
    if isinstance(layer, DelayConv1D):
        if application and layer.interpolation != "integer":
            raise ValueError(
                "`delay_line='application'` reads a line at whole delays, and "
                f"layer {name!r} reads between them. Call snap_delays() on "
                "it, compile the model anew and train it on for a while; or "
                "use delay_line='graph'. Received: delay_line='application', "
                f"interpolation={layer.interpolation!r}"
            )
        line = DelayStep(layer, application=application, name=name)
        if application and line.delays.max() > LONGEST:
            raise ValueError(
                f"`delay_line='application'` holds up to {LONGEST:,} steps a "
                f"channel, and layer {name!r} reads further back. Use "
                "delay_line='graph'. Received: delay_line='application', "
                f"longest delay={line.delays.max()}"
            )
        return line
    stepped = step_of(layer)
    if isinstance(stepped, ConvolutionStep) and stepped.span:
        return ConvolutionLineStep(layer, application=application, name=name)
    return None

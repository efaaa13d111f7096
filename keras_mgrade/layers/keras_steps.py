"""One time step of Keras's own recurrent and convolutional layers."""

import math
from typing import Any

import keras
from keras import layers, ops

from keras_mgrade.layers.temporal_pooling import TemporalPooling

_RECURRENT = (layers.GRU, layers.LSTM, layers.SimpleRNN, layers.RNN)
_CONVOLUTIONS = (layers.Conv1D, layers.DepthwiseConv1D)


def step_of(layer: Any) -> Any:
    """What has `step`, `state_specs` and `get_initial_state` for a layer.

    Args:
        layer: Any Keras layer, built.

    Returns:
        The layer itself if it has them, an object around it if it is one of
        Keras's own that streams, else `None`.
    """
    if callable(getattr(layer, "step", None)) and hasattr(layer, "state_specs"):
        return layer
    if _is(layer, _RECURRENT):
        return RecurrentStep(layer)
    if _is(layer, _CONVOLUTIONS):
        return ConvolutionStep(layer)
    return None


def takes_padding(layer: Any) -> bool:
    """Whether a layer may follow a `ZeroPadding1D`."""
    return _is(layer, _CONVOLUTIONS)


def why_not_a_step(layer: Any, padded: int = 0) -> str | None:
    """Why a recurrent or convolutional layer does not stream as it is set.

    Args:
        layer: Any Keras layer, built.
        padded: How many steps of zeros a `ZeroPadding1D` has put in front of
            its input. Defaults to `0`.

    Returns:
        `None` if it does or is another layer, else a reason that completes
        "because it ...".
    """
    if isinstance(layer, layers.RNN) and layer.go_backwards:
        return "runs backwards (go_backwards=True)"
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    if _is(layer, (*_CONVOLUTIONS, layers.GlobalAveragePooling1D)):
        if channels_first:
            return "has time last (data_format='channels_first')"
        if getattr(layer, "keepdims", False):
            return "keeps an axis of time (keepdims=True)"
    if _is(layer, _CONVOLUTIONS):
        if layer.strides != (1,):
            return f"skips steps (strides={layer.strides[0]})"
        span = ConvolutionStep(layer).span
        causal = layer.padding == "causal" or span == 0
        if not causal and (layer.padding != "valid" or padded != span):
            return f"looks ahead or shortens (padding={layer.padding!r})"
        if causal and padded:
            return f"sees {padded} steps of zeros in front of its own padding"
    return None


def replacement(layer: Any, channels: int) -> Any:
    """The layer of this package that is the same, or the layer itself."""
    if not _is(layer, (layers.GlobalAveragePooling1D,)):
        return layer
    mean = TemporalPooling("mean", name=layer.name, dtype=layer.dtype_policy)
    mean.build((None, None, channels))
    return mean


def _is(layer, kinds):
    """Whether a layer computes as one of `kinds`, not as a subclass may."""
    return any(
        isinstance(layer, kind) and type(layer).call is kind.call
        for kind in kinds
    )


class RecurrentStep:
    """A step of a `keras.layers.RNN`: that of its cell, in inference."""

    def __init__(self, layer: layers.RNN):
        self._layer = layer

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        own = getattr(self._layer.cell, "state_specs", None)
        if own is not None:
            return own
        states = self.get_initial_state(1)
        names = ("hidden", "cell")
        if len(states) > 2 or not _is(self._layer, _RECURRENT[:3]):
            names = [f"state_{i}" for i in range(len(states))]
        return [
            (name, tuple(state.shape[1:]), "recurrent")
            for name, state in zip(names, states, strict=False)
        ]

    def get_initial_state(self, batch_size: int) -> list[Any]:
        """The cell's, which a stream takes if it is zero."""
        return keras.tree.flatten(self._layer.get_initial_state(batch_size))

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step: `(batch, features)` to `(y_t, states)`."""
        cell = self._layer.cell
        arguments = {}
        if getattr(cell, "_call_has_training_arg", False):
            arguments["training"] = False
        sizes = self._layer.state_size
        sizes = sizes if isinstance(sizes, (list, tuple)) else [sizes]
        packed = keras.tree.pack_sequence_as(list(sizes), list(states))
        y_t, states = cell(x_t, packed, **arguments)
        return y_t, keras.tree.flatten(states)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step: the products and the update."""
        matrices = [w for w in self._layer.weights if len(w.shape) == 2]
        products = sum(math.prod(w.shape) for w in matrices if w.name != "bias")
        return products + sum(
            math.prod(shape) for _, shape, _ in self.state_specs
        )


class ConvolutionStep:
    """A step of a causal convolution: its line of past inputs is a state.

    A step is the product of the kernel with the inputs it meets, and then
    bias and activation, which the forms for devices take one by one.
    """

    def __init__(self, layer: Any):
        self._layer = layer

    @property
    def depthwise(self) -> bool:
        """Whether each channel has a kernel of its own."""
        return isinstance(self._layer, layers.DepthwiseConv1D)

    @property
    def span(self) -> int:
        """Steps from the newest input to the oldest one that is read."""
        (size,), (dilation,) = (
            self._layer.kernel_size,
            self._layer.dilation_rate,
        )
        return (size - 1) * dilation

    @property
    def channels(self) -> int:
        """Channels of the input."""
        groups = 1 if self.depthwise else self._layer.groups
        return groups * self._layer.kernel.shape[1]

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        if not self.span:
            return []
        return [("delay_line", (self.span, self.channels), "delay_line")]

    def get_initial_state(self, batch_size: int) -> list[Any]:
        """Zeros, which is what causal padding puts in front."""
        return [
            ops.zeros((batch_size, *shape), dtype=self._layer.compute_dtype)
            for _, shape, _ in self.state_specs
        ]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step."""
        return math.prod(self._layer.kernel.shape)

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step: `(batch, channels)` to `(y_t, states)`."""
        x_t = ops.cast(x_t, self._layer.compute_dtype)
        if not states:
            return self.finish(self.product(x_t)), []
        window = ops.concatenate([states[0], ops.expand_dims(x_t, 1)], axis=1)
        (dilation,) = self._layer.dilation_rate
        return self.finish(self.product(window[:, ::dilation])), [window[:, 1:]]

    def finish(self, y_t: Any) -> Any:
        """Bias and activation, as the layer adds them."""
        layer = self._layer
        if layer.use_bias:
            y_t = ops.add(y_t, ops.cast(layer.bias, layer.compute_dtype))
        return y_t if layer.activation is None else layer.activation(y_t)

    def product(self, taps: Any) -> Any:
        """The kernel times `(batch, kernel_size, channels)`, oldest first.

        Axes of 1 may stand between those, or be left out.
        """
        kernel = ops.cast(self._layer.kernel, self._layer.compute_dtype)
        if self.depthwise:
            shape = (taps.shape[0], *kernel.shape[:2], 1)
            products = ops.reshape(taps, shape) * kernel
            return ops.reshape(ops.sum(products, axis=1), (taps.shape[0], -1))
        groups = self._layer.groups
        if groups == 1:
            return _rows(taps) @ _columns(kernel)
        parts = [
            _rows(x) @ _columns(w)
            for x, w in zip(
                ops.split(taps, groups, axis=-1),
                ops.split(kernel, groups, axis=-1),
                strict=True,
            )
        ]
        return ops.concatenate(parts, axis=-1)


# For the operator `@` and not `ops.matmul`, which on PyTorch computes float64
# in float32.
def _rows(taps):
    return ops.reshape(taps, (taps.shape[0], -1))


def _columns(kernel):
    return ops.reshape(kernel, (-1, kernel.shape[-1]))

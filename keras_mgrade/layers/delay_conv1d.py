"""Causal depthwise convolution whose few taps sit at learned delays.

`y[t, c] = bias[c] + sum_k kernel[k, c] * x~[t - delays[k, c], c]`, where `x~`
reads between whole steps as `interpolation` says. mGRADE, arXiv 2507.01829.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade import activations, initializers, validation
from keras_mgrade.layers.carried_state import CarriedState
from keras_mgrade.layers.config import constructor_arguments
from keras_mgrade.layers.tap_weights import (
    DEFAULT_WIDTH,
    NARROWEST,
    UNIT,
    TapWeights,
)
from keras_mgrade.ops import delay_taps
from keras_mgrade.regularizers import DelayLength


class _Within(keras.constraints.Constraint):
    def __init__(self, lower, upper):
        self.lower, self.upper = lower, upper

    def __call__(self, w):
        return ops.clip(w, self.lower, self.upper)


class _Probe:
    def __init__(self, kernel):
        self.kernel, self.seen = kernel, []


@keras.saving.register_keras_serializable("keras_mgrade")
class DelayConv1D(TapWeights, CarriedState, keras.layers.Layer):
    """Causal depthwise 1-D convolution with taps at learned delays.

    `y[t, c] = bias[c] + sum_k kernel[k, c] * x~[t - delays[k, c], c]`

    Each channel reads `kernel_size` past values, each at a delay of its own
    between 0 (the current step) and `max_delay` steps. Before the first step
    the input is zero. There is no mixing between channels and no look ahead.

    Example:

    >>> layer = keras_mgrade.DelayConv1D(kernel_size=4, max_delay=32)
    >>> layer(np.zeros((2, 100, 3), "float32")).shape
    (2, 100, 3)
    >>> layer.delays[:, 0]
    array([ 0.,  8., 16., 24.], dtype=float32)

    Args:
        kernel_size: Positive integer, taps a channel.
        max_delay: Positive integer, the longest delay, in steps.
        interpolation: How a delay between whole steps reads. `"linear"`:
            between its two neighbours; trained by `fit`. `"integer"`: delays
            are whole steps and stay where they are put. `"gaussian"`: each
            tap reads every step, weighted by a bell of `width` (the paper's
            kernel); by Fourier transforms where these are faster for the
            shape, whose rounding every step of a sequence shares, a NaN too.
            Defaults to `"linear"`.
        activation: Activation of the output. Defaults to `None`.
        use_bias: Whether to add a bias. Defaults to `True`.
        depthwise_initializer: Initializer of the kernel. Defaults to
            `"lecun_uniform"`.
        bias_initializer: Initializer of the bias. Defaults to `"zeros"`.
        delay_initializer: Initializer of the delays, in steps. Defaults to
            `"even"`, which is tap k at `k * max_delay / kernel_size`.
        depthwise_regularizer: Regularizer of the kernel. Defaults to `None`.
        bias_regularizer: Regularizer of the bias. Defaults to `None`.
        delay_regularizer: Regularizer of the delays, in steps, after
            clipping. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        depthwise_constraint: Constraint of the kernel. Defaults to `None`.
        bias_constraint: Constraint of the bias. Defaults to `None`.
        width: Standard deviation of a Gaussian tap, in steps. Defaults to
            `0.8`. Only for `"gaussian"`.
        train_width: Whether the widths are trained. Defaults to `False`.
            Only for `"gaussian"`.
        normalize_kernel: Whether each Gaussian is scaled to a sum of 1.
            Defaults to `False`. Only for `"gaussian"`.
        return_state: Whether to return the delay line too. Defaults to
            `False`.
        stateful: Whether the last inputs are the past of the next call, for
            each row of the batch. Needs a known batch size. Defaults to
            `False`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, time, channels)`; time may vary between calls.
        initial_state: The last `max_delay` inputs before this sequence,
            oldest first, `(batch, max_delay, channels)`. Defaults to `None`,
            which is zeros.
        mask: Boolean, `(batch, time)`. Masked inputs are read as zeros; time
            moves on; the mask is passed on.

    Input shape:
        `(batch, time, channels)`.

    Output shape:
        `(batch, time, channels)`; with `return_state=True` followed by the
        delay line, `(batch, max_delay, channels)`.

    Raises:
        ValueError: If an argument is out of range or has no meaning with the
            chosen interpolation.

    Reference:
        [mGRADE](https://arxiv.org/abs/2507.01829);
        [dilated convolution with learnable spacings](
        https://arxiv.org/abs/2112.03740)
    """

    def __init__(
        self,
        kernel_size: int,
        max_delay: int,
        interpolation: str = "linear",
        activation: Any = None,
        use_bias: bool = True,
        depthwise_initializer: Any = "lecun_uniform",
        bias_initializer: Any = "zeros",
        delay_initializer: Any = "even",
        depthwise_regularizer: Any = None,
        bias_regularizer: Any = None,
        delay_regularizer: Any = None,
        activity_regularizer: Any = None,
        depthwise_constraint: Any = None,
        bias_constraint: Any = None,
        width: float = 0.8,
        train_width: bool = False,
        normalize_kernel: bool = False,
        return_state: bool = False,
        stateful: bool = False,
        **kwargs: Any,
    ):
        validation.only_forwards("DelayConv1D", kwargs)
        # States must come in as they are; the layer casts its inputs itself.
        super().__init__(
            activity_regularizer=activity_regularizer, autocast=False, **kwargs
        )
        self.kernel_size = validation.positive_integer(
            "kernel_size", kernel_size
        )
        self.max_delay = validation.positive_integer("max_delay", max_delay)
        self.interpolation = validation.one_of(
            "interpolation", interpolation, ("linear", "integer", "gaussian")
        )
        if interpolation != "gaussian" and (
            train_width or normalize_kernel or width != DEFAULT_WIDTH
        ):
            raise ValueError(
                "`width`, `train_width` and `normalize_kernel` belong to "
                "interpolation='gaussian'; other taps have no width. "
                f"Received: interpolation={interpolation!r}, width={width}, "
                f"train_width={train_width}, "
                f"normalize_kernel={normalize_kernel}"
            )
        self.delay_regularizer = keras.regularizers.get(delay_regularizer)
        if interpolation == "integer" and not isinstance(
            self.delay_regularizer, (DelayLength, type(None))
        ):
            raise ValueError(
                "`delay_regularizer` moves delays by gradient, and those of "
                "interpolation='integer' have none. Only DelayLength has a "
                "meaning for them: a price where taps are regrown. "
                f"Received: delay_regularizer={delay_regularizer!r}"
            )
        validation.number("width", width, NARROWEST)
        self.activation = activations.get(activation, "activation")
        self.use_bias = use_bias
        self.depthwise_initializer = initializers.get(
            depthwise_initializer, "depthwise_initializer"
        )
        self.bias_initializer = initializers.get(
            bias_initializer, "bias_initializer"
        )
        if isinstance(delay_initializer, str) and delay_initializer == "even":
            delay_initializer = initializers.EvenDelays(self.max_delay)
        self.delay_initializer = initializers.get(
            delay_initializer, "delay_initializer"
        )
        self.depthwise_regularizer = keras.regularizers.get(
            depthwise_regularizer
        )
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.depthwise_constraint = keras.constraints.get(depthwise_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.width = width
        self.train_width = train_width
        self.normalize_kernel = normalize_kernel
        self.return_state = return_state
        self.stateful = bool(stateful)
        self._probe = None
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels is None:
            raise ValueError(
                "DelayConv1D needs to know its number of channels. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: channels})
        shape = (self.kernel_size, channels)
        # In half precision too: few numbers, and delays must stay exact.
        unrounded = {"dtype": self.state_dtype, "autocast": False}
        self.kernel = self.add_weight(
            name="kernel",
            shape=shape,
            initializer=self.depthwise_initializer,
            regularizer=self.depthwise_regularizer,
            constraint=self.depthwise_constraint,
            **unrounded,
        )
        self._delays = self.add_weight(
            name="delays",
            shape=shape,
            initializer=self._initial_delays,
            regularizer=self._delay_loss if self.delay_regularizer else None,
            constraint=_Within(0.0, self.max_delay / UNIT),
            trainable=self.interpolation != "integer",
            **unrounded,
        )
        self._width = None
        if self.interpolation == "gaussian":
            self._width = self.add_weight(
                name="width",
                shape=shape,
                initializer=keras.initializers.Constant(self.width),
                constraint=_Within(NARROWEST, float("inf")),
                trainable=self.train_width,
                **unrounded,
            )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(channels,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
                **unrounded,
            )
        if self.stateful:
            self._make_states(input_shape[0])

    def _initial_delays(self, shape, dtype=None):
        steps = self.delay_initializer(shape, dtype=dtype)
        if self.interpolation == "integer":
            steps = ops.round(steps)
        return ops.clip(steps, 0, self.max_delay) / UNIT

    def _delay_loss(self, stored):
        """The regularizer of the weight: in steps, clipped as they are read."""
        steps = UNIT * ops.convert_to_tensor(stored)
        return self.delay_regularizer(
            delay_taps.keep_within(steps, self.max_delay)
        )

    def _clipped_delays(self):
        # Clipped here as well as by the constraint, so that optimisers that
        # know no constraints are safe.
        steps = UNIT * ops.convert_to_tensor(self._delays)
        if self.interpolation == "integer":
            return ops.clip(ops.round(steps), 0, self.max_delay)
        return delay_taps.keep_within(steps, self.max_delay)

    def _taps(self):
        """Taps at whole delays: `(weights, delays)`; not for Gaussians."""
        kernel = ops.convert_to_tensor(self.kernel)
        delays = self._clipped_delays()
        if self.interpolation == "integer":
            return kernel, ops.cast(delays, "int32")
        return delay_taps.between_steps(kernel, delays, self.max_delay)

    def dense_kernel(self) -> Any:
        """The kernel over every delay, `(max_delay + 1, channels)`.

        Entry n multiplies `x[t - n]`; a sparse layer has zeros in it.
        """
        if self.interpolation != "gaussian":
            return delay_taps.materialise(*self._taps(), self.max_delay)
        return delay_taps.gaussian_kernel(
            ops.convert_to_tensor(self.kernel),
            self._clipped_delays(),
            # Not `maximum`, which on PyTorch would round to float32.
            ops.clip(self._width, NARROWEST, float("inf")),
            self.max_delay,
            self.normalize_kernel,
        )

    def longest_delays(self) -> np.ndarray:
        """The longest delay each channel reads, in steps, `(channels,)`.

        A tap of weight 0 reads nothing; a channel without taps has 0.
        """
        used = ops.convert_to_numpy(self.dense_kernel()) != 0
        steps = np.arange(len(used))[:, None]
        return np.max(used * steps, axis=0)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step: each entry of the kernel in use."""
        return int(np.count_nonzero(ops.convert_to_numpy(self.dense_kernel())))

    def call(self, inputs, initial_state=None, mask=None):
        validation.sequences("inputs", inputs, mask)
        x = self._cast(inputs)
        if mask is not None:
            x = ops.where(ops.expand_dims(mask, -1), x, ops.zeros_like(x))
        (line,) = self._states_to_start_from(initial_state, x)
        x = ops.concatenate([line, x], axis=1)
        if self.interpolation == "gaussian":
            outputs = delay_taps.wide_sum(x, self.dense_kernel())
        else:
            outputs = delay_taps.tapped_sum(x, *self._taps(), self.max_delay)
        if self._probe is not None:
            outputs = outputs + delay_taps.fft_sum(x, self._probe.kernel)
            self._probe.seen.append(
                delay_taps.autocorrelation(x, self.max_delay)
            )
        line = x[:, -self.max_delay :]
        self._carry([line])
        outputs = self._finish(outputs)
        return (outputs, line) if self.return_state else outputs

    @contextlib.contextmanager
    def probing(self, kernel: Any) -> Iterator[list[Any]]:
        """Within it, calls add the sum of a dense kernel over every delay.

        A kernel of zeros changes nothing, and the gradient with respect to it
        tells at which delay a tap would help.

        Args:
            kernel: `(max_delay + 1, channels)`.

        Yields:
            A list to which each call adds the autocorrelation of its input,
            of the kernel's shape.
        """
        # In an object of its own: Keras would copy a bare list.
        self._probe = _Probe(kernel)
        try:
            yield self._probe.seen
        finally:
            self._probe = None

    def _cast(self, x):
        """What the compute dtype leaves of `x`, for sums in float32."""
        return ops.cast(ops.cast(x, self.compute_dtype), self.state_dtype)

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream: `(batch, channels)` to `(y_t, states)`."""
        (line,) = states
        x_t = ops.expand_dims(self._cast(x_t), 1)
        window = ops.concatenate([line, x_t], axis=1)
        if self.interpolation == "gaussian":
            kernel = ops.flip(self.dense_kernel(), axis=0)
            y_t = ops.sum(ops.expand_dims(kernel, 0) * window, axis=1)
        else:
            y_t = delay_taps.tapped_step(window, *self._taps())
        return self._finish(y_t), [window[:, 1:]]

    def _finish(self, outputs):
        if self.use_bias:
            outputs = ops.add(outputs, self.bias)
        return self.activation(ops.cast(outputs, self.compute_dtype))

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        shape = (self.max_delay, self.kernel.shape[-1])
        return [("delay_line", shape, "delay_line")]

    def compute_output_shape(self, input_shape):
        if self.return_state:
            batch, _, channels = input_shape
            return input_shape, (batch, self.max_delay, channels)
        return input_shape

    def compute_output_spec(self, inputs, initial_state=None, mask=None):
        validation.sequences("inputs", inputs, mask)
        self._check_batch(inputs)
        if initial_state is not None:
            self._check_given(initial_state, inputs)
        y = keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)
        if not self.return_state:
            return y
        _, line = self.compute_output_shape(inputs.shape)
        return y, keras.KerasTensor(line, dtype=self.state_dtype)

    def compute_mask(self, inputs, mask=None):
        mask = mask[0] if isinstance(mask, list) else mask
        return [mask, None] if self.return_state else mask

    def get_config(self):
        config = constructor_arguments(
            self,
            "kernel_size",
            "max_delay",
            "interpolation",
            "activation",
            "use_bias",
            "depthwise_initializer",
            "bias_initializer",
            "delay_initializer",
            "depthwise_regularizer",
            "bias_regularizer",
            "delay_regularizer",
            "activity_regularizer",
            "depthwise_constraint",
            "bias_constraint",
            "width",
            "train_width",
            "normalize_kernel",
            "return_state",
            "stateful",
        )
        return {**super().get_config(), **config}

"""The mGRADE layer: delayed taps, a minGRU and a small MLP, with skips."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mgrade import activations, initializers, validation
from keras_mgrade.layers.carried_state import HasState
from keras_mgrade.layers.config import constructor_arguments
from keras_mgrade.layers.mgrade_parts import TAPS, MGradeParts
from keras_mgrade.layers.pointwise import apply_pointwise, as_one_matrix
from keras_mgrade.layers.tap_weights import DEFAULT_WIDTH


def _of_taps(name, what):
    def get(layer):
        # Where snapping changes it.
        return getattr(layer.convolution, name, layer._taps[name])

    return property(get, doc=f"{what}; `snap_delays` changes it.")


@keras.saving.register_keras_serializable("keras_mgrade")
class MGrade(MGradeParts, HasState, keras.layers.Layer):
    """mGRADE layer: learned delays for the near past, a minGRU for the far.

    `x = encoder(x)`, only where the input has other than `units` channels;
    `x = x + [norm](conv(x))`, a `DelayConv1D` without bias;
    `x = x + [norm]([dense](dropout(output_activation(minGRU(x)))))`;
    `x = x + MLP(norm(x))`, of widths `expansion * units` and `units`;
    `x = norm(x)`.
    The parts in brackets are the last three switches, off by default.

    With `normalization="batch"` every normalisation stands where a device
    folds it into the weights beside it: `x + norm(conv(x))`, one in front of
    the MLP, none at the end.

    Example:

    >>> layer = keras_mgrade.MGrade(16, kernel_size=4, max_delay=32)
    >>> layer(np.zeros((2, 100, 3), "float32")).shape
    (2, 100, 16)

    Args:
        units: Positive integer, channels of the layer and of its output.
        kernel_size: Positive integer, taps a channel.
        max_delay: Positive integer, the longest delay, in steps.
        interpolation: `"linear"`, `"integer"` or `"gaussian"`, see
            `DelayConv1D`. Defaults to `"linear"`.
        expansion: Width of the MLP, in units; need not be whole, if its
            product with `units` is. Defaults to `2`.
        activation: Activation inside the MLP. Defaults to `"relu"`.
        normalization: `"layer"`, `"batch"` or `None`. Defaults to
            `"layer"`.
        candidate_activation: Activation of the minGRU's candidate. Defaults
            to `None` (linear).
        recurrent_activation: Activation of the minGRU's gate. Defaults to
            `"sigmoid"`.
        output_activation: Activation of the minGRU's output. Defaults to
            `None`.
        use_convolution: Whether the convolution is there. Without it the
            sizes, interpolation and initializers of its taps say nothing, so
            that this one word makes an ablation. Defaults to `True`.
        use_recurrence: Whether the minGRU is there; without it, likewise,
            its activations and dropout. Defaults to `True`.
        convolution_on_input: `encoder(x + conv(x))` instead: the delay line
            then holds raw channels, which is cheap where these are few.
            Defaults to `False`.
        convolution_norm: Whether the convolution's output is normalised.
            Defaults to `False`; always so with `normalization="batch"`.
        recurrence_norm: Whether the minGRU's output is normalised. Defaults
            to `False`.
        recurrence_dense: Whether the minGRU's output passes a Dense layer.
            Defaults to `False`.
        dropout: Fraction of the minGRU's outputs to drop. Defaults to `0.0`.
        kernel_initializer: Initializer of every matrix. Defaults to
            `"glorot_uniform"`.
        depthwise_initializer: Initializer of the convolution's kernel.
            Defaults to `"lecun_uniform"`.
        delay_initializer: Initializer of the delays, in steps. Defaults to
            `"even"`.
        gate_bias_initializer: Initializer of the gate's bias. Defaults to
            `"uniform_gate"`.
        delay_regularizer: Regularizer of the delays, in steps, see
            `regularizers.DelayLength`. Defaults to `None`.
        width: Standard deviation of a Gaussian tap, in steps. Defaults to
            `0.8`. This and the next two only for `"gaussian"`.
        train_width: Whether the widths are trained. Defaults to `False`.
        normalize_kernel: Whether each Gaussian is scaled to a sum of 1.
            Defaults to `False`.
        seed: Seed of the dropout. Defaults to `None`.
        return_state: Whether to return the states too. Defaults to `False`.
        stateful: Whether delay line and state are where the next call starts,
            for each row of the batch. Needs a known batch size. Defaults to
            `False`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, time, channels)`; time may vary between calls.
        initial_state: A list as `return_state` gives it: delay line, then
            minGRU state. Defaults to `None`, which is zeros.
        mask: Boolean, `(batch, time)`.
        training: Whether dropout is applied.

    Input shape:
        `(batch, time, channels)`.

    Output shape:
        `(batch, time, units)`; with `return_state=True` followed by the
        states.

    Raises:
        ValueError: If an argument is out of range, or neither convolution
            nor recurrence is left.

    Reference:
        [mGRADE](https://arxiv.org/abs/2507.01829)
    """

    def __init__(
        self,
        units: int,
        kernel_size: int,
        max_delay: int,
        interpolation: str = "linear",
        expansion: float = 2,
        activation: Any = "relu",
        normalization: str | None = "layer",
        candidate_activation: Any = None,
        recurrent_activation: Any = "sigmoid",
        output_activation: Any = None,
        use_convolution: bool = True,
        use_recurrence: bool = True,
        convolution_on_input: bool = False,
        convolution_norm: bool = False,
        recurrence_norm: bool = False,
        recurrence_dense: bool = False,
        dropout: float = 0.0,
        kernel_initializer: Any = "glorot_uniform",
        depthwise_initializer: Any = "lecun_uniform",
        delay_initializer: Any = "even",
        gate_bias_initializer: Any = "uniform_gate",
        delay_regularizer: Any = None,
        width: float = DEFAULT_WIDTH,
        train_width: bool = False,
        normalize_kernel: bool = False,
        seed: int | None = None,
        return_state: bool = False,
        stateful: bool = False,
        **kwargs: Any,
    ):
        validation.only_forwards("MGrade", kwargs)
        # States must come in as they are; the layer casts its inputs itself.
        super().__init__(autocast=False, **kwargs)
        self.units = validation.positive_integer("units", units)
        # Checked here as well, for a layer that has no convolution.
        self.kernel_size = validation.positive_integer(
            "kernel_size", kernel_size
        )
        self.max_delay = validation.positive_integer("max_delay", max_delay)
        self._taps = {
            "interpolation": validation.one_of(
                "interpolation",
                interpolation,
                ("linear", "integer", "gaussian"),
            ),
            "delay_regularizer": keras.regularizers.get(delay_regularizer),
            "width": width,
            "train_width": train_width,
            "normalize_kernel": normalize_kernel,
        }
        self.expansion = validation.number("expansion", expansion, 0.0)
        self._hidden = self._check_expansion()
        self.activation = activations.get(activation, "activation")
        self.normalization = validation.one_of(
            "normalization", normalization, ("layer", "batch", None)
        )
        self.candidate_activation = activations.get(
            candidate_activation, "candidate_activation"
        )
        self.recurrent_activation = activations.get(
            recurrent_activation, "recurrent_activation"
        )
        self.output_activation = activations.get(
            output_activation, "output_activation"
        )
        self.use_convolution = use_convolution
        self.use_recurrence = use_recurrence
        self.convolution_on_input = convolution_on_input
        self.convolution_norm = convolution_norm
        self.recurrence_norm = recurrence_norm
        self.recurrence_dense = recurrence_dense
        self.dropout = validation.fraction("dropout", dropout)
        self.kernel_initializer = initializers.get(
            kernel_initializer, "kernel_initializer"
        )
        self.depthwise_initializer = initializers.get(
            depthwise_initializer, "depthwise_initializer"
        )
        if isinstance(delay_initializer, str) and delay_initializer == "even":
            delay_initializer = initializers.EvenDelays(max_delay)
        self.delay_initializer = initializers.get(
            delay_initializer, "delay_initializer"
        )
        self.gate_bias_initializer = initializers.get(
            gate_bias_initializer, "gate_bias_initializer"
        )
        self.seed = seed
        self.return_state = return_state
        self._stateful = bool(stateful)
        self._check_switches()
        self.supports_masking = True
        self.input_spec = keras.layers.InputSpec(ndim=3)
        self._make_convolution()
        self._make_recurrence()
        self._make_mlp()

    def compose(self, x: Any, apply: Callable[[Any, Any], Any]) -> Any:
        """The layer's data flow, defined once.

        Args:
            x: The input: a sequence, one step of it, or a node of a graph.
            apply: How a part is applied to any of these,
                `apply(part, x) -> y`.

        Returns:
            The output, of the same kind as `x`.
        """

        def branch(x, *parts):
            for part in parts:
                x = x if part is None else apply(part, x)
            return x

        convolution = (self.convolution, self.convolution_normalization)
        if self.convolution_on_input:
            x = x + branch(x, *convolution)
        x = branch(x, self.encoder)
        if self.use_convolution and not self.convolution_on_input:
            x = x + branch(x, *convolution)
        if self.use_recurrence:
            x = x + branch(
                x,
                self.recurrence,
                self.recurrence_output,
                self.recurrence_dropout,
                self.recurrence_projection,
                self.recurrence_normalization,
            )
        x = x + branch(
            x, self.mlp_normalization, self.mlp_expansion, self.mlp_projection
        )
        return branch(x, self.output_normalization)

    def call(self, inputs, initial_state=None, mask=None, training=None):
        validation.sequences("inputs", inputs, mask)
        stateful_parts = self._stateful_parts()
        given = self._one_each(initial_state)
        given, reached = iter(given), []
        if mask is not None:
            # Selected before any product: a NaN behind a mask must not reach
            # a gradient.
            selected = ops.expand_dims(mask, -1)
            inputs = ops.where(selected, inputs, ops.zeros_like(inputs))
        inputs = ops.cast(inputs, self.compute_dtype)

        def apply(part, x):
            if part in stateful_parts:
                x, state = part(x, initial_state=next(given), mask=mask)
                reached.append(state)
                return x
            if isinstance(part, keras.layers.BatchNormalization):
                return part(x, training=training, mask=mask)
            if isinstance(part, keras.layers.Dropout):
                return part(x, training=training)
            if isinstance(part, keras.layers.Dense):
                return as_one_matrix(part, x)
            return part(x)

        outputs = self.compose(inputs, apply)
        return (outputs, *reached) if self.return_state else outputs

    def _one_each(self, states):
        """One state, or `None`, for each part that has one."""
        parts = self._stateful_parts()
        if states is None:
            return [None] * len(parts)
        if not isinstance(states, (list, tuple)):
            states = [states]
        if len(states) != len(parts):
            raise ValueError(
                f"`initial_state` must be a list of {len(parts)} states, as "
                "`return_state` gives it. "
                f"Received: len(initial_state)={len(states)}"
            )
        return states

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream: `(batch, channels)` to `(y_t, states)`."""
        stateful_parts = self._stateful_parts()
        given, reached = iter(states), []

        def apply(part, x):
            if part not in stateful_parts:
                return apply_pointwise(part, x)
            x, state = part.step(x, [next(given)])
            reached.extend(state)
            return x

        return self.compose(ops.cast(x_t, self.compute_dtype), apply), reached

    @property
    def stateful(self) -> bool:
        """Whether the states are carried from call to call."""
        return self._stateful

    @stateful.setter
    def stateful(self, value):
        self._stateful = bool(value)
        for part in self._stateful_parts():
            part.stateful = self._stateful

    interpolation = _of_taps("interpolation", "How taps read between steps")
    delay_regularizer = _of_taps("delay_regularizer", "What a delay costs")
    width = _of_taps("width", "Standard deviation of Gaussian taps, in steps")
    train_width = _of_taps("train_width", "Whether the widths are trained")
    normalize_kernel = _of_taps(
        "normalize_kernel", "Whether each Gaussian has a sum of 1"
    )

    def snap_delays(self) -> float:
        """As `DelayConv1D.snap_delays`, for the layer's convolution."""
        return (
            0.0 if self.convolution is None else self.convolution.snap_delays()
        )

    def _stateful_parts(self):
        parts = (self.convolution, self.recurrence)
        return [part for part in parts if part is not None]

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return [s for part in self._stateful_parts() for s in part.state_specs]

    @property
    def states(self) -> list[Any] | None:
        """The carried states of a stateful layer, once it is built."""
        parts = self._stateful_parts()
        if not self.stateful or not self.built:
            return None
        return [state for part in parts for state in part.states]

    def reset_state(self, states: Any = None) -> None:
        """Puts a stateful layer's states to zero, or to `states`.

        Args:
            states: Arrays as `return_state=True` gives them. Defaults to
                `None`, which is zeros.
        """
        parts = self._stateful_parts()
        for part, state in zip(parts, self._one_each(states), strict=True):
            part.reset_state(state)

    def reset_states(self, states: Any = None) -> None:
        """The same under the name that it has in older scripts."""
        self.reset_state(states)

    def compute_output_shape(self, input_shape):
        batch, time, channels = input_shape
        outputs = (batch, time, self.units)
        if not self.return_state:
            return outputs
        states = []
        if self.use_convolution:
            width = channels if self.convolution_on_input else self.units
            states.append((batch, self.max_delay, width))
        if self.use_recurrence:
            states.append((batch, self.units))
        return outputs, *states

    def compute_output_spec(
        self, inputs, initial_state=None, mask=None, training=None
    ):
        validation.sequences("inputs", inputs, mask)
        parts, given = self._stateful_parts(), self._one_each(initial_state)
        for part, state in zip(parts, given, strict=True):
            part._check_batch(inputs)
            if state is not None:
                part._check_given(state, inputs)
        shape = self.compute_output_shape(inputs.shape)
        if not self.return_state:
            return keras.KerasTensor(shape, dtype=self.compute_dtype)
        y, *states = shape
        return (
            keras.KerasTensor(y, dtype=self.compute_dtype),
            *(keras.KerasTensor(s, dtype=self.state_dtype) for s in states),
        )

    def compute_mask(self, inputs, mask=None):
        mask = mask[0] if isinstance(mask, list) else mask
        if not self.return_state:
            return mask
        return [mask] + [None] * len(self._stateful_parts())

    def get_config(self):
        config = constructor_arguments(
            self,
            "units",
            "kernel_size",
            "max_delay",
            "expansion",
            "activation",
            "normalization",
            "candidate_activation",
            "recurrent_activation",
            "output_activation",
            "use_convolution",
            "use_recurrence",
            "convolution_on_input",
            "convolution_norm",
            "recurrence_norm",
            "recurrence_dense",
            "dropout",
            "kernel_initializer",
            "depthwise_initializer",
            "delay_initializer",
            "gate_bias_initializer",
            *TAPS,
            "seed",
            "return_state",
            "stateful",
        )
        return {**super().get_config(), **config}

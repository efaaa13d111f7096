"""The minGRU: a GRU whose gates read the input only.

`z = sigmoid(x Wz + bz)`, `c = activation(x Wc + bc)`,
`h = h_prev + z * (c - h_prev)`. Nothing in `z` and `c` waits for `h`, so a
whole sequence is one matrix product and one linear recurrence, and a single
step is the same two lines.
"""

import math
from typing import Any

import keras
from keras import ops
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from keras_mgrade import initializers, validation
from keras_mgrade.layers.config import constructor_arguments
from keras_mgrade.ops.linear_recurrence import linear_recurrence

# What a GRU user may still have in a script, and what to write instead.
_GRU_ONLY = {
    "unroll": "its loop is a kernel of its own: leave it out",
    "use_cudnn": "its loop is a kernel of its own: leave it out",
    "reset_after": "a minGRU has no reset gate: leave it out",
    "recurrent_dropout": "a minGRU has no recurrent kernel: use `dropout`",
    "recurrent_initializer": "a minGRU has no recurrent kernel: leave it out",
    "recurrent_regularizer": "a minGRU has no recurrent kernel: leave it out",
    "recurrent_constraint": "a minGRU has no recurrent kernel: leave it out",
}


# `DropoutRNNCell` is how `keras.layers.RNN` knows that a cell draws one mask
# for all steps; Keras does not export it, GRUCell is built on it.
@keras.saving.register_keras_serializable("keras_mgrade")
class MinGRUCell(keras.layers.Layer, DropoutRNNCell):
    """One step of a `MinGRU`, for `keras.layers.RNN` and for loops.

    `z = recurrent_activation(x Wz + bz)`, `c = activation(x Wc + bc)`,
    `h = h_prev + z * (c - h_prev)`.

    Example:

    >>> rnn = keras.layers.RNN(keras_mgrade.MinGRUCell(4))
    >>> rnn(np.zeros((2, 10, 3), "float32")).shape
    (2, 4)

    Args:
        units: Positive integer, size of the output and of the state.
        activation: Activation of the candidate. Defaults to `None` (linear;
            a GRU uses tanh).
        recurrent_activation: Activation of the gate. Defaults to
            `"sigmoid"`.
        use_bias: Whether gate and candidate have biases. Defaults to `True`.
        kernel_initializer: Initializer of the kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: Initializer of the candidate's bias. Defaults to
            `"zeros"`.
        gate_bias_initializer: Initializer of the gate's bias. Defaults to
            `"uniform_gate"`, `keras_mgrade.initializers.UniformGate`.
        kernel_regularizer: Regularizer of the kernel. Defaults to `None`.
        bias_regularizer: Regularizer of the bias. Defaults to `None`.
        kernel_constraint: Constraint of the kernel. Defaults to `None`.
        bias_constraint: Constraint of the bias. Defaults to `None`.
        dropout: Fraction of the inputs to drop, the same ones at every step.
            Defaults to `0.0`.
        seed: Seed of the dropout. Defaults to `None`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, features)`.
        states: The state, `(batch, units)`, or a list of it.
        training: Whether dropout is applied.

    Weights:
        kernel: `(features, 2 * units)`, gate first, candidate second.
        bias: `(2 * units,)`, in the same order.

    Reference:
        [Feng et al., 2024](https://arxiv.org/abs/2410.01201)
    """

    recurrent_dropout = 0.0

    def __init__(
        self,
        units: int,
        activation: Any = None,
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        gate_bias_initializer: Any = "uniform_gate",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        validation.full_precision(self)
        self.units = validation.positive_integer("units", units)
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.gate_bias_initializer = initializers.get(gate_bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout = validation.fraction("dropout", dropout)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.state_size = self.units
        self.output_size = self.units

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], 2 * self.units),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(2 * self.units,),
                initializer=self._initial_bias,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _initial_bias(self, shape, dtype=None):
        half = (self.units,)
        return ops.concatenate(
            [
                self.gate_bias_initializer(half, dtype=dtype),
                self.bias_initializer(half, dtype=dtype),
            ]
        )

    def gates(self, x: Any) -> tuple[Any, Any]:
        """Gate and candidate of a step or of a whole sequence."""
        # The operator and not `ops.matmul`, which on PyTorch computes float64
        # in float32.
        kernel = ops.convert_to_tensor(self.kernel)
        projection = ops.cast(x, kernel.dtype) @ kernel
        if self.use_bias:
            projection = ops.add(projection, self.bias)
        z = self.recurrent_activation(projection[..., : self.units])
        return z, self.activation(projection[..., self.units :])

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step, without dropout: `(batch, features)` to `(y_t, states)`."""
        (h,) = states
        z, candidate = self.gates(x_t)
        h = h + z * (candidate - h)
        return h, [h]

    def call(self, inputs, states, training=False):
        nested = isinstance(states, (list, tuple))
        if training and self.dropout:
            inputs = inputs * self.get_dropout_mask(inputs)
        output, states = self.step(inputs, list(states) if nested else [states])
        return output, states if nested else states[0]

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Zeros: every sequence and every stream starts from nothing."""
        return [ops.zeros((batch_size, self.units), dtype=self.compute_dtype)]

    def get_config(self):
        config = constructor_arguments(
            self,
            "units",
            "activation",
            "recurrent_activation",
            "use_bias",
            "kernel_initializer",
            "bias_initializer",
            "gate_bias_initializer",
            "kernel_regularizer",
            "bias_regularizer",
            "kernel_constraint",
            "bias_constraint",
            "dropout",
            "seed",
        )
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("keras_mgrade")
class MinGRU(keras.layers.RNN):
    """Minimal gated recurrent unit: trained at once, run step by step.

    `z = recurrent_activation(x Wz + bz)`, `c = activation(x Wc + bc)`,
    `h = h_prev + z * (c - h_prev)`.

    It stands where a `keras.layers.GRU` stands. Its gate reads the input and
    not the state, so there is no recurrent kernel, and all steps of a sequence
    are one matrix product and one linear recurrence. The candidate is linear
    unless told otherwise; a GRU user may expect `activation="tanh"`, which
    also bounds the state.

    Example:

    >>> x = np.zeros((2, 10, 3), "float32")
    >>> keras_mgrade.MinGRU(4)(x).shape
    (2, 4)
    >>> layer = keras_mgrade.MinGRU(
    ...     4, return_sequences=True, return_state=True
    ... )
    >>> sequence, state = layer(x)
    >>> sequence.shape, state.shape
    ((2, 10, 4), (2, 4))

    Args:
        units: Positive integer, size of the output and of the state.
        activation: Activation of the candidate. Defaults to `None` (linear;
            a GRU uses tanh).
        recurrent_activation: Activation of the gate. Defaults to
            `"sigmoid"`.
        use_bias: Whether gate and candidate have biases. Defaults to `True`.
        kernel_initializer: Initializer of the kernel. Defaults to
            `"glorot_uniform"`.
        bias_initializer: Initializer of the candidate's bias. Defaults to
            `"zeros"`.
        gate_bias_initializer: Initializer of the gate's bias. Defaults to
            `"uniform_gate"`, `keras_mgrade.initializers.UniformGate`.
        kernel_regularizer: Regularizer of the kernel. Defaults to `None`.
        bias_regularizer: Regularizer of the bias. Defaults to `None`.
        activity_regularizer: Regularizer of the output. Defaults to `None`.
        kernel_constraint: Constraint of the kernel. Defaults to `None`.
        bias_constraint: Constraint of the bias. Defaults to `None`.
        dropout: Fraction of the inputs to drop, the same ones at every step.
            Defaults to `0.0`.
        seed: Seed of the dropout. Defaults to `None`.
        return_sequences: Whether to return every step rather than the last.
            Defaults to `False`.
        return_state: Whether to return the last state too. Defaults to
            `False`.
        go_backwards: Not available yet. Defaults to `False`.
        stateful: Not available yet. Defaults to `False`.
        zero_output_for_mask: Not available yet. Defaults to `False`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        sequences: `(batch, time, features)`; time may vary between calls.
        initial_state: `(batch, units)` or a list of it. Defaults to `None`,
            which is zero.
        mask: Boolean, `(batch, time)`. A masked step keeps the state.
        training: Whether dropout is applied.

    Input shape:
        `(batch, time, features)`.

    Output shape:
        `(batch, time, units)` with `return_sequences=True`, else
        `(batch, units)`; with `return_state=True` followed by the state,
        `(batch, units)`.

    Raises:
        ValueError: If an argument of `keras.layers.GRU` is given that has no
            meaning here, or that is not available yet.

    Reference:
        [Feng et al., 2024](https://arxiv.org/abs/2410.01201)
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        gate_bias_initializer: Any = "uniform_gate",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        **kwargs: Any,
    ):
        for name, advice in _GRU_ONLY.items():
            if name in kwargs:
                raise ValueError(
                    f"MinGRU has no argument `{name}`; {advice}. "
                    f"Received: {name}={kwargs[name]!r}"
                )
        validation.not_yet(
            "MinGRU",
            go_backwards=go_backwards,
            stateful=stateful,
            zero_output_for_mask=zero_output_for_mask,
        )
        cell = MinGRUCell(
            units,
            activation=activation,
            recurrent_activation=recurrent_activation,
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            gate_bias_initializer=gate_bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            dropout=dropout,
            seed=seed,
            dtype=kwargs.get("dtype"),
            trainable=kwargs.get("trainable", True),
            name="min_gru_cell",
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        self.input_spec = [keras.layers.InputSpec(ndim=3)]

    @property
    def units(self) -> int:
        return self.cell.units

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return [("hidden", (self.units,), "recurrent")]

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step: the projection and the update."""
        return math.prod(self.cell.kernel.shape) + self.units

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream: `(batch, features)` to `(y_t, states)`."""
        return self.cell.step(x_t, states)

    def inner_loop(self, sequences, initial_state, mask, training=False):
        cell, x = self.cell, sequences
        if mask is not None:
            mask = ops.expand_dims(mask, -1)
            # Selected, not multiplied: a NaN behind a mask must not pass,
            # neither here nor into the kernel's gradient.
            x = ops.where(mask, x, ops.zeros_like(x))
        if training and cell.dropout:
            dropped = cell.get_dropout_mask(x[:, 0])
            x = x * ops.expand_dims(dropped, 1)
        z, candidate = cell.gates(x)
        if mask is not None:
            z = ops.where(mask, z, ops.zeros_like(z))
        states, last = linear_recurrence(1 - z, z * candidate, initial_state[0])
        return last, states, [last]

    def get_config(self):
        config = super().get_config()
        for name in ("cell", "unroll"):
            del config[name]
        cell_config = self.cell.get_config()
        for name in ("name", "trainable", "dtype"):
            del cell_config[name]
        config["activity_regularizer"] = keras.regularizers.serialize(
            self.activity_regularizer
        )
        return {**config, **cell_config}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

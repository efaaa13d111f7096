"""The minGRU: a GRU whose gates read the input only.

`z = sigmoid(x Wz + bz)`, `c = activation(x Wc + bc)`,
`h = h_prev + z * (c - h_prev)`. Nothing in `z` and `c` waits for `h`, so a
whole sequence is one matrix product and one linear recurrence, and a single
step is the same two lines.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_mgrade import validation
from keras_mgrade.layers.carried_state import CarriedState
from keras_mgrade.layers.min_gru_cell import MinGRUCell
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


def _of_cell(name):
    return property(lambda layer: getattr(layer.cell, name))


class _Watch:
    def __init__(self):
        self.seen = []

    def note(self, z, mask):
        counts = ops.ones_like(z) if mask is None else ops.cast(mask, z.dtype)
        counts = ops.broadcast_to(counts, ops.shape(z))
        self.seen.append(
            tuple(ops.sum(a, axis=(0, 1)) for a in (z * counts, counts))
        )


@keras.saving.register_keras_serializable("keras_mgrade")
class MinGRU(CarriedState, keras.layers.RNN):
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
        go_backwards: Whether to run from the last step to the first; the
            sequence then comes out in that order. Defaults to `False`.
        stateful: Whether the last state is where the next call starts, for
            each row of the batch. Needs a known batch size. Defaults to
            `False`.
        zero_output_for_mask: Whether a masked step puts out zeros rather than
            the state it keeps; only with `return_sequences=True`. Defaults
            to `False`.
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
            meaning here, or an argument is out of range.

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
            go_backwards=go_backwards,
            stateful=stateful,
            zero_output_for_mask=zero_output_for_mask,
            autocast=False,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        self._watch = None
        self.input_spec = [keras.layers.InputSpec(ndim=3)]

    def build(self, sequences_shape, initial_state_shape=None):
        features = sequences_shape[-1]
        if features is None:
            raise ValueError(
                "MinGRU needs to know its number of input features. "
                f"Received: input_shape={tuple(sequences_shape)}"
            )
        self.input_spec = [keras.layers.InputSpec(ndim=3, axes={-1: features})]
        if not self.cell.built:
            self.cell.build((sequences_shape[0], features))
        if self.stateful:
            self._make_states(sequences_shape[0])

    # As in Keras, the cell's arguments are attributes of the layer too.
    units = _of_cell("units")
    activation = _of_cell("activation")
    recurrent_activation = _of_cell("recurrent_activation")
    use_bias = _of_cell("use_bias")
    kernel_initializer = _of_cell("kernel_initializer")
    bias_initializer = _of_cell("bias_initializer")
    gate_bias_initializer = _of_cell("gate_bias_initializer")
    kernel_regularizer = _of_cell("kernel_regularizer")
    bias_regularizer = _of_cell("bias_regularizer")
    kernel_constraint = _of_cell("kernel_constraint")
    bias_constraint = _of_cell("bias_constraint")
    dropout = _of_cell("dropout")
    seed = _of_cell("seed")

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return self.cell.state_specs

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one step: the projection and the update."""
        return math.prod(self.cell.kernel.shape) + self.units

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream: `(batch, features)` to `(y_t, states)`."""
        y_t, states = self.cell.step(x_t, states)
        return ops.cast(y_t, self.compute_dtype), states

    def call(self, sequences, initial_state=None, mask=None, training=False):
        validation.sequences("sequences", sequences, mask)
        cell = self.cell
        x = ops.cast(sequences, self.compute_dtype)
        (start,) = self._states_to_start_from(initial_state, x)
        if mask is not None:
            mask = ops.expand_dims(mask, -1)
            # Selected, not multiplied: a NaN behind a mask must not pass,
            # neither here nor into the kernel's gradient.
            x = ops.where(mask, x, ops.zeros_like(x))
        if training and cell.dropout:
            # One mask for all steps, and a new one at the next call.
            cell.reset_dropout_mask()
            dropped = cell.get_dropout_mask(x[:, 0])
            cell.reset_dropout_mask()
            x = x * ops.expand_dims(dropped, 1)
        z, candidate = (ops.cast(g, self.state_dtype) for g in cell.gates(x))
        if self._watch is not None:
            self._watch.note(z, mask)
        if mask is not None:
            z = ops.where(mask, z, ops.zeros_like(z))
        states, last = linear_recurrence(
            1 - z, z * candidate, start, reverse=self.go_backwards
        )
        self._carry([last])
        y = last
        if self.return_sequences:
            y = states
            if mask is not None and self.zero_output_for_mask:
                y = ops.where(mask, y, ops.zeros_like(y))
            if self.go_backwards:
                y = ops.flip(y, axis=1)
        y = ops.cast(y, self.compute_dtype)
        return (y, last) if self.return_state else y

    @contextlib.contextmanager
    def watching_gates(self) -> Iterator[list[Any]]:
        """Within it, calls note how far the gates were open.

        Yields:
            A list to which each call adds `(sum of the gates, how many)`,
            both `(units,)`, over samples and steps that are not masked.
        """
        # In an object of its own: Keras would copy a bare list.
        self._watch = _Watch()
        try:
            yield self._watch.seen
        finally:
            self._watch = None

    def compute_output_spec(
        self, sequences, initial_state=None, mask=None, training=False
    ):
        validation.sequences("sequences", sequences, mask)
        self._check_batch(sequences)
        if initial_state is not None:
            self._check_given(initial_state, sequences)
        shape = self.compute_output_shape(sequences.shape)
        if not self.return_state:
            return keras.KerasTensor(shape, dtype=self.compute_dtype)
        y, state = shape
        return (
            keras.KerasTensor(y, dtype=self.compute_dtype),
            keras.KerasTensor(state, dtype=self.state_dtype),
        )

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

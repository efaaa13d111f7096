"""One step of a minGRU: its weights, its gates, its dropout."""

from typing import Any

import keras
from keras import ops
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from keras_mgrade import activations, initializers, validation
from keras_mgrade.layers.carried_state import HasState
from keras_mgrade.layers.config import constructor_arguments
from keras_mgrade.layers.pointwise import as_one_matrix


# `DropoutRNNCell` is how `keras.layers.RNN` knows that a cell draws one mask
# for all steps; Keras does not export it, GRUCell is built on it.
@keras.saving.register_keras_serializable("keras_mgrade")
class MinGRUCell(HasState, keras.layers.Layer, DropoutRNNCell):
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
        # States must come in as they are; the cell casts its inputs itself.
        super().__init__(autocast=False, **kwargs)
        self.units = validation.positive_integer("units", units)
        self.activation = activations.get(activation, "activation")
        self.recurrent_activation = activations.get(
            recurrent_activation, "recurrent_activation"
        )
        self.use_bias = use_bias
        self.kernel_initializer = initializers.get(
            kernel_initializer, "kernel_initializer"
        )
        self.bias_initializer = initializers.get(
            bias_initializer, "bias_initializer"
        )
        self.gate_bias_initializer = initializers.get(
            gate_bias_initializer, "gate_bias_initializer"
        )
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
        # One object given for both would give both halves the same values.
        candidate = initializers.clone(self.bias_initializer, part=1)
        return ops.concatenate(
            [
                self.gate_bias_initializer(half, dtype=dtype),
                candidate(half, dtype=dtype),
            ]
        )

    def gates(self, x: Any) -> tuple[Any, Any]:
        """Gate and candidate of a step or of a whole sequence."""
        projection = as_one_matrix(self._project, self._cast(x))
        # Split and not sliced: the gradient of a slice is a padded array.
        z, candidate = ops.split(projection, 2, axis=-1)
        return self.recurrent_activation(z), self.activation(candidate)

    def _project(self, x):
        # The operator and not `ops.matmul`, which on PyTorch computes float64
        # in float32.
        projection = x @ self._cast(self.kernel)
        if self.use_bias:
            projection = ops.add(projection, self._cast(self.bias))
        return projection

    def _cast(self, x):
        return ops.cast(x, self.compute_dtype)

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return [("hidden", (self.units,), "recurrent")]

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step, without dropout: `(batch, features)` to `(y_t, states)`.

        The state is computed in at least float32 and comes out in the dtype
        that it came in.
        """
        given = ops.convert_to_tensor(states[0])
        z, candidate, h = (
            ops.cast(x, self.state_dtype) for x in (*self.gates(x_t), given)
        )
        h = ops.cast(h + z * (candidate - h), given.dtype)
        return h, [h]

    def call(self, inputs, states, training=False):
        nested = isinstance(states, (list, tuple))
        inputs = self._cast(inputs)
        if training and self.dropout:
            inputs = inputs * self.get_dropout_mask(inputs)
        output, states = self.step(inputs, list(states) if nested else [states])
        return output, states if nested else states[0]

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

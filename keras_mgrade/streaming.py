"""A trained sequence model as a stream: one sample in, one answer out.

After t steps the output of the stream is the last time step of the same
weights run on `x[:, :t]`. A stream is a functional Keras model whose nodes
are `Step` layers around the model's own layers; its inputs are the model's
inputs and then the states, its outputs the model's outputs and then the new
states.
"""

import re
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mgrade import validation
from keras_mgrade.layers.pointwise import apply_pointwise, why_not_pointwise
from keras_mgrade.ops import kernels


@keras.saving.register_keras_serializable("keras_mgrade")
class Step(keras.layers.Layer):
    """One time step of `layer`, its states as further inputs and outputs.

    Args:
        layer: A layer with `step` and `state_specs`, or one that treats all
            time steps alike.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: `x_t`, `(batch, channels)`, or the list of `x_t` (several for
            a layer of several inputs) followed by the states.

    Output shape:
        `y_t`, or with states the list of `y_t` followed by the new states.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        # The layer's own precision, not the global policy's.
        super().__init__(**{"dtype": layer.dtype_policy, **kwargs})
        self.layer = layer

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return getattr(self.layer, "state_specs", [])

    def build(self, input_shape):
        pass

    def call(self, inputs):
        count = len(self.state_specs)
        if not count:
            return self.run(inputs, [])[0]
        y_t, states = self.run(inputs[0], list(inputs[1:]))
        return [y_t, *states]

    def run(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """The step itself; a device form overrides this."""
        if hasattr(self.layer, "step"):
            return self.layer.step(x_t, states)
        return apply_pointwise(self.layer, x_t), []

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


def streaming_model(model: keras.Model, batch_size: int = 1) -> keras.Model:
    """Makes the step model of a trained sequence model, sharing its weights.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((None, 3)),
    ...     keras_mgrade.MinGRU(4, name="gru"),
    ...     keras.layers.Dense(2),
    ... ])
    >>> stream = keras_mgrade.streaming_model(model)
    >>> [tensor.name for tensor in stream.inputs][1:]
    ['gru__0__hidden']
    >>> step = keras_mgrade.compile_step(stream)
    >>> states = keras_mgrade.initial_states(stream)
    >>> y, states = step(np.zeros((1, 3), "float32"), states)
    >>> y.shape
    (1, 2)

    Args:
        model: A built `Sequential` or functional model, also nested and with
            several inputs or outputs. Layers take part by having `step`,
            `state_specs` and `get_initial_state`, or by treating all time
            steps alike (`Dense`, normalisations, activations, sums, ...).
        batch_size: How many streams run side by side. Defaults to `1`.

    Returns:
        A functional model. Inputs, one flat list: the model's inputs without
        their time axis, then the states in graph order; outputs likewise. A
        state's name is the path of its layer, the number of the layer's call
        and the name of the state, joined by `__`.

    Raises:
        ValueError: If a layer cannot run as a stream; it is named, with the
            reason and the way out.
    """
    return build_stream(model, batch_size, Step)


def build_stream(
    model: keras.Model, batch_size: int, make_step: Callable[..., Step]
) -> keras.Model:
    """`streaming_model` with steps made by `make_step(layer, name=name)`."""
    batch_size = validation.positive_integer("batch_size", batch_size)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "`model` must be a Sequential or functional model whose input "
            "shape is known; start a Sequential with keras.Input((None, "
            "channels)), and write a subclassed model as a functional one. "
            f"Received: model={model!r}"
        )
    walk = _Walk(batch_size, make_step)
    walk.names.update(x.name for x in model.inputs)
    inputs = [walk.input(x) for x in model.inputs]
    if not walk.timed:
        shapes = [x.shape for x in model.inputs]
        raise ValueError(
            "`model` must have an input with a time axis: "
            "keras.Input((None, channels)), or keras.Input((None,)) for "
            f"tokens. Received: inputs of shape {shapes}"
        )
    outputs = keras.tree.flatten(walk.model(model, inputs, ()))
    return keras.Model(
        inputs + walk.states,
        outputs + walk.new_states,
        name=f"{model.name}_stream",
    )


class _Walk:
    """One pass over a model's graph that rebuilds it for one time step."""

    def __init__(self, batch_size, make_step):
        self.batch_size = batch_size
        self.make_step = make_step
        self.states, self.new_states = [], []
        self.steps, self.calls, self.names = {}, {}, set()
        # Tensors of the stream that stand for a whole time axis. The list
        # keeps them alive, so that no id is used twice.
        self.timed, self.kept = set(), []

    def input(self, x):
        timed = len(x.shape) > 2 or (len(x.shape) == 2 and x.shape[1] is None)
        shape = x.shape[2:] if timed else x.shape[1:]
        tensor = keras.Input(
            batch_shape=(self.batch_size, *shape), dtype=x.dtype, name=x.name
        )
        return self._mark(tensor, timed)

    def _mark(self, tensor, timed):
        if timed:
            self.timed.add(id(tensor))
        self.kept.append(tensor)
        return tensor

    def model(self, model, inputs, path):
        def call(operation, *args, **kwargs):
            return self.node(operation, path, args, kwargs)

        graph = getattr(model, "_functional", None) or model
        # Keras's own traversal; `clone_model` uses it in the same way, but
        # refuses `call_function` for Sequential.
        return graph._run_through_graph(
            inputs, operation_fn=lambda operation: operation, call_fn=call
        )

    def node(self, operation, path, args, kwargs):
        tensors = [
            x
            for x in keras.tree.flatten((args, kwargs))
            if isinstance(x, keras.KerasTensor)
        ]
        timed = [id(x) in self.timed for x in tensors]
        here = (*path, operation.name)
        if hasattr(operation, "_run_through_graph") or hasattr(
            operation, "_functional"
        ):
            return self.model(operation, tensors, here)
        if not any(timed):
            return operation(*args, **kwargs)
        if not all(timed):
            reason = "it mixes a sequence with a tensor without time"
            _refuse(here, reason, operation)
        if hasattr(operation, "compose"):

            def apply(part, x):
                # A sum made by the layer itself has not been seen yet; states
                # that a part returns are in the graph already.
                x = self._mark(x, True)
                return keras.tree.flatten(self.node(part, here, (x,), {}))[0]

            known = len(self.new_states)
            y = self._mark(operation.compose(args[0], apply), True)
            if getattr(operation, "return_state", False):
                return [y, *self.new_states[known:]]
            return y
        if hasattr(operation, "step"):
            return self._stateful(operation, here, tensors)
        if isinstance(operation, keras.layers.Layer):
            reason = why_not_pointwise(operation, len(tensors[0].shape) + 1)
            if reason is not None:
                _refuse(here, f"it {reason}", operation)
            x = args[0] if len(args) == 1 else list(args)
            return self._mark(self._step(operation, here)(x), True)
        if not _elementwise(operation, args, kwargs):
            _refuse(here, "it is not an elementwise operation", operation)
        return self._mark(operation(*args, **kwargs), True)

    def _stateful(self, layer, path, tensors):
        if len(tensors) > 1:
            reason = "it is given an initial state inside the graph"
            _refuse(path, reason, layer)
        call = self.calls[id(layer)] = self.calls.get(id(layer), -1) + 1
        states = []
        for name, shape, _ in layer.state_specs:
            name = self._identifier((*path, str(call), name))
            shape = (self.batch_size, *shape)
            states.append(
                keras.Input(
                    batch_shape=shape, dtype=layer.compute_dtype, name=name
                )
            )
        step = self._step(layer, path)
        y, *new = keras.tree.flatten(
            step([tensors[0], *states] if states else tensors[0])
        )
        self.states += states
        self.new_states += new
        self._mark(y, _keeps_time(layer, tensors[0]))
        if getattr(layer, "return_state", False):
            return [y, *new]
        return y

    def _step(self, layer, path):
        if id(layer) not in self.steps:
            name = self._identifier(path)
            self.steps[id(layer)] = self.make_step(layer, name=name)
        return self.steps[id(layer)]

    def _identifier(self, path):
        """A valid and unused C identifier."""
        name = re.sub(r"\W", "_", "__".join(path), flags=re.ASCII)
        name = f"_{name}" if name[0].isdigit() else name
        unique, number = name, 1
        while unique in self.names:
            unique, number = f"{name}_{number}", number + 1
        self.names.add(unique)
        return unique


def _keeps_time(layer, x_t):
    shape = (x_t.shape[0], None, *x_t.shape[1:])
    sequence = keras.KerasTensor(shape, dtype=x_t.dtype)
    y = keras.tree.flatten(layer.compute_output_spec(sequence))[0]
    return len(y.shape) > 2 and y.shape[1] is None


# Operations that are elementwise whatever the rank of their arguments.
_ELEMENTWISE = {
    "Abs", "Absolute", "Add", "Clip", "Cos", "Divide", "Elu", "Exp", "Gelu",
    "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Log", "Log1p",
    "LogSigmoid", "Maximum", "Minimum", "Multiply", "Negative", "Power",
    "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin",
    "Softplus", "Softsign", "Sqrt", "Square", "Subtract", "Tanh",
    "TrueDivide",
}  # fmt: skip


def _elementwise(operation, args, kwargs):
    constants = [
        x
        for x in keras.tree.flatten((args, kwargs))
        if not isinstance(x, keras.KerasTensor)
    ]
    return type(operation).__name__ in _ELEMENTWISE and all(
        len(getattr(x, "shape", ())) <= 1 for x in constants
    )


_WAY_OUT = {
    "Bidirectional": "it needs the future; use its forward layer alone",
    "Masking": "a stream has no padding: feed valid samples only, or apply "
    "Masking outside the model that is streamed",
    "Embedding": "set mask_zero=False; a stream has no padding",
    "GlobalAveragePooling1D": "use TemporalPooling('mean'), or "
    "TemporalPooling('exponential') where the stream does not end",
    "GlobalMaxPooling1D": "use TemporalPooling, which forgets",
    "GetItem": "for the last step use TemporalPooling('last')",
    "GRU": "use MinGRU",
    "LSTM": "use MinGRU",
    "SimpleRNN": "use MinGRU",
    "RNN": "use MinGRU",
    "Conv1D": "use DelayConv1D followed by Dense",
    "SeparableConv1D": "use DelayConv1D followed by Dense",
    "DepthwiseConv1D": "use DelayConv1D",
}


def _refuse(path, reason, operation=None):
    kind = type(operation).__name__ if operation is not None else "layer"
    way_out = _WAY_OUT.get(
        kind,
        "give the layer `step`, `get_initial_state` and `state_specs`, or "
        "apply it after time is gone (TemporalPooling, "
        "return_sequences=False)",
    )
    name = "/".join(path)
    raise ValueError(
        f"Layer '{name}' cannot run as a stream because {reason}; {way_out}. "
        f"Received: {name}={operation!r}"
    )


def state_specs(
    stream: keras.Model,
) -> list[tuple[str, tuple[int, ...], str]]:
    """`(name, shape without batch, role)` of each state of a stream.

    Args:
        stream: A model made by `streaming_model`, or one loaded from a file.

    Returns:
        One entry a state, in the order of the stream's inputs. The role is
        `"recurrent"`, `"delay_line"` or `"accumulator"`.
    """
    roles = {}
    for step, states in step_calls(stream):
        for tensor, (_, *spec) in zip(states, step.state_specs, strict=True):
            roles[id(tensor)] = (tensor.name, *spec)
    return [roles[id(x)] for x in stream.inputs if id(x) in roles]


def step_calls(stream: keras.Model) -> list[tuple[Step, list[Any]]]:
    """Each call of a `Step` in a stream, with the states that enter it."""
    graph = getattr(stream, "_nodes_by_depth", {})
    calls = []
    for node in (node for nodes in graph.values() for node in nodes):
        if isinstance(node.operation, Step):
            inputs = node.input_tensors
            first_state = len(inputs) - len(node.operation.state_specs)
            calls.append((node.operation, inputs[first_state:]))
    if not calls:
        raise ValueError(
            "`stream` must be a model made by `streaming_model`. "
            f"Received: stream={stream!r}"
        )
    return calls


def initial_states(stream: keras.Model) -> list[Any]:
    """The states a stream starts from: zeros, in the stream's order.

    Args:
        stream: A model made by `streaming_model`.

    Returns:
        A list of tensors, each `(batch, ...)`.
    """
    count = len(state_specs(stream))
    states = stream.inputs[len(stream.inputs) - count :]
    return [ops.zeros(x.shape, dtype=x.dtype) for x in states]


def compile_step(
    stream: keras.Model,
) -> Callable[[Any, list[Any]], tuple[Any, list[Any]]]:
    """The fast call of a stream: `tf.function`, `jax.jit` or plain PyTorch.

    The weights are read at each call, so that training may go on meanwhile.

    Example:

    >>> stream = keras_mgrade.streaming_model(
    ...     keras.Sequential([keras.Input((None, 3)), keras_mgrade.MinGRU(4)])
    ... )
    >>> step = keras_mgrade.compile_step(stream)
    >>> states = keras_mgrade.initial_states(stream)
    >>> for sample in np.zeros((5, 1, 3), "float32"):
    ...     y, states = step(sample, states)
    >>> y.shape
    (1, 4)

    Args:
        stream: A model made by `streaming_model`.

    Returns:
        A function `step(x, states) -> (y, new_states)`. `x` and `y` are
        tensors, or lists where the model has several inputs or outputs.
    """
    count = len(state_specs(stream))
    several = len(stream.outputs) - count > 1
    call = kernels.compile_call(stream)

    def step(x, states):
        x = list(x) if isinstance(x, (list, tuple)) else [x]
        x = [ops.convert_to_tensor(value) for value in x]
        flat = keras.tree.flatten(call(x + list(states)))
        outputs, states = flat[: len(flat) - count], flat[len(flat) - count :]
        return outputs if several else outputs[0], states

    return step

"""A model's graph rebuilt for one time step.

Keras walks the model; at every node this module decides what one step of it
is, or refuses it by name, with the reason and the way out.
"""

import inspect
import re
from typing import Any

import keras
import numpy as np

from keras_mgrade.graph_walk import graph_of, is_graph, walk
from keras_mgrade.layers import keras_steps
from keras_mgrade.layers.pointwise import apply_pointwise, why_not_pointwise


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
        timeless: Whether the inputs never had a time axis: then the layer is
            applied as it is. Defaults to `False`.

    Output shape:
        `y_t`, or with states the list of `y_t` followed by the new states.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any):
        # The layer's own precision, not the global policy's.
        # States stay as they are; the layer casts its inputs itself.
        super().__init__(
            **{"dtype": layer.dtype_policy, **kwargs, "autocast": False}
        )
        self.layer = layer

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        return getattr(keras_steps.step_of(self.layer), "state_specs", [])

    def build(self, input_shape):
        pass

    def call(self, inputs, timeless=False):
        inputs = _dense(inputs)
        if timeless:
            return apply_pointwise(self.layer, inputs, timeless=True)
        if not self.state_specs:
            return self.run(inputs, [])[0]
        y_t, states = self.run(inputs[0], list(inputs[1:]))
        return [y_t, *states]

    def run(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """The step itself; a device form overrides this."""
        stepped = keras_steps.step_of(self.layer)
        if stepped is not None:
            return stepped.step(x_t, states)
        return apply_pointwise(self.layer, x_t), []

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


def _dense(x):
    # Not `keras.tree`, which would flatten and rebuild at every step.
    if isinstance(x, dict):
        return {key: _dense(value) for key, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_dense(value) for value in x]
    # Keras takes the product of a number and a tensor for sparse.
    return keras.ops.convert_to_tensor(x, sparse=False)


class StepGraph:
    """One pass over a model's graph that rebuilds it for one time step.

    Args:
        batch_size: How many streams run side by side.
        reserved: Names that are taken, those of the model's inputs.

    Attributes:
        states: The state inputs, in graph order.
        new_states: The states that come out, in the same order.
        steps: The `Step` made for each layer, by the layer's id.
        timed: Ids of the tensors that stand for a whole time axis.
    """

    def __init__(self, batch_size: int, reserved: list[str]):
        self.batch_size = batch_size
        self.states, self.new_states, self.steps = [], [], {}
        self.timed = set()
        self._calls, self._operations, self._replacements = {}, {}, {}
        self._padded = {}  # From the id of a tensor to its zeros in front.
        self._names, self._named = set(reserved), set()
        self._kept = []  # Tensors stay alive, so that no id is used twice.

    def input(self, x: Any) -> Any:
        """The input of the stream for an input of the model."""
        timed = len(x.shape) > 2 or (len(x.shape) == 2 and x.shape[1] is None)
        shape = x.shape[2:] if timed else x.shape[1:]
        tensor = keras.Input(
            batch_shape=(self.batch_size, *shape), dtype=x.dtype, name=x.name
        )
        return self._mark(tensor, timed)

    def run(self, model: Any, inputs: Any, path: tuple[str, ...] = ()) -> Any:
        """The outputs of one step of `model`, in the model's structure."""

        def visit(operation, args, kwargs):
            return self._node(operation, path, args, kwargs)

        for operation in graph_of(model).operations:
            # In front of the operations that its mask is made of.
            if isinstance(operation, keras.layers.Masking):
                refuse((*path, operation.name), "it makes a mask", operation)
        return walk(model, inputs, visit)

    def _mark(self, tensor, timed):
        if timed:
            self.timed.add(id(tensor))
        self._kept.append(tensor)
        return tensor

    def _node(self, operation, path, args, kwargs):
        path = (*path, operation.name)
        if not isinstance(operation, keras.layers.Layer):
            return self._operation(operation, path, args, kwargs)
        x = _only_input(operation, path, args, kwargs)
        if is_graph(operation):
            return self.run(operation, _in_order(operation, x), path)
        tensors = keras.tree.flatten(x)
        if not self._timed(operation, path, tensors):
            return self._step(operation, path)(x, timeless=True)
        if isinstance(operation, keras.layers.ZeroPadding1D):
            return self._padding(operation, path, x)
        padded = self._padded.get(id(tensors[0]), 0)
        reason = keras_steps.why_not_a_step(operation, padded)
        if reason is not None:
            refuse(path, f"it {reason}", operation)
        layer = self._replaced(operation, tensors[0])
        if hasattr(layer, "compose") and keras_steps.step_of(layer) is layer:
            return self._composite(layer, path, x)
        if keras_steps.step_of(layer) is not None:
            return self._stateful(layer, path, x)
        reason = why_not_pointwise(operation, len(tensors[0].shape) + 1)
        if reason is not None:
            refuse(path, f"it {reason}", operation)
        return self._mark(self._step(operation, path)(x), True)

    def _timed(self, operation, path, tensors):
        timed = [id(x) in self.timed for x in tensors]
        padded = any(id(x) in self._padded for x in tensors)
        if padded and not keras_steps.takes_padding(operation):
            refuse(
                path,
                "it reads the zeros of a ZeroPadding1D",
                operation,
                "a convolution with padding='valid' comes next to those",
            )
        if any(timed) and not all(timed):
            refuse(
                path,
                "it mixes a sequence with a tensor without time",
                operation,
                "keep the time axis of both (return_sequences=True), or pool "
                "both first",
            )
        return any(timed)

    def _operation(self, operation, path, args, kwargs):
        """A written operation, such as the sum in `h + x`."""
        values = keras.tree.flatten((args, kwargs))
        tensors = [x for x in values if isinstance(x, keras.KerasTensor)]
        timed = self._timed(operation, path, tensors)
        if timed and not _elementwise(operation, values):
            refuse(path, "it is not an elementwise operation", operation)
        if id(operation) not in self._operations:
            name = self._unused(operation.name)
            made = operation
            if name != operation.name:
                # Two nested models may each have an `add`; one may not.
                config = {**operation.get_config(), "name": name}
                made = type(operation).from_config(config)
            self._operations[id(operation)] = made
            self._named.add(id(made))
        outputs = self._operations[id(operation)](*args, **kwargs)
        return keras.tree.map_structure(lambda y: self._mark(y, timed), outputs)

    def _composite(self, layer, path, x):
        def apply(part, x):
            # A sum made by the layer itself has not been seen yet; states
            # that a part returns are in the graph already.
            self._name_written(x)
            x = self._mark(x, True)
            return keras.tree.flatten(self._node(part, path, (x,), {}))[0]

        known = len(self.new_states)
        y = self._mark(layer.compose(x, apply), True)
        self._name_written(y)
        if getattr(layer, "return_state", False):
            return [y, *self.new_states[known:]]
        return y

    def _name_written(self, x):
        """Unused names for the operations with which a layer wrote `x`.

        Keras numbers them anew in every process, and a model from a file
        brings the numbers of another.
        """
        operation = x._keras_history.operation
        if isinstance(operation, keras.layers.Layer):
            return
        if id(operation) not in self._named:
            self._named.add(id(operation))
            operation.name = self._unused(operation.name)
            for tensor in keras.tree.flatten(operation.input):
                self._name_written(tensor)

    def _padding(self, layer, path, x):
        """Zeros in front, which the state of the next convolution holds."""
        left, right = layer.padding
        if right or layer.data_format == "channels_first":
            refuse(
                path, f"it puts zeros behind (padding={layer.padding})", layer
            )
        name = self._identifier(path)
        y = self._mark(keras.layers.Identity(name=name)(x), True)
        self._padded[id(y)] = left
        return y

    def _replaced(self, layer, x):
        """One replacement for a layer, however often it is called."""
        if id(layer) not in self._replacements:
            made = keras_steps.replacement(layer, x.shape[-1])
            self._replacements[id(layer)] = made
        return self._replacements[id(layer)]

    def _stateful(self, layer, path, x):
        stepped = keras_steps.step_of(layer)
        zeros = stepped.get_initial_state(1)
        for state in zeros:
            if np.any(keras.ops.convert_to_numpy(state)):
                refuse(
                    path,
                    "its initial state is not zero",
                    layer,
                    "every stream starts from zeros: add the offset inside "
                    "the layer",
                )
        call = self._calls[id(layer)] = self._calls.get(id(layer), -1) + 1
        states = [
            keras.Input(
                batch_shape=(self.batch_size, *shape),
                dtype=keras.backend.standardize_dtype(zero.dtype),
                name=self._identifier((*path, str(call), name)),
            )
            for zero, (name, shape, _) in zip(
                zeros, stepped.state_specs, strict=True
            )
        ]
        step = self._step(layer, path)
        y, *new = step([x, *states]) if states else [step(x)]
        self.states += states
        self.new_states += new
        for number, answer in enumerate(keras.tree.flatten(y)):
            self._mark(answer, keeps_time(layer, x, number))
        if getattr(layer, "return_state", False):
            return [y, *new]
        return y

    def _step(self, layer, path):
        if id(layer) not in self.steps:
            name = self._identifier(path)
            self.steps[id(layer)] = Step(layer, name=name)
        return self.steps[id(layer)]

    def _identifier(self, path):
        """A valid and unused C identifier."""
        return self._unused(identifier("__".join(path)))

    def _unused(self, name):
        unique, number = name, 1
        while unique in self._names:
            unique, number = f"{name}_{number}", number + 1
        self._names.add(unique)
        return unique


def identifier(name: str) -> str:
    """A C identifier that begins with a letter.

    TensorFlow's converter does not name what begins with an underscore.
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name[0].isalpha() else f"layer_{name}"


def _only_input(layer, path, args, kwargs):
    """What a layer is called on, if nothing else would change its output."""
    bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    (_, x), *others = bound.items()
    for name, value in others:
        tensors = [
            v
            for v in keras.tree.flatten(value)
            if isinstance(v, keras.KerasTensor)
        ]
        if tensors or (name == "training" and value):
            refuse(
                path,
                f"it is called with `{name}` in the graph",
                layer,
                "a stream has no padding, starts from zeros and runs in "
                f"inference: leave `{name}` out"
                if name in ("mask", "initial_state", "training")
                else "",
            )
    return x


def _in_order(model, x):
    """The inputs of a nested model, in its own order."""
    names = [tensor.name for tensor in model.inputs]
    if isinstance(x, dict) and set(names) <= set(x):
        return [x[name] for name in names]
    return keras.tree.flatten(x)


def keeps_time(layer: Any, x_t: Any, answer: int = 0) -> bool:
    """Whether a layer with states answers every step, not only the last.

    Args:
        layer: A layer with a step.
        x_t: Symbolic tensor, one step of its input, or a list of such.
        answer: Which of its outputs is meant. Defaults to `0`.

    Returns:
        Whether its output has a time axis.
    """

    def over_time(x):
        # Any batch size: a stateful layer knows its own only.
        return keras.KerasTensor((None, None, *x.shape[1:]), dtype=x.dtype)

    sequence = keras.tree.map_structure(over_time, x_t)
    y = keras.tree.flatten(layer.compute_output_spec(sequence))[answer]
    return len(y.shape) > 1 and y.shape[1] is None


# Operations that are elementwise whatever the rank of their arguments.
_ELEMENTWISE = {
    "Abs", "Absolute", "Add", "Clip", "Cos", "Divide", "Elu", "Exp", "Gelu",
    "HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Log", "Log1p",
    "LogSigmoid", "Maximum", "Minimum", "Multiply", "Negative", "Power",
    "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin",
    "Softplus", "Softsign", "Sqrt", "Square", "Subtract", "Tanh",
    "TrueDivide",
}  # fmt: skip


def _elementwise(operation, values):
    # A constant of more axes than the last could differ from step to step.
    return type(operation).__name__ in _ELEMENTWISE and all(
        isinstance(x, keras.KerasTensor) or len(getattr(x, "shape", ())) <= 1
        for x in values
    )


_WAY_OUT = {
    "Bidirectional": "it needs the future; use its forward layer alone",
    "Masking": "a stream has no padding: feed valid samples only, or apply "
    "Masking outside the model that is streamed",
    "Embedding": "set mask_zero=False; a stream has no padding",
    "GlobalAveragePooling1D": "leave keepdims and data_format as they are, or "
    "use TemporalPooling",
    "GlobalMaxPooling1D": "use TemporalPooling, which forgets",
    "GetItem": "for the last step use TemporalPooling('last')",
    "GRU": "leave go_backwards out",
    "LSTM": "leave go_backwards out",
    "MinGRU": "leave go_backwards out",
    "RNN": "leave go_backwards out",
    "SimpleRNN": "leave go_backwards out",
    "Conv1D": "use padding='causal', strides=1 and channels last",
    "SeparableConv1D": "use a DepthwiseConv1D followed by Dense",
    "DepthwiseConv1D": "put ZeroPadding1D(((kernel_size - 1) * dilation_rate, "
    "0)) in front of padding='valid', and leave strides out",
    "ZeroPadding1D": "padding=(steps, 0) puts them in front",
}


def refuse(
    path: tuple[str, ...], reason: str, operation: Any, way_out: str = ""
) -> None:
    """Raises: which layer cannot run as a stream, why, and what to do."""
    way_out = way_out or _WAY_OUT.get(
        type(operation).__name__,
        "give the layer `step`, `get_initial_state` and `state_specs`, or "
        "apply it after time is gone (TemporalPooling, "
        "return_sequences=False)",
    )
    name = "/".join(path)
    raise ValueError(
        f"Layer '{name}' cannot run as a stream because {reason}; {way_out}. "
        f"Received: {name}={operation!r}"
    )

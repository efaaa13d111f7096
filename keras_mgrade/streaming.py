"""A trained sequence model as a stream: one sample in, one answer out.

After t steps the output of the stream is the last time step of the same
weights run on `x[:, :t]`. A stream is a functional Keras model whose nodes
are `Step` layers around the model's own layers; its inputs are the model's
inputs and then the states, its outputs the model's outputs and then the new
states.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_mgrade import validation
from keras_mgrade.ops import kernels
from keras_mgrade.step_graph import Step, StepGraph


@dataclasses.dataclass(frozen=True)
class TimeAxes:
    """Which tensors of a trained model have a time axis; its stream has none.

    Attributes:
        inputs: For each input of the model whether it is a sequence.
        answers: For each output whether there is one for every step, not for
            the last one only.
    """

    inputs: list[bool]
    answers: list[bool]


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
            Of Keras's own, `SimpleRNN`, `GRU`, `LSTM`, `RNN`, causal
            `Conv1D`, `GlobalAveragePooling1D`, and `DepthwiseConv1D` behind
            a `ZeroPadding1D` in front of the sequence stream, too.
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
    return stream_and_axes(model, batch_size)[0]


def stream_and_axes(
    model: keras.Model, batch_size: int = 1
) -> tuple[keras.Model, TimeAxes]:
    """`streaming_model`, and what the step model no longer shows."""
    batch_size = validation.positive_integer("batch_size", batch_size)
    validation.built_graph("model", model)
    graph = StepGraph(batch_size, [x.name for x in model.inputs])
    inputs = [graph.input(x) for x in model.inputs]
    if not graph.timed:
        shapes = [tuple(x.shape) for x in model.inputs]
        raise ValueError(
            "`model` must have an input with a time axis: "
            "keras.Input((None, channels)), or keras.Input((None,)) for "
            f"tokens. Received: model.inputs of shapes={shapes}"
        )
    outputs = keras.tree.flatten(graph.run(model, inputs))
    if not graph.steps:
        raise ValueError(
            "`model` has no layer that could be streamed, only operations. "
            f"Received: model={model!r}"
        )
    stream = keras.Model(
        inputs + graph.states,
        outputs + graph.new_states,
        name=f"{model.name}_stream",
    )
    axes = TimeAxes(
        *([id(x) in graph.timed for x in part] for part in (inputs, outputs))
    )
    return stream, axes


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
        for tensor, (_, *spec) in zip(states, step.state_specs, strict=False):
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
            if node.arguments.kwargs.get("timeless"):
                # After time is gone it is called as it is, without states.
                first_state = len(inputs)
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

    It takes one sample, or a chunk of several with a time axis, as they come;
    both give the same answers and states. The weights are read at each call,
    so that training may go on meanwhile. On JAX a chunk of a new length is
    compiled anew.

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
    >>> y, states = step(np.zeros((1, 20, 3), "float32"), states)
    >>> y.shape
    (1, 20, 4)

    Args:
        stream: A model made by `streaming_model`.

    Returns:
        A function `step(x, states) -> (y, new_states)`. `x` is a sample,
        `(batch, channels)`, or a chunk, `(batch, time, channels)`, and `y` an
        answer or an answer for each step of the chunk; lists of them where
        the model has several inputs or outputs.
    """
    count = len(state_specs(stream))
    first_state = len(stream.inputs) - count
    inputs = stream.inputs[:first_state]
    carried = stream.inputs[first_state:]
    several = len(stream.outputs) - count > 1
    call = kernels.compile_call(stream)
    loop = kernels.compile_loop(stream, count)

    # Looked up once: a small step takes no longer than a few such questions.
    sample_shapes = [tuple(tensor.shape) for tensor in inputs]
    state_shapes = [tuple(tensor.shape) for tensor in carried]

    def step(x, states):
        values = _as_tensors(_flat(x, inputs), inputs)
        states = _checked_states(states, carried, state_shapes)
        if _is_chunk(values, inputs, sample_shapes):
            outputs, states = loop(values, states)
        else:
            flat = call(values + states)
            if len(stream.outputs) == 1:
                flat = [flat]
            first = len(flat) - count
            outputs, states = flat[:first], flat[first:]
        return outputs if several else outputs[0], states

    return step


def _as_tensors(values, inputs):
    """In the dtypes of the inputs.

    On TensorFlow and JAX what is so already is left as it is; PyTorch's names
    for dtypes are its own, and its tensors may have to change the device.
    """
    return [
        value
        if ops.is_tensor(value) and value.dtype == tensor.dtype
        else ops.convert_to_tensor(value, dtype=tensor.dtype)
        for value, tensor in zip(values, inputs, strict=True)
    ]


def _checked_states(states, inputs, wanted):
    """As tensors of the stream's dtypes: they may come from a file."""
    if not isinstance(states, (list, tuple)) or len(states) != len(inputs):
        raise ValueError(
            f"`states` must be a list of {len(inputs)} states, as "
            "`initial_states` and each step give it. "
            f"Received: states={states!r}"
        )
    states = _as_tensors(states, inputs)
    for state, tensor, shape in zip(states, inputs, wanted, strict=True):
        if tuple(state.shape) != shape:
            raise ValueError(
                f"`states` must have '{tensor.name}' of shape {shape}. "
                f"Received: states[...].shape={tuple(state.shape)}"
            )
    return states


def _flat(x, inputs):
    """One sample for each input, in the stream's order."""
    if len(inputs) == 1 and not isinstance(x, dict):
        return [x]
    names = [tensor.name for tensor in inputs]
    if isinstance(x, dict) and set(x) == set(names):
        return [x[name] for name in names]
    if not isinstance(x, (list, tuple)) or len(x) != len(inputs):
        raise ValueError(
            f"`x` must be a list of {len(inputs)} samples, or a dictionary, "
            f"for the inputs {names}. Received: x={x!r}"
        )
    return x


def _is_chunk(values, inputs, wanted):
    """Whether all values have a time axis; checks their shapes."""
    shapes = [tuple(value.shape) for value in values]
    if shapes == wanted:
        return False
    lengths = {shape[1] for shape in shapes if len(shape) > 1}
    fits = len(lengths) == 1 and min(lengths) > 0
    if fits and wanted == [(shape[0], *shape[2:]) for shape in shapes]:
        return True
    names = [tensor.name for tensor in inputs]
    raise ValueError(
        f"`x` must be a sample of shape {wanted[0]}, or a chunk with a time "
        f"axis after the batch (for the inputs {names}: {wanted}). "
        f"Received: x.shape={shapes[0] if len(shapes) == 1 else shapes}"
    )

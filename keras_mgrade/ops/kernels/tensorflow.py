"""TensorFlow kernels: for graphs and XLA alike, with own gradients."""

import contextlib
import os

import tensorflow as tf

# Not part of the public interface; what a graph is traced for decides which
# loop is fast.
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

# Steps unrolled in one block: long enough that the loop over blocks is
# short, short enough that a graph stays small.
BLOCK = 32

# As many channels at a time as there are cores: more of them in flight only
# push each other out of the cache.
CORES = os.cpu_count() or 1


def linear_recurrence(a, b, initial_state, reverse, method):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""
    if method == "auto":
        in_a_loop = _compiled() and _on_cpu()
        method = "sequential" if in_a_loop else "parallel"
    states_of = _step_by_step if method == "sequential" else _block_by_block

    @tf.custom_gradient
    def recurrence(a, b, initial_state):
        states = states_of(a, b, initial_state, reverse)

        def gradient(d_states, d_last):
            # g[t] = dy[t] + a[t+1] g[t+1], started with the gradient of the
            # last state.
            a_next = _shifted(a, tf.ones_like(initial_state), not reverse)
            g = states_of(a_next, d_states, d_last, not reverse)
            first = -1 if reverse else 0
            d_initial = a[:, first] * g[:, first]
            return g * _shifted(states, initial_state, reverse), g, d_initial

        return (states, states[:, 0 if reverse else -1]), gradient

    # Tensors, not variables, which a custom gradient would have to know.
    a, b, initial_state = map(tf.convert_to_tensor, (a, b, initial_state))
    return recurrence(a, b, initial_state)


def _compiled():
    """Whether XLA will compile what is traced here."""
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def _on_cpu():
    devices = tf.config.list_logical_devices()
    return all(device.device_type == "CPU" for device in devices)


def _shifted(x, start, reverse):
    """What stood one step before, `start` before the first one."""
    start = tf.expand_dims(start, 1)
    if reverse:
        return tf.concat([x[:, 1:], start], axis=1)
    return tf.concat([start, x[:, :-1]], axis=1)


def _step_by_step(a, b, h, reverse):
    """The plain recurrence; XLA makes a fast loop of it, a graph does not."""
    length = tf.shape(a)[1]
    states = tf.TensorArray(b.dtype, size=length, element_shape=h.shape)

    def body(i, h, states):
        t = length - 1 - i if reverse else i
        h = a[:, t] * h + b[:, t]
        return i + 1, h, states.write(t, h)

    _, _, states = tf.while_loop(
        lambda i, *_: i < length,
        body,
        (tf.constant(0), h, states),
        maximum_iterations=length,
    )
    states = tf.transpose(states.stack(), (1, 0, 2))
    states.set_shape(b.shape)
    return states


def _block_by_block(a, b, initial_state, reverse):
    """The same with blocks of time side by side, then joined by a carry."""
    length = a.shape[1]
    if length is not None and length <= BLOCK:
        return tf.stack(
            _loop(
                tf.unstack(a, axis=1),
                tf.unstack(b, axis=1),
                initial_state,
                reverse,
            ),
            axis=1,
        )
    length = tf.shape(a)[1]
    blocks = (length + BLOCK - 1) // BLOCK
    padding = [[0, 0], [0, blocks * BLOCK - length], [0, 0]]
    split = tf.stack([tf.shape(a)[0], blocks, BLOCK, tf.shape(a)[2]])
    # A padded step multiplies by 1 and adds 0: it keeps the state.
    a = tf.reshape(tf.pad(a, padding, constant_values=1), split)
    b = tf.reshape(tf.pad(b, padding), split)
    a, b = tf.unstack(a, axis=2), tf.unstack(b, axis=2)
    zero = tf.zeros_like(b[0])
    ends = _loop(a, b, zero, reverse)[0 if reverse else -1]
    decay = a[0]
    for factor in a[1:]:
        decay = decay * factor
    entering = _entering(decay, ends, initial_state, reverse)
    states = tf.stack(_loop(a, b, entering, reverse), axis=2)
    shape = tf.stack([split[0], blocks * BLOCK, split[3]])
    return tf.reshape(states, shape)[:, :length]


def _loop(a, b, h, reverse):
    """Lists of coefficients to the list of states, in time order."""
    states = []
    order = reversed(range(len(a))) if reverse else range(len(a))
    for t in order:
        h = a[t] * h + b[t]
        states.append(h)
    return states[::-1] if reverse else states


def _entering(decay, ends, initial_state, reverse):
    """The state that enters each block, `(batch, blocks, channels)`.

    Doubling: after round n every block knows what 2^n blocks before it and
    itself add up to.
    """
    if reverse:
        decay, ends = decay[:, ::-1], ends[:, ::-1]
    start = tf.expand_dims(initial_state, 1)
    ends = tf.concat([start, ends[:, :-1]], axis=1)
    decay = tf.concat([tf.zeros_like(start), decay[:, :-1]], axis=1)
    position = tf.expand_dims(tf.range(tf.shape(ends)[1]), 1)

    def body(reach, decay, ends):
        inside = position >= reach
        before = tf.roll(ends, reach, axis=1)
        ends += decay * tf.where(inside, before, tf.zeros_like(before))
        before = tf.roll(decay, reach, axis=1)
        decay *= tf.where(inside, before, tf.ones_like(before))
        return 2 * reach, decay, ends

    _, _, entering = tf.while_loop(
        lambda reach, *_: reach < tf.shape(ends)[1],
        body,
        (tf.constant(1), decay, ends),
        # No sequence is longer; XLA asks for a bound.
        maximum_iterations=31,
    )
    return entering[:, ::-1] if reverse else entering


def tapped_sum(x, weights, delays, history):
    """`y[t] = sum_j weights[j] * x[history + t - delays[j]]` a channel."""
    taps = weights.shape[0]

    @tf.custom_gradient
    def forward(x, weights):
        channels = tf.transpose(x, (2, 0, 1))
        batch, length = tf.shape(x)[0], tf.shape(x)[1] - history

        def window(x_c, start, length):
            return tf.slice(x_c, [0, start], [batch, length])

        def one_channel(channel):
            x_c, weights_c, delays_c = channel
            return tf.add_n(
                [
                    weights_c[j] * window(x_c, history - delays_c[j], length)
                    for j in range(taps)
                ]
            )

        y = tf.map_fn(
            one_channel,
            (channels, tf.transpose(weights), tf.transpose(delays)),
            fn_output_signature=x.dtype,
            parallel_iterations=CORES,
        )

        def gradient(upstream):
            # The input's gradient is the same sum run backwards in time.
            g = tf.transpose(upstream, (2, 0, 1))
            padded = tf.pad(g, [[0, 0], [0, 0], [history, history]])

            def one_channel(channel):
                x_c, g_c, padded_c, weights_c, delays_c = channel
                d_weights = tf.stack(
                    [
                        tf.reduce_sum(
                            g_c * window(x_c, history - delays_c[j], length)
                        )
                        for j in range(taps)
                    ]
                )
                d_x = tf.add_n(
                    [
                        weights_c[j]
                        * window(padded_c, delays_c[j], history + length)
                        for j in range(taps)
                    ]
                )
                return d_x, d_weights

            d_x, d_weights = tf.map_fn(
                one_channel,
                (
                    channels,
                    g,
                    padded,
                    tf.transpose(weights),
                    tf.transpose(delays),
                ),
                fn_output_signature=(x.dtype, x.dtype),
                parallel_iterations=CORES,
            )
            return tf.transpose(d_x, (1, 2, 0)), tf.transpose(d_weights)

        return tf.transpose(y, (1, 2, 0)), gradient

    return forward(tf.convert_to_tensor(x), tf.convert_to_tensor(weights))


def fourier_cost():
    """How many taps of a dense convolution a Fourier transform's point costs.

    Measured on a processor, where XLA's depthwise convolution is slow.
    """
    return 0.4 if _compiled() else 3.5


def compile_call(model):
    """A compiled inference call of `model`, its weights read at each call."""

    @tf.function
    def call(inputs):
        return model(inputs, training=False)

    return call


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    answers = model.outputs[: len(model.outputs) - count]
    first = len(answers)

    # One trace for chunks of any length.
    @tf.function(reduce_retracing=True)
    def call(samples, states):
        length = tf.shape(samples[0])[1]
        arrays = [
            tf.TensorArray(y.dtype, length) for y in model.outputs[:first]
        ]

        def body(t, states, arrays):
            sample = [x[:, t] for x in samples]
            outputs = tf.nest.flatten(model([*sample, *states], training=False))
            arrays = [
                array.write(t, y)
                for array, y in zip(arrays, outputs[:first], strict=True)
            ]
            return t + 1, outputs[first:], arrays

        _, states, arrays = tf.while_loop(
            lambda t, *_: t < length, body, (0, list(states), arrays)
        )
        outputs = []
        for array, y in zip(arrays, answers, strict=True):
            whole = array.stack()
            whole.set_shape((None, *y.shape))
            order = [1, 0, *range(2, len(y.shape) + 1)]
            outputs.append(tf.transpose(whole, order))
        return outputs, states

    return call


def compile_gradient(function):
    """Compiled `(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """

    @tf.function(reduce_retracing=True)
    def gradients(leaves, *rest):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(leaves)
            y, seen = function(leaves, *rest)
        zeros = tf.UnconnectedGradients.ZERO
        found = tape.gradient(y, leaves, unconnected_gradients=zeros)
        return found, seen

    return gradients


class OwnRandomness(contextlib.nullcontext):
    """What happens within leaves the backend's generator alone: it has none."""

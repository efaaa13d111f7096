"""The recurrence on TensorFlow: a loop for XLA, blocks for graphs."""

import tensorflow as tf

from keras_mgrade.ops.kernels.tensorflow import graphs

# Steps unrolled in one block: long enough that the loop over blocks is
# short, short enough that a graph stays small.
BLOCK = 32


def linear_recurrence(a, b, initial_state, reverse, method):
    """`h[t] = a[t] * h[t-1] + b[t]` along axis 1: (states, last state)."""
    if method == "auto":
        in_a_loop = graphs.compiled() and graphs.on_cpu()
        method = "sequential" if in_a_loop else "parallel"
    states_of = _step_by_step if method == "sequential" else _block_by_block
    if graphs.trains():
        states_of = graphs.one_copy(states_of)

    @tf.custom_gradient
    def recurrence(a, b, initial_state):
        states = states_of(a, b, initial_state, reverse)
        # What is traced for another length may be used for this one.
        states.set_shape(b.shape)

        def gradient(d_states, d_last):
            # g[t] = dy[t] + a[t+1] g[t+1], started with the gradient of the
            # last state.
            a_next = _shifted(a, tf.ones_like(initial_state), not reverse)
            g = states_of(a_next, d_states, d_last, not reverse)
            g.set_shape(b.shape)
            first = -1 if reverse else 0
            d_initial = a[:, first] * g[:, first]
            return g * _shifted(states, initial_state, reverse), g, d_initial

        return (states, states[:, 0 if reverse else -1]), gradient

    # Tensors, not variables, which a custom gradient would have to know.
    a, b, initial_state = map(tf.convert_to_tensor, (a, b, initial_state))
    return recurrence(a, b, initial_state)


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
        new = a[:, t] * h + b[:, t]
        # A batch known of one of the arrays only is that of all.
        new.set_shape(h.shape)
        return i + 1, new, states.write(t, new)

    _, _, states = tf.while_loop(
        lambda i, *_: i < length,
        body,
        (tf.constant(0), h, states),
        maximum_iterations=length,
    )
    return tf.transpose(states.stack(), (1, 0, 2))


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
    decay = tf.reduce_prod(a, axis=2)
    a, b = tf.unstack(a, axis=2), tf.unstack(b, axis=2)
    zero = tf.zeros_like(b[0])
    ends = _loop(a, b, zero, reverse)[0 if reverse else -1]
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

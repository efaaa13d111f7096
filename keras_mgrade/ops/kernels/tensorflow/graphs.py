"""What a TensorFlow graph is traced for, and functions that it has once."""

import tensorflow as tf

# Not part of the public interface: what a graph is traced for decides which
# loop is fast, and what may be a function of its own.
from tensorflow.python.eager import record
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext

# Under this name a graph keeps its functions.
COPIES = "_keras_mgrade_copies"


def compiled():
    """Whether XLA will compile what is traced here."""
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def on_cpu():
    devices = tf.config.list_logical_devices()
    return all(device.device_type == "CPU" for device in devices)


def one_copy(function):
    """`function` as one function of a graph, called as often as needed.

    Six layers of a shape then have its hundreds of nodes once, which are
    traced and optimised once. It lives and dies with the outermost graph: what
    is traced for one purpose must not serve another.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph.outer_graph.building_function:
        graph = graph.outer_graph
    if not hasattr(graph, COPIES):
        # Not through `vars`: a graph has no dictionary to look at.
        setattr(graph, COPIES, {})
    copies = getattr(graph, COPIES)
    if function not in copies:
        copies[function] = tf.function(
            function,
            autograph=False,
            experimental_attributes={"_noinline": True},
        )
    return copies[function]


def trains():
    """Whether a function is traced under a tape.

    Others may be on their way to a converter, and those know no functions.
    """
    graph = tf.compat.v1.get_default_graph()
    return graph.building_function and record.could_possibly_record()

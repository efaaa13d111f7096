"""Times of things run in turns, so that a busy moment hits all of them."""

import functools
import gc
import statistics
import time

import keras
import numpy as np

# Below this a single call is too short for the clock, in seconds.
SHORTEST = 0.005
# What takes longer in all is run in fewer rounds, three at least.
LONGEST = 6.0
# Larger than what caches hold, in bytes.
LARGE = 1 << 27

MODES = {
    "jax": {"jax": True},
    "tensorflow": {"tensorflow graph": False, "tensorflow compiled": True},
    "torch": {"torch": False},
}


def modes():
    """How this backend can be run: from a name to `jit_compile`."""
    return MODES[keras.backend.backend()]


def race(runners, rounds, from_memory=False):
    """Runs every runner once a round, after a warm-up of its own.

    Args:
        runners: From a key to a function without arguments. It returns what
            has to be finished, or nothing where it finishes by itself.
        rounds: How often each of them is timed.
        from_memory: Whether each call finds its arrays in memory and not in a
            cache, as within a model, where those of other layers have gone
            through it. Defaults to `False`: short ones are called several
            times in a row.

    Returns:
        From key to `{"ms", "low", "high", "rounds"}`: the median, and between
        what half of the times lie; or `{"error"}` where it does not run.
    """
    results, calls, turns = {}, {}, {}
    for key, run in runners.items():
        try:
            finish(run())
        except Exception as error:
            lines = [line for line in str(error).split("\n") if line.strip()]
            reason = f"{type(error).__name__}: {lines[0] if lines else ''}"
            results[key] = {"error": reason[:160]}
            continue
        start = time.perf_counter()
        finish(run())
        once = time.perf_counter() - start
        calls[key] = 1 if from_memory else max(1, int(SHORTEST / once))
        turns[key] = max(min(3, rounds), min(rounds, int(LONGEST / once)))
    times = {key: [] for key in calls}
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for key in calls:
                if turn < turns[key]:
                    if from_memory:
                        _go_through_caches()
                    times[key].append(_time(runners[key], calls[key]))
    finally:
        gc.enable()
    results.update({key: summary(spent) for key, spent in times.items()})
    return {key: results[key] for key in runners}


def _go_through_caches():
    array = _large_array()
    array += 1


@functools.cache
def _large_array():
    return np.zeros(LARGE // 4, "float32")


def _time(run, calls):
    # What ran before has left the caches to itself: once without the clock,
    # where that is not long.
    if calls > 1:
        finish(run())
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    finish(result)
    return 1e3 * (time.perf_counter() - start) / calls


def summary(times):
    """The median of times in ms, and between what half of them lie."""
    if len(times) == 1:
        times = times * 2
    low, median, high = statistics.quantiles(times, method="inclusive")
    return {
        "ms": round(median, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "rounds": len(times),
    }


def finish(result):
    """Waits for JAX; TensorFlow and PyTorch are done when they return."""
    if keras.backend.backend() == "jax":
        import jax

        jax.block_until_ready(result)


def forward_backward(function, inputs, compiled):
    """A runner of `function(*inputs)` and of its gradient in every input.

    The gradient starts from an array like the output, filled once.
    """
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    return _FORWARD_BACKWARD[keras.backend.backend()](
        function, inputs, compiled
    )


def _jax(function, inputs, compiled):
    import jax

    upstream = jax.numpy.ones_like(function(*inputs)) * 0.5

    @jax.jit
    def run(inputs, upstream):
        y, backward = jax.vjp(function, *inputs)
        return y, backward(upstream)

    return lambda: run(inputs, upstream)


def _tensorflow(function, inputs, compiled):
    import tensorflow as tf

    upstream = tf.ones_like(tf.function(function)(*inputs)) * 0.5

    @tf.function(jit_compile=compiled)
    def run(inputs, upstream):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            y = function(*inputs)
        return y, tape.gradient(y, inputs, output_gradients=upstream)

    return lambda: run(inputs, upstream)


def _torch(function, inputs, compiled):
    import torch

    for x in inputs:
        x.requires_grad_()
    upstream = torch.full_like(function(*inputs), 0.5)

    def run():
        y = function(*inputs)
        return y, torch.autograd.grad(y, inputs, upstream)

    return run


_FORWARD_BACKWARD = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}

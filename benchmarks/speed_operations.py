"""The recurrence and the delay taps, forward and backward, beside others.

The yardstick is the product of two arrays and its gradient: it reads and
writes the eight arrays that the recurrence has to (a, b, h; dh, a, h or b,
da, db), in the same framework, and does nothing else.
"""

import keras
import numpy as np
from keras import ops

import timing
from keras_mgrade.layers.pointwise import as_one_matrix
from keras_mgrade.ops import delay_taps, linear_recurrence

BATCH, TIME, CHANNELS = 32, 1024, 64
TAPS, MAX_DELAY = 8, 127


def yardstick(random, compiled):
    """Runner, and how many arrays it moves: XLA reads dh once, others twice."""
    arrays = [
        random.random((BATCH, TIME, CHANNELS), dtype="float32")
        for _ in range(2)
    ]
    run = timing.forward_backward(lambda a, b: a * b, arrays, compiled)
    return run, 8 if compiled else 9


def associative_scan(a, b):
    """As one writes it with what Keras has."""

    def join(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return ops.associative_scan(join, (a, b), axis=1)[1]


def log_space(a, b):
    """The published way to train a minGRU in parallel, for positive b."""
    decay = ops.cumsum(ops.log(a), axis=1)
    x = ops.log(b) - decay
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        x = jax.lax.cumlogsumexp(x, axis=1)
    elif backend == "tensorflow":
        import tensorflow as tf

        x = tf.math.cumulative_logsumexp(x, axis=1)
    else:
        import torch

        x = torch.logcumsumexp(x, dim=1)
    return ops.exp(decay + x)


def recurrence(rounds):
    random = np.random.default_rng(0)
    shape = (BATCH, TIME, CHANNELS)
    arrays = [random.uniform(0.1, 1, shape).astype("float32") for _ in range(2)]

    def ours(a, b):
        return linear_recurrence(a, b)[0]

    runners, moved = {}, {}
    for mode, compiled in timing.modes().items():
        runners[mode, "yardstick"], moved[mode] = yardstick(random, compiled)
        for name, function in (
            ("keras_mgrade", ours),
            ("keras.ops.associative_scan", associative_scan),
            ("log space", log_space),
        ):
            runners[mode, name] = timing.forward_backward(
                function, arrays, compiled
            )
    return rows("recurrence", runners, rounds, moved)


def taps(rounds):
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH, TIME, CHANNELS)).astype("float32")
    past = np.zeros((BATCH, MAX_DELAY, CHANNELS), "float32")
    kernel = random.normal(size=(TAPS, CHANNELS)).astype("float32")
    whole = random.integers(0, MAX_DELAY + 1, kernel.shape).astype("int32")
    delays = random.uniform(0, MAX_DELAY, kernel.shape).astype("float32")
    width = np.full(kernel.shape, 0.8, "float32")
    dense = random.normal(size=(MAX_DELAY + 1, CHANNELS)).astype("float32")

    def padded(x):
        return ops.concatenate([ops.convert_to_tensor(past), x], axis=1)

    def integer(x, kernel):
        return delay_taps.tapped_sum(
            padded(x), kernel, ops.convert_to_tensor(whole), MAX_DELAY
        )

    def linear(x, kernel, delays):
        pairs = delay_taps.between_steps(kernel, delays, MAX_DELAY)
        return delay_taps.tapped_sum(padded(x), *pairs, MAX_DELAY)

    def gaussian(x, kernel, delays):
        bells = delay_taps.gaussian_kernel(
            kernel, delays, ops.convert_to_tensor(width), MAX_DELAY, False
        )
        return delay_taps.wide_sum(padded(x), bells)

    def convolution(x, dense):
        return delay_taps.dense_sum(padded(x), dense)

    cases = {
        "integer": (integer, [x, kernel]),
        "linear": (linear, [x, kernel, delays]),
        "Gaussian": (gaussian, [x, kernel, delays]),
        "dense depthwise convolution": (convolution, [x, dense]),
    }
    runners, moved = {}, {}
    for mode, compiled in timing.modes().items():
        runners[mode, "yardstick"], moved[mode] = yardstick(random, compiled)
        for name, (function, inputs) in cases.items():
            runners[mode, name] = timing.forward_backward(
                function, inputs, compiled
            )
    if keras.backend.backend() == "torch":
        for name, version in (("bilinear", "v1"), ("Gaussian", "gauss")):
            runners["torch", f"DCLS, {name}"] = dcls(x, version)
    return rows("taps", runners, rounds, moved)


def dcls(x, version):
    """Dilated convolution with learnable spacings, from its own package."""
    import torch
    from DCLS.construct.modules import Dcls1d

    layer = Dcls1d(
        CHANNELS,
        CHANNELS,
        kernel_count=TAPS,
        dilated_kernel_size=MAX_DELAY + 1,
        groups=CHANNELS,
        bias=False,
        version=version,
    )
    trained = [layer.weight, layer.P]

    def convolve(x, *_):
        x = torch.nn.functional.pad(x.transpose(1, 2), (MAX_DELAY, 0))
        return layer(x).transpose(1, 2)

    x = torch.from_numpy(x).requires_grad_()
    upstream = torch.full_like(convolve(x), 0.5)

    def run():
        y = convolve(x)
        return y, torch.autograd.grad(y, [x, *trained], upstream)

    return run


def choices(rounds):
    """What the layers choose between, each both ways.

    A product of all steps at once, as one of two matrices or with the batch
    in front; a dense kernel by convolution and by Fourier transform.
    """
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCH, TIME, CHANNELS)).astype("float32")
    matrix = random.normal(size=(CHANNELS, 2 * CHANNELS)).astype("float32")
    cases = {
        "product, batch in front": (ops.matmul, [x, matrix]),
        "product of two matrices": (
            lambda x, w: as_one_matrix(lambda x: ops.matmul(x, w), x),
            [x, matrix],
        ),
    }
    for steps in (8, 16, 32, 128):
        kernel = random.normal(size=(steps, CHANNELS)).astype("float32")
        past = np.zeros((BATCH, steps - 1, CHANNELS), "float32")
        padded = np.concatenate([past, x], axis=1)
        for name, function in (
            ("convolution", delay_taps.dense_sum),
            ("Fourier transform", delay_taps.fft_sum),
        ):
            cases[f"kernel of {steps} steps, {name}"] = (
                function,
                [padded, kernel],
            )
    runners = {
        (mode, name): timing.forward_backward(function, inputs, compiled)
        for mode, compiled in timing.modes().items()
        for name, (function, inputs) in cases.items()
    }
    return rows("choices", runners, rounds)


def rows(part, runners, rounds, moved=None):
    """Times each of them; `moved` arrays count as eight."""
    results = timing.race(runners, rounds, from_memory=True)
    found = []
    for (mode, name), result in results.items():
        if name == "yardstick":
            name = "eight arrays moved"
            scale = 8 / moved[mode]
            result = {
                key: round(scale * value, 4) if key != "rounds" else value
                for key, value in result.items()
            }
        found.append({"part": part, "mode": mode, "name": name, **result})
    return found

"""The causal tapped sum: reading a sequence at delays of its own a channel.

Shape letters: b batch, t time, c channels, k taps, d `max_delay`. A kernel of
taps is a pair `(weights, delays)`, both `(k, c)`, with whole delays; a dense
kernel is one array `(d + 1, c)` whose entry n multiplies `x[t - n]`. In both
cases the sequence comes with its past in front: `(b, d + t, c)`.
"""

from typing import Any

import keras
from keras import ops

from keras_mgrade.ops import kernels


def tapped_sum(x: Any, weights: Any, delays: Any, max_delay: int) -> Any:
    """`y[t, c] = sum_k weights[k, c] * x[t - delays[k, c], c]`, sparsely.

    Args:
        x: The sequence and, before it, its last `max_delay` steps,
            `(batch, max_delay + time, channels)`.
        weights: `(taps, channels)`.
        delays: Whole steps from 0 to `max_delay`, int32, `(taps, channels)`.
        max_delay: How many past steps stand before the sequence.

    Returns:
        `(batch, time, channels)`. Each output reads `taps` steps and nothing
        else, so a NaN elsewhere in the row stays where it is.
    """
    return kernels.tapped_sum(x, weights, delays, max_delay)


def tapped_step(window: Any, weights: Any, delays: Any) -> Any:
    """One step of `tapped_sum`: `window` holds the last `max_delay + 1`.

    Args:
        window: `(batch, max_delay + 1, channels)`, the newest step last.
        weights: `(taps, channels)`.
        delays: Whole steps, int32, `(taps, channels)`.

    Returns:
        `(batch, channels)`.
    """
    newest = window.shape[1] - 1
    positions = ops.expand_dims(newest - delays, 0)
    taps = ops.take_along_axis(window, positions, axis=1)
    return ops.sum(ops.expand_dims(weights, 0) * taps, axis=1)


def dense_sum(x: Any, kernel: Any) -> Any:
    """`y[t, c] = sum_n kernel[n, c] * x[t - n, c]`, over every delay.

    Args:
        x: The sequence and its past, `(batch, max_delay + time, channels)`.
        kernel: `(max_delay + 1, channels)`.

    Returns:
        `(batch, time, channels)`.
    """
    kernel = ops.expand_dims(ops.flip(kernel, axis=0), -1)
    return ops.depthwise_conv(x, kernel, padding="valid")


def fft_sum(x: Any, kernel: Any) -> Any:
    """`dense_sum` by Fourier transform, for kernels that span many delays.

    It computes in float32 and rounds a little of every step, a NaN wholly,
    into the others of its row and channel.

    Args:
        x: The sequence and its past, `(batch, max_delay + time, channels)`.
        kernel: `(max_delay + 1, channels)`.

    Returns:
        `(batch, time, channels)`.
    """
    history = kernel.shape[0] - 1
    # A circle no shorter than the sequence: what wraps around falls on the
    # first `max_delay` steps, which are not part of the result.
    length, circle = _circle(x, 0)
    x = ops.rfft(ops.transpose(x, (0, 2, 1)), fft_length=circle)
    kernel = ops.expand_dims(ops.transpose(kernel, (1, 0)), 0)
    kernel = ops.rfft(kernel, fft_length=circle)
    product = (
        x[0] * kernel[0] - x[1] * kernel[1],
        x[0] * kernel[1] + x[1] * kernel[0],
    )
    y = ops.irfft(product, fft_length=circle)
    return ops.transpose(y, (0, 2, 1))[:, history:length]


def wide_sum(x: Any, kernel: Any) -> Any:
    """`dense_sum`, or `fft_sum` where that is faster for the shape.

    The latter for float32 sequences of known length, on a processor: always in
    JAX and XLA, in a TensorFlow graph from 16 taps and 512 steps on, on PyTorch
    from some thirty taps on. An output then depends on later steps of the same
    channel by their rounding.

    Args:
        x: The sequence and its past, `(batch, max_delay + time, channels)`.
        kernel: `(max_delay + 1, channels)`.

    Returns:
        `(batch, time, channels)`.
    """
    return (
        fft_sum(x, kernel) if fft_is_faster(x, kernel) else dense_sum(x, kernel)
    )


def fft_is_faster(x: Any, kernel: Any) -> bool:
    """Whether `wide_sum` takes the Fourier transform, by shape and dtype."""
    length = x.shape[1]
    if not isinstance(length, int):
        return False
    if keras.backend.standardize_dtype(x.dtype) != "float32":
        return False
    taps = kernel.shape[0]
    return kernels.fourier_is_faster(taps, length - taps + 1)


def autocorrelation(x: Any, max_delay: int) -> Any:
    """The mean of `x[t] * x[t - n]` over batch and time, for every delay n.

    Args:
        x: `(batch, time, channels)`; before and after it are zeros.
        max_delay: The longest delay, in steps.

    Returns:
        `(max_delay + 1, channels)`.
    """
    length, circle = _circle(x, max_delay)
    real, imaginary = ops.rfft(ops.transpose(x, (0, 2, 1)), fft_length=circle)
    power = ops.mean(real * real + imaginary * imaginary, axis=0)
    sums = ops.irfft((power, ops.zeros_like(power)), fft_length=circle)
    mean = sums[:, : max_delay + 1] / ops.cast(length, sums.dtype)
    return ops.transpose(mean, (1, 0))


def _circle(x, room):
    """Length of a sequence, and of a Fourier transform with `room` to spare.

    A transform is fast where the prime factors of its length are small.
    """
    length = x.shape[1] or ops.shape(x)[1]
    circle = length + room
    if isinstance(circle, int):
        circle = min(
            odd << max(1, (-(-circle // odd) - 1).bit_length())
            for odd in (1, 3, 5, 9, 15, 25)
        )
    return length, circle


def between_steps(kernel: Any, delays: Any, max_delay: int) -> tuple[Any, Any]:
    """Delays between whole steps, by linear interpolation.

    A tap at `d = i + f` reads `(1 - f) x[t - i] + f x[t - i - 1]`, with
    `i <= max_delay - 1`, so that the slope in `d` is everywhere the
    difference of two inputs, at whole steps and at both ends too.

    Args:
        kernel: `(taps, channels)`.
        delays: In steps, within `[0, max_delay]`, `(taps, channels)`.
        max_delay: The longest delay, in steps.

    Returns:
        `(weights, delays)` of twice as many taps at whole delays.
    """
    floor = ops.floor(ops.stop_gradient(delays))
    whole = ops.clip(floor, 0, max_delay - 1)
    fraction = delays - whole
    weights = ops.concatenate([kernel * (1 - fraction), kernel * fraction])
    whole = ops.cast(whole, "int32")
    return weights, ops.concatenate([whole, whole + 1])


def materialise(weights: Any, delays: Any, max_delay: int) -> Any:
    """Taps at whole delays as a dense kernel, `(max_delay + 1, channels)`."""
    places = ops.one_hot(delays, max_delay + 1, axis=1, dtype=weights.dtype)
    return ops.sum(ops.expand_dims(weights, 1) * places, axis=0)


def gaussian_kernel(
    kernel: Any, delays: Any, width: Any, max_delay: int, normalize: bool
) -> Any:
    """Taps blurred to Gaussians, as a dense kernel.

    `k[n] = sum_k kernel[k] * exp(-(n - delays[k])^2 / (2 width[k]^2))`.

    Args:
        kernel: `(taps, channels)`.
        delays: In steps, `(taps, channels)`.
        width: Standard deviations in steps, `(taps, channels)`.
        max_delay: The longest delay, in steps.
        normalize: Whether each Gaussian is scaled to a sum of 1.

    Returns:
        `(max_delay + 1, channels)`.
    """
    steps = ops.arange(max_delay + 1, dtype=kernel.dtype)
    steps = ops.reshape(steps, (1, -1, 1))
    distance = (steps - ops.expand_dims(delays, 1)) / ops.expand_dims(width, 1)
    exponent = -0.5 * ops.square(distance)
    # The softmax is the normalised bell, also where a narrow one between two
    # steps would vanish at both.
    bells = ops.softmax(exponent, axis=1) if normalize else ops.exp(exponent)
    return ops.sum(ops.expand_dims(kernel, 1) * bells, axis=0)


def keep_within(delays: Any, longest: float) -> Any:
    """Clips to `[0, longest]`; outside, only inward gradients pass.

    A descent step moves against the gradient: below zero a negative gradient
    leads back, above `longest` a positive one. The others would carry a
    delay ever further away without changing the output.
    """

    @ops.custom_gradient
    def clip(delays):
        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            outward = ops.logical_or(
                ops.logical_and(delays < 0, upstream > 0),
                ops.logical_and(delays > longest, upstream < 0),
            )
            return ops.where(outward, ops.zeros_like(upstream), upstream)

        return ops.clip(delays, 0, longest), gradient

    return clip(delays)

"""The first-order linear recurrence, with its own gradient."""

from typing import Any

from keras import ops

from keras_mgrade import validation
from keras_mgrade.ops import kernels


def linear_recurrence(
    a: Any,
    b: Any,
    initial_state: Any = None,
    reverse: bool = False,
    method: str = "auto",
) -> tuple[Any, Any]:
    """Runs `h[t] = a[t] * h[t-1] + b[t]` along axis 1.

    The gradient is the same recurrence run the other way,
    `g[t] = dy[t] + a[t+1] * g[t+1]`, `da = g * h[t-1]`, `db = g`, so that
    nothing but `a` and `h` is kept. It accumulates in at least float32.
    Gradients are taken backwards, gradients of gradients too; forward mode
    (`jax.jvp`) and `torch.func` need `keras.layers.RNN(MinGRUCell(...))`.

    Example:

    >>> a = np.full((1, 3, 1), 0.5, "float32")
    >>> b = np.ones((1, 3, 1), "float32")
    >>> states, last = keras_mgrade.ops.linear_recurrence(a, b)
    >>> keras.ops.convert_to_numpy(states).ravel()
    array([1.  , 1.5 , 1.75], dtype=float32)

    Args:
        a: The factors, `(batch, time, channels)`.
        b: The summands, of the same shape.
        initial_state: `h` before the first step, `(batch, channels)`.
            Defaults to `None`, which is zero.
        reverse: Whether time runs from the last step to the first. Defaults
            to `False`.
        method: `"sequential"` takes one step after the other, `"parallel"`
            many at once, for accelerators; both give the same numbers but
            for rounding. `"auto"` is sequential where XLA compiles it for a
            processor (JAX, and TensorFlow with `jit_compile=True`), else
            parallel: a scan on JAX, blocks of steps side by side on
            TensorFlow and PyTorch. On processors that is the fastest that was
            measured. Defaults to `"auto"`.

    Returns:
        `(states, last)`: every `h[t]`, `(batch, time, channels)` in the order
        of the input, and the state reached at the end, `(batch, channels)`.

    Raises:
        ValueError: If `a` and `b` differ in shape or are not of rank 3, or
            `initial_state` does not belong to them, or `method` is unknown.
    """
    validation.one_of("method", method, ("auto", "sequential", "parallel"))
    a, b = ops.convert_to_tensor(a), ops.convert_to_tensor(b)
    if len(a.shape) != 3 or not _same_shape(a.shape, b.shape):
        raise ValueError(
            "`a` and `b` must both be of shape (batch, time, channels). "
            f"Received: a.shape={tuple(a.shape)}, b.shape={tuple(b.shape)}"
        )
    dtype = "float64" if "float64" in (_dtype(a), _dtype(b)) else "float32"
    a, b = ops.cast(a, dtype), ops.cast(b, dtype)
    if initial_state is None:
        initial_state = ops.zeros_like(b[:, 0])
    else:
        initial_state = ops.cast(initial_state, dtype)
        if not _same_shape(initial_state.shape, (b.shape[0], b.shape[2])):
            raise ValueError(
                "`initial_state` must be of shape (batch, channels), "
                f"{(b.shape[0], b.shape[2])}. "
                f"Received: initial_state.shape={tuple(initial_state.shape)}"
            )
    return kernels.linear_recurrence(a, b, initial_state, reverse, method)


def _dtype(x: Any) -> str:
    return getattr(x.dtype, "name", str(x.dtype).removeprefix("torch."))


def _same_shape(left: Any, right: Any) -> bool:
    return len(left) == len(right) and all(
        m is None or n is None or m == n
        for m, n in zip(left, right, strict=True)
    )

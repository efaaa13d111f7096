"""What one backend does fast in its own way: the same functions in each."""

import importlib

import keras

_BACKEND = keras.backend.backend()
if _BACKEND not in ("jax", "tensorflow", "torch"):
    raise ImportError(
        "keras_mgrade runs on the Keras backends 'tensorflow', 'jax' and "
        "'torch'; set KERAS_BACKEND to one of them before importing keras. "
        f"Received: backend={_BACKEND!r}"
    )

_recurrence, _taps, _calls = (
    importlib.import_module(f"{__name__}.{_BACKEND}.{module}")
    for module in ("recurrence", "taps", "calls")
)

linear_recurrence = _recurrence.linear_recurrence
tapped_sum = _taps.tapped_sum
fourier_is_faster = _taps.fourier_is_faster
compile_call = _calls.compile_call
compile_loop = _calls.compile_loop
compile_gradient = _calls.compile_gradient
OwnRandomness = _calls.OwnRandomness

"""What one backend does fast in its own way: the same functions in each."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_mgrade.ops.kernels.tensorflow import (
        DENSE_BY_FFT,
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        linear_recurrence,
        tapped_sum,
    )
elif keras.backend.backend() == "jax":
    from keras_mgrade.ops.kernels.jax import (
        DENSE_BY_FFT,
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        linear_recurrence,
        tapped_sum,
    )
elif keras.backend.backend() == "torch":
    from keras_mgrade.ops.kernels.torch import (
        DENSE_BY_FFT,
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        linear_recurrence,
        tapped_sum,
    )
else:
    raise ImportError(
        "keras_mgrade runs on the Keras backends 'tensorflow', 'jax' and "
        "'torch'; set KERAS_BACKEND to one of them before importing keras. "
        f"Received: backend={keras.backend.backend()!r}"
    )

__all__ = [
    "DENSE_BY_FFT",
    "OwnRandomness",
    "compile_call",
    "compile_gradient",
    "compile_loop",
    "linear_recurrence",
    "tapped_sum",
]

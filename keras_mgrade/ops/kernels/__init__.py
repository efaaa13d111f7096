"""What one backend does fast in its own way: the same functions in each."""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_mgrade.ops.kernels.tensorflow import (
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        fourier_cost,
        linear_recurrence,
        tapped_sum,
    )
elif keras.backend.backend() == "jax":
    from keras_mgrade.ops.kernels.jax import (
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        fourier_cost,
        linear_recurrence,
        tapped_sum,
    )
elif keras.backend.backend() == "torch":
    from keras_mgrade.ops.kernels.torch import (
        OwnRandomness,
        compile_call,
        compile_gradient,
        compile_loop,
        fourier_cost,
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
    "OwnRandomness",
    "compile_call",
    "compile_gradient",
    "compile_loop",
    "fourier_cost",
    "linear_recurrence",
    "tapped_sum",
]

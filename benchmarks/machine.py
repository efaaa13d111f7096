"""What a result was measured with."""

import os
import platform

import keras


def description():
    """Backend, version of Keras, and machine, as results files state them."""
    return {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }

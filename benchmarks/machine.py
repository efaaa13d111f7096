"""What a result was measured with."""

import importlib.metadata
import os
import pathlib
import platform


def description():
    """Backend, version of Keras, and machine, as results files state them."""
    import keras

    return {
        "backend": keras.backend.backend(),
        "keras": keras.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def processor():
    """The processor's name and its cores."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [ln.split(":")[1].strip() for ln in lines if "model name" in ln]
    return f"{models[0] if models else 'unknown'}, {os.cpu_count()} cores"


def versions(packages):
    """From a package to its version, `None` where it is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found

"""How this package starts processes of its own."""

import os
import sys


def command(module: str, argument: str) -> list[str]:
    """The command that runs a module of this package.

    Args:
        module: Its name in `keras_mgrade.export`.
        argument: What it is started with.

    Returns:
        The words of the command.
    """
    # -P: the current folder must not come before this process's path.
    start = [sys.executable, "-P", "-m"]
    return [*start, f"keras_mgrade.export.{module}", argument]


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which another can import the same.

    Args:
        **more: Variables to set beside.

    Returns:
        All variables by name.
    """
    return {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path),
        **more,
    }

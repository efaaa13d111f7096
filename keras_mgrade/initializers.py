"""Initial gate biases and delays."""

import random
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade.validation import number, positive_integer


@keras.saving.register_keras_serializable("keras_mgrade")
class UniformGate(keras.initializers.Initializer):
    """Gate biases with which the gates start uniform in (0, 1).

    `bias = log(u / (1 - u))`, `u` uniform: some units start as fast copies of
    their candidate, others as slow averages ("uniform gate initialisation").

    Example:

    >>> layer = keras_mgrade.MinGRU(
    ...     8, gate_bias_initializer=keras_mgrade.initializers.UniformGate(0)
    ... )

    Args:
        seed: Integer, or `None` for a seed of its own for each instance.
            As in Keras, an instance gives the same values at every call.
            Defaults to `None`.

    Reference:
        [Gu et al., 2020](https://arxiv.org/abs/1910.09890)
    """

    def __init__(self, seed: int | None = None):
        self.seed = seed
        self._seed = random.randint(1, 10**9) if seed is None else seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        dtype = dtype or keras.config.floatx()
        edge = 1e-3
        u = keras.random.uniform(
            shape, edge, 1 - edge, dtype=dtype, seed=self._seed
        )
        return ops.log(u) - ops.log(1 - u)

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}


@keras.saving.register_keras_serializable("keras_mgrade")
class LogTimeConstants(keras.initializers.Initializer):
    """Gate biases with which time constants spread evenly on a log scale.

    A unit of time constant `tau` forgets by `exp(-1 / tau)` a step: its gate
    starts at `z = 1 - exp(-1 / tau)`, its bias at `log(z / (1 - z))`.

    Example:

    >>> initializer = keras_mgrade.initializers.LogTimeConstants(1, 1000)
    >>> layer = keras_mgrade.MinGRU(8, gate_bias_initializer=initializer)

    Args:
        shortest: Time constant of the first unit, in steps.
        longest: Time constant of the last unit, in steps.

    Raises:
        ValueError: Unless `0.05 <= shortest <= longest`.
    """

    def __init__(self, shortest: float, longest: float):
        # Below a twentieth of a step the gate is 1 to float32's precision.
        number("shortest", shortest, 0.05)
        number("longest", longest, 0.05)
        if not shortest <= longest:
            raise ValueError(
                "`shortest` and `longest` are time constants in steps with "
                "0.05 <= shortest <= longest. "
                f"Received: shortest={shortest}, longest={longest}"
            )
        self.shortest = shortest
        self.longest = longest

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        constants = np.geomspace(self.shortest, self.longest, shape[-1])
        # log(z / (1 - z)) of z = 1 - exp(-1 / constants).
        bias = np.log(np.expm1(1 / constants))
        return ops.convert_to_tensor(
            np.broadcast_to(bias, shape), dtype=dtype or keras.config.floatx()
        )

    def get_config(self) -> dict[str, Any]:
        return {"shortest": self.shortest, "longest": self.longest}


@keras.saving.register_keras_serializable("keras_mgrade")
class EvenDelays(keras.initializers.Initializer):
    """Delays spread evenly: tap k of K stands at `k * max_delay / K` steps.

    Example:

    >>> initializer = keras_mgrade.initializers.EvenDelays(max_delay=32)
    >>> keras.ops.convert_to_numpy(initializer((4, 1))).ravel()
    array([ 0.,  8., 16., 24.], dtype=float32)

    Args:
        max_delay: The span, in steps.
    """

    def __init__(self, max_delay: int):
        self.max_delay = positive_integer("max_delay", max_delay)

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        steps = np.arange(shape[0]) * self.max_delay / shape[0]
        steps = np.broadcast_to(steps[:, None], shape)
        return ops.convert_to_tensor(
            steps, dtype=dtype or keras.config.floatx()
        )

    def get_config(self) -> dict[str, Any]:
        return {"max_delay": self.max_delay}


@keras.saving.register_keras_serializable("keras_mgrade")
class UniformDelays(keras.initializers.Initializer):
    """Delays drawn evenly from 0 to `max_delay` steps, each for itself.

    Example:

    >>> initializer = keras_mgrade.initializers.UniformDelays(32, seed=0)
    >>> layer = keras_mgrade.DelayConv1D(4, 32, delay_initializer=initializer)

    Args:
        max_delay: The span, in steps.
        seed: Integer, or `None` for a seed of its own for each instance.
            As in Keras, an instance gives the same values at every call.
            Defaults to `None`.
    """

    def __init__(self, max_delay: int, seed: int | None = None):
        self.max_delay = positive_integer("max_delay", max_delay)
        self.seed = seed
        self._seed = random.randint(1, 10**9) if seed is None else seed

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return keras.random.uniform(
            shape,
            0,
            self.max_delay,
            dtype=dtype or keras.config.floatx(),
            seed=self._seed,
        )

    def get_config(self) -> dict[str, Any]:
        return {"max_delay": self.max_delay, "seed": self.seed}


def clone(initializer: Any, part: int) -> Any:
    """An initializer of its own for a part of a layer.

    One instance gives the same values at every call, and so do two of one
    seed: parts of one shape would start equal.
    """
    if not hasattr(initializer, "get_config"):
        return initializer
    config = initializer.get_config()
    # A seed generator gives other values at each call by itself.
    if isinstance(config.get("seed"), int):
        config["seed"] += part
    return type(initializer).from_config(config)


def get(identifier: Any, argument: str) -> Any:
    """`keras.initializers.get`, which knows `"uniform_gate"` too."""
    if isinstance(identifier, str) and identifier == "uniform_gate":
        return UniformGate()
    try:
        if identifier is None:
            raise ValueError
        return keras.initializers.get(identifier)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be an initializer, the name of one of "
            "keras.initializers, or 'uniform_gate'. "
            f"Received: {argument}={identifier!r}"
        ) from error

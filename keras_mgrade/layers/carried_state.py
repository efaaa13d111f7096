"""States of layers: their precision, their checks, and `stateful=True`."""

from typing import Any

import keras
from keras import ops

# What keeps an attribute out of a layer's weights; Keras exports no such way.
from keras.src.utils.tracking import no_automatic_dependency_tracking


class HasState:
    """Mixin for layers with `state_specs`; comes before the Keras class."""

    @property
    def state_dtype(self) -> str:
        """States are float32 in any precision, under float64 float64."""
        return "float64" if self.compute_dtype == "float64" else "float32"

    def get_initial_state(self, batch_size: Any = None) -> list[Any]:
        """Zeros: every sequence and every stream starts from nothing."""
        return [
            ops.zeros((batch_size, *shape), dtype=self.state_dtype)
            for _, shape, _ in self.state_specs
        ]

    def quantize(self, mode: Any = None, **kwargs: Any) -> None:
        """Refuses; says what to use instead."""
        raise NotImplementedError(
            f"{type(self).__name__} is not quantized in place. For int8 on a "
            "device use keras_mgrade.export.to_tflite(model, path, "
            "precision='mixed', calibration=...). "
            f"Received: mode={mode!r}"
        )


class CarriedState(HasState):
    """Mixin for layers that may carry their states from call to call.

    The variables of a stateful layer are in `variables`, so that `fit` and
    `predict` carry them on every backend, but not in `weights` nor in files.
    """

    states = None

    @property
    def variables(self) -> list[Any]:
        """All variables: weights, seeds and carried states."""
        return [*super().variables, *(self.states or ())]

    @no_automatic_dependency_tracking
    def _make_states(self, batch_size):
        """The variables of a stateful layer, at the end of `build`."""
        if batch_size is None:
            raise ValueError(
                f"A stateful {type(self).__name__} keeps one state a row, so "
                "the batch size must be known: keras.Input(batch_shape=("
                "batch, None, channels)). Received: batch_size=None"
            )
        with keras.name_scope(self.name, caller=self):
            self.states = [
                keras.Variable(
                    ops.zeros((batch_size, *shape), dtype=self.state_dtype),
                    trainable=False,
                    dtype=self.state_dtype,
                    autocast=False,
                    name=name,
                )
                for name, shape, _ in self.state_specs
            ]

    def _states_to_start_from(self, given, x):
        """Given, carried or zero states for the sequences `x`, checked."""
        self._check_batch(x)
        if given is None and self.stateful:
            # Copies: the variables change before gradients are taken.
            return [ops.copy(variable) for variable in self.states]
        if given is None:
            return self.get_initial_state(ops.shape(x)[0])
        given = self._check_given(given, x)
        return [ops.cast(state, self.state_dtype) for state in given]

    def _check_batch(self, x):
        if not self.stateful or x.shape[0] is None:
            return
        expected = self.states[0].shape[0]
        if x.shape[0] != expected:
            raise ValueError(
                f"A stateful {type(self).__name__} was built for batches of "
                f"{expected} rows, each with a state of its own; it takes no "
                "other. "
                f"Received: batch_size={x.shape[0]}"
            )

    def _check_given(self, given, x):
        specs = self.state_specs
        given = list(given) if isinstance(given, (list, tuple)) else [given]
        if len(given) != len(specs):
            raise ValueError(
                f"`initial_state` must be {len(specs)} states, "
                f"{[name for name, _, _ in specs]}. "
                f"Received: len(initial_state)={len(given)}"
            )
        given = [_as_tensor(state) for state in given]
        for state, (name, shape, _) in zip(given, specs, strict=True):
            wanted = (x.shape[0], *shape)
            if not _fits(tuple(state.shape), wanted):
                raise ValueError(
                    f"`initial_state` ('{name}') must be of shape "
                    f"{wanted}. "
                    f"Received: initial_state.shape={tuple(state.shape)}"
                )
        return given

    def _carry(self, states):
        if self.stateful:
            for variable, state in zip(self.states, states, strict=True):
                variable.assign(state)

    def reset_state(self, states: Any = None) -> None:
        """Puts a stateful layer's states to zero, or to `states`.

        Args:
            states: Arrays as `return_state=True` gives them. Defaults to
                `None`, which is zeros.
        """
        if self.states is None:
            if states is not None:
                raise ValueError(
                    "`states` can be set in a layer that keeps states and has "
                    "been built: stateful=True. "
                    f"Received: stateful={self.stateful}, built={self.built}"
                )
            return
        if states is None:
            states = [ops.zeros(v.shape, v.dtype) for v in self.states]
        for variable, state in zip(
            self.states, self._check_given(states, self.states[0]), strict=True
        ):
            variable.assign(ops.cast(state, self.state_dtype))

    def reset_states(self, states: Any = None) -> None:
        """The same under the name that it has in older scripts."""
        self.reset_state(states)


def _as_tensor(state):
    if isinstance(state, keras.KerasTensor):
        return state
    return ops.convert_to_tensor(state)


def _fits(shape, wanted):
    return len(shape) == len(wanted) and all(
        have is None or want is None or have == want
        for have, want in zip(shape, wanted, strict=True)
    )

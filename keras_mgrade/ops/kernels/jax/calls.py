"""Fast calls of models and functions on JAX: jitted."""

import contextlib

import jax
import keras
from jax import lax
from jax import numpy as jnp


def compile_call(model):
    """A compiled inference call of `model`, its weights as arguments."""
    # Looked up once: it takes longer than a small step.
    variables = model.variables

    @jax.jit
    def call(values, inputs):
        return _called_with(model, variables, values, inputs)

    def compiled(inputs):
        return call([v.value for v in variables], inputs)

    return compiled


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    variables = model.variables

    @jax.jit
    def call(values, samples, states):
        def step(states, sample):
            inputs = [*sample, *states]
            outputs = _called_with(model, variables, values, inputs)
            outputs = jax.tree.leaves(outputs)
            first = len(outputs) - count
            return outputs[first:], outputs[:first]

        samples = [jnp.moveaxis(x, 1, 0) for x in samples]
        states, outputs = lax.scan(step, states, samples)
        return [jnp.moveaxis(y, 0, 1) for y in outputs], states

    def compiled(samples, states):
        return call([v.value for v in variables], samples, states)

    return compiled


def _called_with(model, variables, values, inputs):
    mapping = list(zip(variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return model(inputs, training=False)


def compile_gradient(function):
    """Compiled `(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """
    return jax.jit(jax.grad(function, has_aux=True))


class OwnRandomness(contextlib.nullcontext):
    """What happens within leaves the backend's generator alone: it has none."""

"""Fast calls of models and functions on PyTorch: as they stand."""

import keras
import torch


def compile_call(model):
    """An inference call of `model`; PyTorch runs it as it stands."""

    # Not `model(inputs)`, whose checks take longer than a small step.
    graph = keras.Function(model.inputs, model.outputs)

    @torch.no_grad()
    def call(inputs):
        outputs = graph.call(inputs)
        # As a model gives them.
        return outputs if len(outputs) > 1 else outputs[0]

    return call


def compile_loop(model, count):
    """`compile_call` over a time axis; `model` has `count` states, last."""
    call = compile_call(model)
    first = len(model.outputs) - count

    def loop(samples, states):
        steps = []
        for sample in zip(*(x.unbind(1) for x in samples), strict=True):
            outputs = keras.tree.flatten(call([*sample, *states]))
            steps.append(outputs[:first])
            states = outputs[first:]
        outputs = [torch.stack(ys, 1) for ys in zip(*steps, strict=True)]
        return outputs, list(states)

    return loop


def compile_gradient(function):
    """`(leaves, *rest) -> (gradients, seen)`.

    `function(leaves, *rest)` gives a scalar and what else it has seen.
    """

    def gradients(leaves, *rest):
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        # Dropout advances PyTorch's own generator, shuffling draws from it.
        with torch.random.fork_rng():
            y, seen = function(leaves, *rest)
        found = torch.autograd.grad(y, leaves, allow_unused=True)
        found = [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, found, strict=True)
        ]
        return found, seen

    return gradients


class OwnRandomness:
    """What happens within draws from a generator of its own.

    A DataLoader that shuffles draws from PyTorch's, as dropout does.
    """

    def __init__(self):
        self._mine = None

    def __enter__(self):
        self._outer = torch.get_rng_state()
        if self._mine is not None:
            torch.set_rng_state(self._mine)

    def __exit__(self, *error):
        self._mine = torch.get_rng_state()
        torch.set_rng_state(self._outer)

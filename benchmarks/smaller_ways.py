"""The ways to a smaller model, from one trained model of a task."""

import argparse
import pathlib

import keras

from device_tasks import TASKS, Behind, kept, trained
from keras_mgrade.compression import (
    Clustering,
    Pruning,
    quantization_aware,
    shrink,
)
from smaller_parts import half_way_to, one_range_a_matrix

CLUSTERS = 16
SPARSITY = 0.8
# Of the channels of each layer and of the taps of each convolution.
STRUCTURED = 0.5
# Epochs of a fine-tuning, and its rate, in parts of the training's. After
# pruning, the whole training once more: retraining at the first rate loses
# least (Renda et al., 2020, https://arxiv.org/abs/2003.02389).
PRUNE, CLUSTER, QUANTISE = 1.0, 0.25, 0.1
# Who keeps the delay lines: each channel's ends at its own longest delay.
LINES = {"delay_line": "application"}

# Of `device_tasks.TASKS`.
NAMES = ("activity", "digits")


def parser(about):
    """Where recordings and models lie."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--digits", help="recordings, see device_tasks.py")
    made.add_argument(
        "--models",
        type=pathlib.Path,
        default=pathlib.Path("device_models"),
        help="folder of trained models",
    )
    return made


def ways(arguments, name, seed):
    """The `Ways` of a task and seed, by what `parser` found."""
    data = [arguments.digits] if name == "digits" else []
    arguments.models.mkdir(parents=True, exist_ok=True)
    return Ways(arguments.models, name, TASKS[name](*data), seed)


class Ways:
    """Models of one task and seed; each lies in `folder` once it is made.

    All of them read what the trained front end hears.

    Args:
        folder: Where models lie.
        name: Of the task.
        task: The task.
        seed: Of its training.
    """

    def __init__(self, folder, name, task, seed):
        self._folder, self._task, self.seed = folder, task, seed
        self._name = f"{name}_{seed}"
        path = trained(folder, name, task, "batch", seed)
        self._whole = keras.saving.load_model(path, compile=False)
        self.behind = Behind(task, self._whole)
        self.calibration = self.behind.calibration()

    def _made(self, way, make):
        """What `make` returns, kept from one run to the next."""
        path = self._folder / f"{self._name}_{way}.keras"
        keras.utils.set_random_seed(self.seed)
        kept(path, make)
        return keras.saving.load_model(path, compile=False)

    def _tune(self, model, part, *callbacks, rate=None):
        self._task.tune(
            self._whole, model, self.seed, part, rate or part, callbacks
        )
        return model

    def _schedule(self, share):
        return half_way_to(share, self._task.steps(PRUNE))

    def floats(self):
        return self.behind.model

    def pruned(self):
        """Eight of ten weights of each matrix are zero."""

        def make():
            model = copy(self.behind.model)
            prune = Pruning(self._schedule(SPARSITY), layers=[model])
            return self._tune(model, PRUNE, prune)

        return self._made("pruned", make)

    def clustered(self):
        """A few values a matrix."""

        def make():
            model = copy(self.behind.model)
            cluster = Clustering(CLUSTERS, layers=[model])
            return self._tune(model, CLUSTER, cluster)

        return self._made("clustered", make)

    def structured(self):
        """Fewer channels and taps, and so shorter delay lines."""

        def make():
            model = copy(self.behind.model)
            callbacks = [
                Pruning(
                    self._schedule(STRUCTURED),
                    layers=[model],
                    structure=structure,
                )
                for structure in ("units", "taps")
            ]
            return shrink(self._tune(model, PRUNE, *callbacks))

        return self._made("structured", make)

    def small(self):
        """As small as `structured`, and trained from scratch for as long."""

        def make():
            delays = {
                layer.name: layer.get_config().get("delay_initializer")
                for layer in self.behind.model.layers
            }

            def fresh(layer):
                config = layer.get_config()
                if delays[layer.name] is not None:
                    config["delay_initializer"] = delays[layer.name]
                return type(layer).from_config(config)

            model = keras.models.clone_model(
                self.structured(), clone_function=fresh
            )
            return self._tune(model, 1 + PRUNE, rate=1)

        return self._made("small", make)

    def quantised(self, precision):
        """Trained as its file computes."""

        def make():
            model = quantization_aware(
                self.behind.model, self.calibration, precision, **LINES
            )
            return self._tune(model, QUANTISE)

        return self._made(f"quantised_{precision}", make)

    def pipeline(self, name, model):
        """Pruned, clustered and trained in eight bits.

        Args:
            name: What to call it.
            model: The model that is pruned.
        """

        def make():
            few = copy(model)
            self._tune(
                few,
                PRUNE,
                Pruning(self._schedule(SPARSITY), layers=[few]),
            )
            self._tune(few, CLUSTER, *self._keep(few))
            made = quantization_aware(
                few,
                self.calibration,
                weight_quantizer=one_range_a_matrix(),
                **LINES,
            )
            return self._tune(made, QUANTISE, *self._keep(made))

        return self._made(f"pipeline_{name}", make)

    def _keep(self, model):
        """What is zero stays so, and what is not has few values."""
        return (
            Pruning(layers=[model]),
            Clustering(CLUSTERS, layers=[model], preserve_sparsity=True),
        )


def copy(model):
    """A model with the same weights and layers of its own."""
    made = keras.models.clone_model(model)
    made.set_weights(model.get_weights())
    return made

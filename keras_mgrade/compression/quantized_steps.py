"""A quantised file as a layer: the same operators over whole sequences."""

import base64
import zlib
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_mgrade.compression import elementwise, products
from keras_mgrade.compression.fake_quantize import FakeQuantize
from keras_mgrade.compression.lines import find_lines
from keras_mgrade.compression.program import PRODUCTS, Program
from keras_mgrade.compression.quantizers import Quantizer, read
from keras_mgrade.compression.run import Run
from keras_mgrade.export.interface import StateLayout
from keras_mgrade.layers.carried_state import HasState


@keras.saving.register_keras_serializable("keras_mgrade")
class QuantizedSteps(HasState, keras.layers.Layer):
    """The operators of a quantised `.tflite` file, with weights that train.

    `quantization_aware` makes it. Over a sequence every operator works on all
    steps at once, recurrences too; what the file keeps in integers is rounded
    to the values that these can stand for. One step at a time it rounds the
    states as well, as the device does.

    Args:
        quantised: The quantised file, as text (`pack`).
        plain: The float file of the same model, likewise.
        states: How each state lies in the file, as `StateLayout` has it.
        options: What the file was made with.
        timed: For each answer whether there is one at every step.
        weight_quantizer: How weights are rounded.
        activation_quantizer: How ranges of activations follow the training.
        **kwargs: As for `keras.layers.Layer`.

    Input shape:
        `(batch, time, channels)`, or a list of such.

    Output shape:
        `(batch, time, channels)`, or `(batch, channels)` where the trained
        model has one answer, or a list of them.
    """

    def __init__(
        self,
        quantised: str,
        plain: str,
        states: list[dict[str, Any]],
        options: dict[str, Any],
        timed: list[bool],
        weight_quantizer: Any,
        activation_quantizer: Any,
        **kwargs: Any,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self._config = {
            "quantised": quantised,
            "plain": plain,
            "states": states,
            "options": options,
            "timed": timed,
        }
        self.timed, self.options, self._states = timed, options, states
        self.weight_quantizer = read("weight_quantizer", weight_quantizer)
        self.activation_quantizer = read(
            "activation_quantizer", activation_quantizer
        )
        roles = {state["name"]: state["role"] for state in states}
        self.program = Program(unpack(quantised), unpack(plain), roles)
        self.lines = find_lines(
            self.program,
            {s["name"]: s["delays"] for s in states if s["delays"] is not None},
        )
        self.writers = {
            index: number
            for number, op in enumerate(self.program.operators)
            for index in op.outputs
        }
        # Which of the products an operator is, and which bias it adds.
        self.uses: dict[int, tuple[str, int | None]] = {}
        self.products = self._make_products()
        self.points = self._make_points()

    def _make_products(self) -> dict[str, products.Product]:
        """What multiplies with weights, by the kernel's number in float.

        Operators of one kernel (of a layer that is called twice) share it.
        """
        tensors = self.program.tensors
        made, biases = {}, {}
        for number, op in enumerate(self.program.operators):
            kernel = tensors[op.inputs[1]] if op.name in PRODUCTS else None
            if kernel is None or kernel.value is None:
                continue
            key = str(op.sources[1])
            made.setdefault(key, (number, op.name, kernel))
            known = biases.setdefault(key, [])
            which = None
            if len(op.inputs) > 2 and op.inputs[2] >= 0:
                bias = tensors[op.inputs[2]].value
                same = [i for i, b in enumerate(known) if np.all(b == bias)]
                which = same[0] if same else len(known)
                if not same:
                    known.append(bias)
            self.uses[number] = key, which
        return {
            key: products.KINDS[name](
                kernel.value,
                biases[key],
                self._of_weights(kernel),
                name=f"{name.lower()}_{number}",
            )
            for key, (number, name, kernel) in made.items()
        }

    def _of_weights(self, kernel) -> Quantizer | None:
        if kernel.scale is None:
            return None
        words = dict(vars(self.weight_quantizer))
        # Products of 16 bits have one scale: the file says so.
        words["per_axis"] = words["per_axis"] and len(kernel.scale) > 1
        return Quantizer(**words)

    def _make_points(self) -> list[FakeQuantize]:
        """One layer for each range of activations."""
        made = []
        for number, tensor in enumerate(self.program.points):
            words = dict(vars(self.activation_quantizer))
            if tensor.kind == "int16":
                words |= {
                    "num_bits": 16,
                    "symmetric": True,
                    "narrow_range": True,
                }
            low, high = tensor.range
            made.append(
                FakeQuantize(
                    Quantizer(**words),
                    low,
                    high,
                    follows=number not in self.program.fixed,
                    name=f"range_{number}",
                )
            )
        return made

    def build(self, input_shape):
        for product in self.products.values():
            product.build()
        for point in self.points:
            point.build(())
        # Vectors that normalisations and the like multiply with or add.
        self.vectors = {}
        for op in self.program.operators:
            for index in op.inputs if op.name in elementwise.BINARY else ():
                tensor = self.program.tensors[index]
                free = tensor.value is not None and tensor.scale is None
                if free and tensor.value.size > 1:
                    self.vectors[str(index)] = self.add_weight(
                        name=f"vector_{index}",
                        shape=tensor.value.shape,
                        initializer=keras.initializers.Constant(tensor.value),
                    )

    @property
    def state_specs(self) -> list[tuple[str, tuple[int, ...], str]]:
        """`(name, shape without batch, role)` of each state."""
        specs = []
        for state in self.program.states:
            shape = self.program.tensors[state.before].row
            if state.before in self.lines:
                line = self.lines[state.before]
                shape = (line.longest, line.channels)
            specs.append((state.name, shape, state.role))
        return specs

    def call(self, inputs, training=None):
        samples = inputs if isinstance(inputs, (list, tuple)) else [inputs]
        states = self.get_initial_state(ops.shape(samples[0])[0])
        answers, _ = self._run(samples, states, bool(training))
        answers = [
            y if timed else y[:, -1]
            for y, timed in zip(answers, self.timed, strict=True)
        ]
        return answers if len(answers) > 1 else answers[0]

    def step(self, x_t: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        """One step of a stream, which rounds the states, too."""
        samples = x_t if isinstance(x_t, (list, tuple)) else [x_t]
        samples = [ops.expand_dims(x, 1) for x in samples]
        answers, states = self._run(samples, states, False)
        answers = [y[:, 0] for y in answers]
        return answers if len(answers) > 1 else answers[0], states

    def _run(self, samples, states, training):
        """Answers at all steps of a chunk, and the states behind it."""
        program = self.program
        run = Run(self, training, ops.shape(samples[0])[:2])
        for index, x in zip(program.samples, samples, strict=True):
            run.values[index] = run.rounded(index, x)
        for state, before in zip(program.states, states, strict=True):
            run.before[state.before] = before
        # In their order, so that hardly any reads what is not there yet.
        for op in program.operators:
            run.value(op.outputs[0])
        answers = [run.value(index) for index in program.answers]
        return answers, [run.last(state) for state in program.states]

    def tflite_bytes(self) -> bytes:
        """The file with the weights and ranges as they are now."""
        from keras_mgrade.compression import requantise

        return requantise.file_of(self)

    def state_layouts(self) -> list[StateLayout]:
        """How the states lie in the file."""
        return [StateLayout(**state) for state in self._states]

    def noise(self, steps: int) -> list[np.ndarray]:
        """Noise over the ranges of the samples, `(steps, features)` each."""
        rng = np.random.default_rng(0)
        found = []
        for index in self.program.samples:
            tensor = self.program.tensors[index]
            shape = (steps, *tensor.row)
            if tensor.kind == "int32":
                found.append(np.zeros(shape, "int32"))
                continue
            low, high = -1.0, 1.0
            if tensor.point is not None:
                point = self.points[tensor.point]
                low, high = (
                    float(ops.convert_to_numpy(v))
                    for v in (point.minimum, point.maximum)
                )
            noise = rng.uniform(low, high, size=shape)
            found.append(noise.astype("float32"))
        return found

    def compute_output_shape(self, input_shape):
        shapes = input_shape if isinstance(input_shape, list) else [input_shape]
        batch, time = shapes[0][:2]
        found = [
            (batch, time, *self.program.tensors[i].row)
            if timed
            else (batch, *self.program.tensors[i].row)
            for i, timed in zip(self.program.answers, self.timed, strict=True)
        ]
        return found if len(found) > 1 else found[0]

    def get_config(self):
        return {
            **super().get_config(),
            **self._config,
            "weight_quantizer": vars(self.weight_quantizer),
            "activation_quantizer": vars(self.activation_quantizer),
        }


def pack(data: bytes) -> str:
    return base64.b85encode(zlib.compress(data, 9)).decode()


def unpack(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))

"""What a proved file is: its bytes, its operators, and what to watch for."""

import hashlib
import pathlib

import numpy as np

from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export.gates import SLOW_GATE
from keras_mgrade.export.golden import golden_steps
from keras_mgrade.export.interface import StateLayout, read_interface
from keras_mgrade.export.options import Options
from keras_mgrade.export.prove import Deviation, Proof
from keras_mgrade.export.result import TFLiteFile, TFLiteModel

# Values a state of eight bits can take.
_LEVELS = 255

# Of the output's rms: tolerances of golden vectors are twice what the runtimes
# differ by, and beyond this a board passes with answers that mean little.
WEAK_GOLDEN = 0.1


def describe(
    path: pathlib.Path,
    precision: str,
    layouts: list[StateLayout],
    proof: Proof,
    gates: dict[str, float],
    options: Options,
    columns: list[np.ndarray],
) -> TFLiteModel:
    """The result object for a file that passed its proof on `columns`."""
    file = describe_file(path, proof)
    steps = golden_steps(tuple(layouts), file.inputs + file.outputs)
    return TFLiteModel(
        **vars(file),
        precision=precision,
        states=tuple(layouts),
        gates=gates,
        state_io=options.state_io,
        warnings=(
            *_warnings(precision, layouts, gates),
            *_apart(proof.deviations),
        ),
        sample=[]
        if options.window
        else [column[:steps].tolist() for column in columns],
    )


def describe_file(path: pathlib.Path, proof: Proof) -> TFLiteFile:
    """The result object for a file of which nothing else is known."""
    data = path.read_bytes()
    model = fb.load(data, str(path))
    interface = read_interface(model, str(path))
    return TFLiteFile(
        path=path,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=interface.inputs,
        outputs=interface.outputs,
        operators=tuple(fb.operator_names(model)),
        arena_bytes=proof.arena_bytes,
        arena_needed=proof.arena_needed,
        arena_note=proof.arena_note,
        deviations=proof.deviations,
        content=_content(model, len(data)),
        step_us=proof.step_us,
    )


def _content(model, size: int) -> dict[str, int]:
    """Bytes of a file by what they are for."""
    weights = biases = indices = 0
    seen: set[int] = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            if data is None or not len(data) or tensor.buffer in seen:
                continue
            seen.add(tensor.buffer)
            kind, rank = fb.dtype_name(tensor), len(fb.shape_of(tensor))
            if kind in ("int8", "float32", "int16") and rank > 1:
                weights += len(data)
            elif fb.quantization_of(tensor) or kind == "float32":
                biases += len(data)
            else:
                indices += len(data)
    scales = _scales(model)
    rest = size - weights - biases - indices - scales
    return {
        "weights": weights,
        "biases and other vectors": biases,
        "scales and zero points": scales,
        "shapes and indices": indices,
        "structure": rest,
    }


def _scales(model) -> int:
    """Bytes of the scales and zero points of all tensors, as written."""
    vectors = set()
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            q = tensor.quantization
            for values in (q.scale, q.zeroPoint) if q is not None else ():
                if values is not None:
                    values = np.asarray(values)
                    # `flatbuffer.dump` writes equal vectors once.
                    vectors.add((values.dtype.str, values.tobytes()))
    return sum(len(data) for _, data in vectors)


def _warnings(
    precision: str,
    layouts: list[StateLayout],
    gates: dict[str, float],
) -> list[str]:
    """What its user should know of a file that is right all the same."""
    found = []
    for state, gate in gates.items():
        if precision == "int8" and gate < SLOW_GATE:
            # Increments below half a step of the state vanish.
            stuck = min(1.0, 0.5 / _LEVELS / max(gate, 1e-9))
            found.append(
                f"state {state}: the slowest gate is {gate:.2g} in the mean "
                f"({1 / max(gate, 1e-9):,.0f} steps). In int8 it stops moving "
                f"up to {stuck:.0%} of its range away from where it should "
                "go; precision='mixed' does not."
            )
    ungated = {s.name for s in layouts if s.role == "recurrent"} - set(gates)
    if precision == "int8" and ungated:
        found.append(
            "states are int8, which forget what changes slowly; compare with "
            "precision='mixed'."
        )
    return found


def _apart(deviations: tuple[Deviation, ...]) -> list[str]:
    """A warning where the two runtimes do not agree well on a file."""
    return [
        f"TFLite Micro and LiteRT are {d.rms:.0%} of the output's rms apart on "
        "this file: the golden vectors of a bundle must allow that much, and "
        "a board may pass them with answers that are as far off. Compare with "
        "precision='float32'."
        for d in deviations
        if d.runtime == "TFLM beside LiteRT"
        and d.rms is not None
        and d.rms > WEAK_GOLDEN
    ]

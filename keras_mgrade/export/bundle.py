"""The bundle of a file: what the author of a firmware needs."""

import hashlib
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_mgrade.export import bundle_text as text
from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import tidy
from keras_mgrade.export.golden import Golden, golden
from keras_mgrade.export.interface import TensorInfo
from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner
from keras_mgrade.export.rings import Rings

C_FILES = pathlib.Path(__file__).parent / "c"

# What is written; nothing else in a folder is touched.
FILES = (
    "README.md",
    "golden.h",
    "model.c",
    "model.h",
    "model.tflite",
    "rings.c",
    "rings.h",
    "self_test.c",
    "self_test.h",
)

# The interpreter of another build may take a little more for its arena.
ARENA_MARGIN = 1.1


def save_bundle(result: Any, folder: str | pathlib.Path) -> None:
    """Write the bundle of an exported file; all of it, or nothing.

    Args:
        result: A `TFLiteModel`.
        folder: Where to; made if it does not exist.

    Raises:
        ValueError: If the file has changed since it was proved.
    """
    folder = check_folder(folder)
    whole = _as_proved(result)
    data = _for_the_board(whole)
    vectors = _golden(result)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part") as part:
        made = pathlib.Path(part)
        (made / "model.tflite").write_bytes(whole)
        for name in ("rings.c", "rings.h", "self_test.c", "self_test.h"):
            shutil.copyfile(C_FILES / name, made / name)
        (made / "model.h").write_text(_header(result))
        (made / "model.c").write_text(_source(result, data))
        (made / "golden.h").write_text(_vectors(result, vectors))
        (made / "README.md").write_text(text.readme(result, vectors))
        for name in FILES:
            (made / name).replace(folder / name)


def check_folder(
    folder: str | os.PathLike, argument: str = "folder"
) -> pathlib.Path:
    """The path of a folder that is there or can be made.

    Args:
        folder: The path.
        argument: What the caller's argument is called.

    Raises:
        ValueError: If a file is in its way, or nothing can be written there.
    """
    path = pathlib.Path(folder)
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    free = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    # An empty text would be the current folder, whose README is another.
    if not free or not os.fspath(folder):
        raise ValueError(
            f"Expected `{argument}` to be a folder, or not to exist yet, with "
            "no file in its way and the right to write there. Received: "
            f"{argument}={os.fspath(folder)!r}"
        )
    return path


def _as_proved(result: Any) -> bytes:
    data = result.path.read_bytes()
    if hashlib.sha256(data).hexdigest() != result.sha256:
        raise ValueError(
            "Expected the file to be the one that was proved; export it "
            f"again. Received: {result.path} of {len(data)} bytes, with "
            "another content"
        )
    return data


def _for_the_board(data: bytes) -> bytes:
    """The file without what only our runners read."""
    model = fb.load(data)
    if not fb.notes(model):
        return data
    tidy.compact(model)
    return fb.dump(model)


def _golden(result: Any) -> Golden:
    lite = LiteRTRunner(result.path)
    samples = [np.asarray(column, np.float32) for column in result.sample]
    try:
        return golden(TFLMRunner(result.path), lite, samples)
    except ImportError:
        return golden(lite, None, samples)


def _lines(result: Any) -> dict[str, tuple[TensorInfo, Rings]]:
    """The delay lines that the program holds, by name."""
    inputs = {t.name: t for t in result.inputs}
    return {
        state.name: (
            inputs[state.name],
            Rings(
                state.delays,
                inputs[state.name].dtype,
                inputs[state.name].zero_point or 0,
            ),
        )
        for state in result.states
        if state.delays is not None
    }


def _header(result: Any) -> str:
    states = {state.name for state in result.states}
    samples = [t for t in result.inputs if t.name not in states]
    answers = [t for t in result.outputs if t.name not in states]
    lines = _lines(result)
    kept = [t for t in result.inputs if t.name in states - set(lines)]
    return text.HEADER.format(
        title=result.path.name,
        precision=result.precision,
        tensors=text.tensors(result.inputs, result.outputs),
        bytes=result.bytes,
        arena=_arena(result),
        arena_note=text.arena_note(result),
        operators=len(result.operator_counts),
        register=text.registrations(sorted(result.operator_counts)),
        inputs=len(samples),
        outputs=len(answers),
        states=len([t for t in result.inputs if t.name in states]),
        sample_values=sum(math.prod(t.shape) for t in samples),
        answer_values=sum(math.prod(t.shape) for t in answers),
        state_bytes=sum(t.bytes for t in kept),
        internal=len(result.states) if result.state_io == "internal" else 0,
    )


def _arena(result: Any) -> int:
    needed = result.arena_needed or 8 * result.bytes
    return 16 * math.ceil(needed * ARENA_MARGIN / 16)


def _source(result: Any, data: bytes) -> str:
    states = {state.name for state in result.states}
    inputs = [t.name for t in result.inputs]
    outputs = [t.name for t in result.outputs]
    lines = _lines(result)
    rows = []
    for tensor in result.inputs:
        if tensor.name not in states:
            continue
        held = tensor.name in lines
        ring = f"&rings_{list(lines).index(tensor.name)}" if held else "0"
        rows.append(
            f"    {{{inputs.index(tensor.name)}, {outputs.index(tensor.name)}, "
            f"{0 if held else tensor.bytes}u, {tensor.zero_point or 0}, "
            f"{np.dtype(tensor.dtype).itemsize}, {ring}}}"
            f", /* {tensor.name} */"
        )
    return text.SOURCE.format(
        size=len(data),
        model=text.numbers(data, 12, "0x{:02x}"),
        rings="".join(
            _rings(number, *line) for number, line in enumerate(lines.values())
        ),
        inputs=_positions(inputs, states),
        outputs=_positions(outputs, states),
        states="\n".join(rows or ["    {0, 0, 0u, 0, 1, 0},"]),
    )


def _positions(names: list[str], states: set[str]) -> str:
    found = [str(i) for i, name in enumerate(names) if name not in states]
    return ", ".join(found or ["0"])


def _rings(number: int, tensor: TensorInfo, rings: Rings) -> str:
    return text.RINGS.format(
        number=number,
        name=tensor.name,
        taps=rings.delays.shape[0],
        channels=rings.delays.shape[1],
        delays=text.numbers(rings.delays.ravel(), 16, "{}"),
        lengths=text.numbers(rings.lengths, 16, "{}"),
        type=text.C_TYPES[tensor.dtype],
        size=max(1, int(rings.lengths.sum())),
        element_size=np.dtype(tensor.dtype).itemsize,
        zero=tensor.zero_point or 0,
    )


def _vectors(result: Any, vectors: Golden) -> str:
    states = {state.name for state in result.states}
    samples = [t for t in result.inputs if t.name not in states]
    answers = [t for t in result.outputs if t.name not in states]
    kept = [t for t in result.inputs if t.name in vectors.states]
    groups = {
        "inputs": _group(samples, vectors.inputs, [0.0] * len(samples)),
        "outputs": _group(answers, vectors.outputs, vectors.tolerances),
        "states": _group(
            kept,
            [vectors.states[t.name] for t in kept],
            vectors.state_tolerances,
        ),
    }
    return text.golden(groups, vectors.steps)


def _group(
    tensors: Iterable[TensorInfo],
    values: list[np.ndarray],
    tolerances: list[float],
) -> list[text.Vector]:
    return [
        text.Vector(
            tensor.name,
            tensor.dtype,
            int(np.prod(tensor.shape)),
            tensor.scale or 1.0,
            tensor.zero_point or 0,
            tolerance * (tensor.scale or 1.0),
            value,
        )
        for tensor, value, tolerance in zip(
            tensors, values, tolerances, strict=True
        )
    ]

"""`to_tflite`: the caller's side of the conversion."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from keras_mgrade import validation
from keras_mgrade.export import calibration as calibrations
from keras_mgrade.export import container, own_file, process
from keras_mgrade.export import options as option
from keras_mgrade.export import result as results
from keras_mgrade.export.options import Options
from keras_mgrade.export.result import TFLiteModel


def to_tflite(
    model: Any,
    path: str | os.PathLike,
    precision: str | Sequence[str] = "mixed",
    calibration: Any = None,
    state_dtype: str = "float32",
    state_io: str = "explicit",
    delay_line: str = "graph",
    window: int | None = None,
    proof_steps: int = 10_000,
) -> TFLiteModel | dict[str, TFLiteModel]:
    """Export a trained model as a `.tflite` step model for devices.

    The file computes one time step: inputs (x, states), outputs (y, states),
    batch size 1, built-in operators only. It runs in LiteRT on phones and in
    TFLite Micro on microcontrollers, and is handed out only after it
    reproduced the Keras stream there over `proof_steps` steps (TFLite Micro
    where its wheel exists). How far it lies off, at the beginning and at the
    end, is in the result.

    The conversion runs in a process of its own and needs TensorFlow there,
    whatever backend this process uses; it stays for two minutes, so that the
    next file takes a fraction of the time. Layers and functions of your own
    must be registered and importable.

    Example:

    ```python
    result = keras_mgrade.export.to_tflite(
        model, "har.tflite", calibration=x_train[:64]
    )
    print(result)
    y = keras_mgrade.export.LiteRTRunner("har.tflite").run(x_test[0])
    ```

    Args:
        model: A model that `streaming_model` accepts, a step model made by
            it, or the path of a `.keras` file with either. Float inputs are
            float32 in the file, those that only `Embedding` reads int32.
        path: Where to write the file. With several precisions it must contain
            `{precision}`.
        precision: `"float32"`; `"mixed"`, int8 weights and activations, delay
            lines among them, while recurrent states, the operators that
            update them and layer normalisation stay in float32, because a
            recurrent state in int8 forgets; `"int8"` throughout; `"int16x8"`,
            int16 activations and int8 weights, normalisation in float32. Or a
            list of them, made from one start of the converter. Defaults to
            `"mixed"`.
        calibration: Real input sequences, an array (n, time, features) or a
            list of (time, features) arrays; a list of tuples of arrays for a
            model with several inputs. Some of all that the device will meet
            (data often lie sorted by class): what is louder than all of it
            is cut off. Every step is run a few times: some thousand steps are
            plenty. They set the ranges of quantised files
            and are what the file is proved on, repeated if they are shorter.
            Defaults to `None`, which checks a `"float32"` file on noise.
        state_dtype: Recurrent states of `"mixed"`: `"float32"`, or `"int16"`
            for a core without floating point (layer normalisation needs it
            all the same). Defaults to `"float32"`.
        state_io: `"explicit"`, states are inputs and outputs; `"internal"`,
            the file keeps them in variables, which takes one copy more in the
            arena. Defaults to `"explicit"`.
        delay_line: `"graph"`, a delay line is a state like others, and any
            interpolation is its kernel over whole delays; `"application"`,
            the program holds the line in ring buffers, each channel's as
            long as its own longest delay, and the file takes the values at
            the taps and gives the newest one: much less work and memory, for
            layers of whole delays (`snap_delays`). Defaults to `"graph"`.
        window: Steps of a window: the file then takes a whole one, (1,
            window, features), from a fresh start and has no states, and
            `"mixed"` is int8 weights and all else in float32. What has no
            time axis in the trained model has none in the file. For phones:
            any built-in operator will do. Needs the trained model, not its
            step model. Defaults to `None`.
        proof_steps: Over how many steps the file is compared with Keras.
            Defaults to `10_000`.

    Returns:
        A `TFLiteModel`, or a dictionary of them by precision if `precision`
        is a list.

    Raises:
        ValueError: If an argument does not fit, or the model needs an
            operator that TFLite Micro does not have (for a window: that is
            not built into TFLite).
        ImportError: If TensorFlow is not installed.
        RuntimeError: If the conversion failed or the file did not reproduce
            the Keras stream: float32 to 1e-4 of the largest output, mixed
            and int16x8 to a quarter of the output's rms; an int8 state may
            forget, which is told and not refused. No file is written then.
    """
    options = option.check(
        precision,
        state_dtype=state_dtype,
        state_io=state_io,
        delay_line=delay_line,
        window=window,
        proof_steps=proof_steps,
    )
    models = convert(model, path, calibration, options)
    return models[precision] if isinstance(precision, str) else models


def convert(
    model: Any, path: str | os.PathLike, calibration: Any, options: Options
) -> dict[str, TFLiteModel]:
    """`to_tflite` with options that were checked, always by precision."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "The conversion needs TensorFlow, in a process of its own: "
            "install keras_mgrade[tflite]"
        )
    wanted = list(options.precisions)
    paths = {p: _target(path, p, len(wanted) > 1) for p in wanted}
    _spare_the_model(model, paths)
    columns = _check_calibration(model, calibration, wanted)
    with tempfile.TemporaryDirectory(prefix="keras_mgrade_") as folder:
        work = pathlib.Path(folder)
        saved = _save_model(model, work)
        if columns is not None:
            calibrations.save(work / "calibration.npz", columns)
        made = {p: work / f"{p}.tflite" for p in wanted}
        job = {
            "model": str(saved),
            "modules": _modules(saved),
            "calibration": None
            if columns is None
            else str(work / "calibration.npz"),
            "options": dataclasses.asdict(options),
            "paths": {p: str(file) for p, file in made.items()},
        }
        outcome = _run_child(job)
        for p in wanted:
            _put(made[p], paths[p])
            outcome[p]["path"] = str(paths[p])
    return {p: results.from_json(outcome[p]) for p in wanted}


def _target(
    path: str | os.PathLike, precision: str, several: bool
) -> pathlib.Path:
    text = os.fspath(path)
    if several and "{precision}" not in text:
        raise ValueError(
            "Expected `path` to contain '{precision}' where several "
            "precisions are exported, for example 'model_{precision}.tflite'."
            f" Received: path={text!r}"
        )
    target = pathlib.Path(text.replace("{precision}", precision))
    if not target.parent.is_dir():
        raise ValueError(
            "Expected `path` to lie in an existing folder. Create it first. "
            f"Received: path={text!r}"
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(
            "Expected `path` to lie in a folder with the right to write there. "
            f"Received: path={text!r}"
        )
    if target.is_dir():
        raise ValueError(
            "Expected `path` to be that of a file, but it is a folder. "
            f"Received: path={text!r}"
        )
    return target


def _spare_the_model(model: Any, paths: dict[str, pathlib.Path]) -> None:
    if isinstance(model, (str, os.PathLike)) and os.path.exists(model):
        if any(p.exists() and p.samefile(model) for p in paths.values()):
            raise ValueError(
                "Expected `path` to be another file than the model, which it "
                f"would replace. Received: path={os.fspath(model)!r}"
            )


def _check_calibration(
    model: Any, calibration: Any, wanted: list[str]
) -> calibrations.Columns | None:
    if calibration is None:
        if wanted != ["float32"] and not own_file.comes_with(model):
            raise ValueError(
                "Expected `calibration` for every precision but 'float32': "
                "real input sequences, an array (n, time, features) or a list "
                "of (time, features) arrays, which set the ranges of the "
                "quantised tensors. Received: calibration=None"
            )
        return None
    return calibrations.as_columns(calibration, _sample_shapes(model))


def _sample_shapes(model: Any) -> list[tuple] | None:
    """Shapes of one sample of each input, where this process can know."""
    inputs = getattr(model, "inputs", None) or []
    # A step model, too, has inputs without a time axis.
    if not inputs or any(
        len(tensor.shape) < 2 or tensor.shape[1] is not None
        for tensor in inputs
    ):
        return None
    return [tuple(tensor.shape[2:]) for tensor in inputs]


def _save_model(model: Any, folder: pathlib.Path) -> pathlib.Path:
    if isinstance(model, (str, os.PathLike)):
        path = pathlib.Path(model)
        container.read_config(path)
        return path.resolve()
    validation.not_tf_keras("model", model)
    if not hasattr(model, "save"):
        raise ValueError(
            "Expected `model` to be a Keras model or the path of a .keras "
            f"file. Received: model of type {type(model).__name__}"
        )
    path = folder / "model.keras"
    model.save(path)
    return path


def _modules(saved: pathlib.Path) -> list[str]:
    """What the other process must import before it loads the model."""
    config = container.read_config(saved)
    found = container.modules_of(config)
    return [*found, *container.modules_of_functions(config)]


def _run_child(job: dict[str, Any]) -> dict[str, Any]:
    """Have the conversion done and return its results by precision."""
    with _helper(job["modules"]) as helper:
        reply = helper.ask(json.dumps(job))
    if reply.text is None:
        tail = "\n".join(reply.output.splitlines()[-30:])
        how = f"exit status {reply.status}"
        if reply.status < 0:
            how = f"signal {-reply.status}"
        raise RuntimeError(
            f"The conversion process ended with {how} and no file was "
            f"written. The end of its output:\n{tail}"
        )
    outcome = json.loads(reply.text)
    if "results" in outcome:
        return outcome["results"]
    error = outcome["error"]
    kind = ValueError if error["kind"] == "ValueError" else RuntimeError
    raise kind(error["message"])


def _converter() -> process.Helper:
    return process.Helper(
        "keras_mgrade.export.child",
        prints=True,
        KERAS_BACKEND="tensorflow",
        # The converter has no use for an accelerator.
        CUDA_VISIBLE_DEVICES="-1",
    )


_STAYS = _converter()
_FREE = threading.Lock()


@contextlib.contextmanager
def _helper(modules: list[str]) -> Iterator[process.Helper]:
    """The process that stays, where it may take the job.

    Not one with modules of the user's, which may be edited before the next
    job; nor one that comes while another thread's is being done.
    """
    own = [m for m in modules if m.split(".")[0] != "keras_mgrade"]
    if not own and _FREE.acquire(blocking=False):
        try:
            yield _STAYS
        finally:
            _FREE.release()
        return
    once = _converter()
    try:
        yield once
    finally:
        once.stop()


def _put(source: pathlib.Path, target: pathlib.Path) -> None:
    """Move a file to its place: there whole, or not at all."""
    handle, name = tempfile.mkstemp(dir=target.parent, suffix=".part")
    os.close(handle)
    try:
        shutil.copyfile(source, name)
        # Readable as any other new file: mkstemp makes it private.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise

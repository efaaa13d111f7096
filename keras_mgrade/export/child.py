"""The conversion, in a process of its own.

The converter's bugs end a process, and it needs TensorFlow, whatever backend
the caller uses. `process.Helper` starts and asks it: TensorFlow, which takes
seconds to start, stays for the next model.
"""

import gc
import importlib
import json
import pathlib
import re
import traceback
import zipfile
from typing import Any

from keras_mgrade.export import calibration, process
from keras_mgrade.export.options import Options

# Seconds without a job, in which it holds some hundred megabytes.
IDLE = 120.0

PACKAGE = pathlib.Path(__file__).resolve().parents[1]


def main() -> None:
    """Do jobs until there are no more."""
    process.answer_jobs(lambda job: json.dumps(_outcome(json.loads(job))), IDLE)


def _outcome(job: dict[str, Any]) -> dict[str, Any]:
    """The results of a job, or the error it was refused with."""
    import keras

    # As in a new process: names are counted from the start.
    keras.backend.clear_session()
    gc.collect()
    try:
        return {"results": convert_all(job)}
    except (ValueError, ImportError, RuntimeError) as error:
        # What this package found is told as it is; anything else is a fault,
        # and the caller is shown the end of the output.
        if not _raised_here(error):
            raise
        message = str(error)
        if isinstance(error, ImportError):
            message += ". To convert, install keras_mgrade[tflite]"
        kind = "ValueError" if isinstance(error, ValueError) else "RuntimeError"
        return {"error": {"kind": kind, "message": message}}


def _raised_here(error: Exception) -> bool:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return pathlib.Path(last.filename).is_relative_to(PACKAGE)


def convert_all(job: dict[str, Any]) -> dict[str, Any]:
    """Convert a model in all precisions of a job; results by precision."""
    from keras_mgrade import streaming
    from keras_mgrade.export import (
        describe,
        device,
        lite,
        own_file,
        prove,
        prove_window,
        result,
        window,
    )

    options = Options(**job["options"])
    stream, axes = load_stream(job["model"], job["modules"])
    layer = own_file.layer_of(stream)
    if layer is not None:
        given = job["calibration"]
        made = own_file.write(
            layer,
            stream,
            None if given is None else calibration.load(given),
            options,
            pathlib.Path(job["paths"][options.precisions[0]]),
        )
        return {made.precision: result.to_json(made)}
    if options.window is None:
        model, layouts = device.device_form(stream, options.delay_line)
    elif axes is None:
        raise ValueError(
            "Expected `model` to be the trained model itself where `window` is "
            "given: a step model does not show which answers there are for "
            f"every step. Received: window={options.window}, a step model"
        )
    else:
        layouts, model = [], window.Window(stream, options.window, axes)
    count = len(stream.inputs) - len(streaming.state_specs(stream))
    samples = stream.inputs[:count]
    shapes = [tuple(t.shape[1:]) for t in samples]
    if job["calibration"] is None:
        columns = calibration.noise(shapes)
        if any(t.dtype != "float32" for t in samples):
            raise ValueError(
                "Expected `calibration` for a model whose inputs are not "
                "float32: noise is no valid input of it. Received: "
                f"calibration=None, dtypes {[t.dtype for t in samples]}"
            )
    else:
        columns = calibration.load(job["calibration"])
        # They were joined before the shapes were known for certain.
        calibration.check_rows([columns], shapes)
    columns = [c.astype(t.dtype) for c, t in zip(columns, samples, strict=True)]
    if options.precisions != ("float32",):
        calibration.check_moves(columns, [t.name for t in samples])
    proved_on = prove.proof_columns(columns, options.proof_steps)
    converted = lite.convert(model, layouts, columns, options)
    if options.window is None:
        reference = prove.keras_outputs(stream, count)(proved_on)
    else:
        cases = prove_window.windows(stream, proved_on, options.window, axes)
    results = {}
    for precision, data in converted.files.items():
        path = pathlib.Path(job["paths"][precision])
        path.write_bytes(data)
        if options.window is None:
            proof = prove.prove(
                path, precision, proved_on, reference, options.refuse_deviation
            )
        else:
            proof = prove_window.prove(path, precision, cases)
        made = describe.describe(
            path,
            precision,
            layouts,
            proof,
            converted.gates,
            options,
            proved_on,
        )
        results[precision] = result.to_json(made)
    return results


def load_stream(path: str, modules: list[str]) -> tuple[Any, Any]:
    """The step model of the model in a `.keras` file, batch size 1.

    Args:
        path: A `.keras` file of a model or of its step model.
        modules: Modules that define the model's layers.

    Returns:
        The step model, and the `TimeAxes` of the model in the file; `None`
        if that is a step model, which does not show them.

    Raises:
        ValueError: If a module cannot be imported or the model cannot run as
            a stream.
    """
    import keras

    from keras_mgrade import streaming
    from keras_mgrade.export import prepare

    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(
                "Expected the layers of `model` to come from modules that "
                "can be imported, since the conversion runs in a process of "
                "its own. Put them into a module on the path. Received: "
                f"module={module!r} ({error})"
            ) from error
    try:
        model = keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            "Expected `model` to be loadable from a .keras file. Register "
            "its layers and functions with "
            "keras.saving.register_keras_serializable, put them into a module "
            "on the path, and import that before you call to_tflite: a file "
            "does not say where a function is from. Received: "
            f"{_gist(error)}"
        ) from error
    prepare.compute_in_float32(model)
    prepare.name_scopes(model)
    operations = getattr(model, "operations", [])
    if not any(isinstance(op, streaming.Step) for op in operations):
        stream, axes = streaming.stream_and_axes(model, batch_size=1)
        return prepare.input_types(stream), axes
    batches = {t.shape[0] for t in model.inputs}
    if batches != {1}:
        raise ValueError(
            "Expected `model` to be a step model of batch size 1. Make it "
            "with streaming_model(model, batch_size=1), or give the trained "
            f"model itself. Received: batch sizes {sorted(batches, key=str)}"
        )
    return prepare.input_types(model), None


def _gist(error: Exception) -> str:
    """The telling line of an error of Keras, which prints the whole model."""
    found = re.search(r"Could not locate [^.]*", str(error))
    return found.group(0) if found else str(error).split("\n", 1)[0]


if __name__ == "__main__":
    main()

"""Convert a `.keras` file, or check a file of either kind.

    python -m keras_mgrade.export convert model.keras model.tflite \\
        --calibration=x.npy --precision=mixed
    python -m keras_mgrade.export check model.tflite

The calibration of a model with several inputs is a `.npz` file, see
`calibration_file.read`. `python -m keras_mgrade.export --help` lists the flags.
"""

import pathlib
import sys

from absl import flags

from keras_mgrade.export import bundle, calibration_file, container
from keras_mgrade.export.convert import to_tflite
from keras_mgrade.export.inspection import check
from keras_mgrade.export.options import PRECISIONS

USAGE = (
    "python -m keras_mgrade.export convert MODEL.keras FILE.tflite [flags]\n"
    "python -m keras_mgrade.export check FILE [--calibration=SEQUENCES]\n"
)


def define_flags() -> flags.FlagValues:
    """The flags of the command line, in a set of their own."""
    values = flags.FlagValues()
    own = {"flag_values": values}
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", **own)
    flags.DEFINE_enum(
        "precision", "mixed", PRECISIONS, "What the file computes in.", **own
    )
    flags.DEFINE_string(
        "calibration",
        None,
        ".npy file of real sequences, (n, time, features); for several inputs "
        "a .npz file of such arrays by the inputs' names, or without names "
        "(arr_0, arr_1) in their order. Every precision but float32 needs it; "
        "`check` runs the first one, of a .tflite file only.",
        **own,
    )
    flags.DEFINE_enum(
        "state_dtype",
        "float32",
        ["float32", "int16"],
        "Recurrent states in mixed precision.",
        **own,
    )
    flags.DEFINE_enum(
        "state_io",
        "explicit",
        ["explicit", "internal"],
        "States as inputs and outputs, or in variables of the file.",
        **own,
    )
    flags.DEFINE_enum(
        "delay_line",
        "graph",
        ["graph", "application"],
        "Delay lines as states, or in ring buffers of the program.",
        **own,
    )
    flags.DEFINE_integer(
        "window",
        None,
        "Steps of a whole window, for phones; else a file is one step.",
        lower_bound=1,
        **own,
    )
    flags.DEFINE_integer(
        "proof_steps",
        10_000,
        "Over how many steps the file is compared with Keras.",
        lower_bound=1,
        **own,
    )
    flags.DEFINE_string(
        "bundle",
        None,
        "Folder to write the bundle for a firmware into.",
        **own,
    )
    return values


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        Exit status: 0 if all went well, 1 if the file or the model was
        refused, 2 if the command line was.
    """
    values = define_flags()
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _, *words = values(["keras_mgrade.export", *given])
    except flags.Error as error:
        return _refuse(str(error), 2)
    if values.help:
        lines = [
            f"  --{name}: {values[name].help} Default: {values[name].value}"
            for name in sorted(values)
            if len(name) > 1
        ]
        print("\n".join([USAGE, "flags:", *lines]))
        return 0
    command, *words = words or [""]
    wanted = {"convert": 2, "check": 1}
    if len(words) != wanted.get(command):
        return _refuse(f"usage:\n{USAGE}", 2)
    given = {name for name in values if values[name].present}
    unused = given - {"calibration"} if command == "check" else set()
    if unused:
        return _refuse(f"`check` has no use for {sorted(unused)}", 2)
    if {"window", "bundle"} <= given:
        return _refuse(
            "--bundle is for microcontrollers and --window for phones: leave "
            "one of them out",
            2,
        )
    try:
        {"check": _check, "convert": _convert}[command](values, *words)
    except (EOFError, ImportError, OSError, RuntimeError, ValueError) as error:
        return _refuse(f"error: {error}", 1)
    return 0


def _check(values: flags.FlagValues, path: str) -> None:
    first = None
    if values.calibration is not None:
        arrays = calibration_file.read(values.calibration)
        first = {name: array[0] for name, array in arrays.items()}
    print(check(path, first))


def _convert(values: flags.FlagValues, model: str, path: str) -> None:
    # What is wrong here is told before the minutes that a conversion takes.
    if values.bundle is not None:
        _check_bundle(values.bundle, path)
    sequences = None
    if values.calibration is not None:
        config = container.read_config(pathlib.Path(model))
        sequences = calibration_file.sequences(
            calibration_file.read(values.calibration),
            container.input_names(config),
        )
    result = to_tflite(
        model,
        path,
        precision=values.precision,
        calibration=sequences,
        state_dtype=values.state_dtype,
        state_io=values.state_io,
        delay_line=values.delay_line,
        window=values.window,
        proof_steps=values.proof_steps,
    )
    print(result)
    if values.bundle is not None:
        result.save_bundle(values.bundle)
        print(f"bundle: {values.bundle}")


def _check_bundle(folder: str, path: str) -> None:
    place = bundle.check_folder(folder, "bundle").resolve()
    file = pathlib.Path(path).resolve()
    if file in (place, *place.parents):
        raise ValueError(
            "Expected `bundle` to be a folder beside the file. Received: "
            f"bundle={folder!r}, file {path!r}"
        )


def _refuse(text: str, status: int) -> int:
    print(text, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

"""Convert a `.keras` file and print what came out.

`python -m keras_mgrade.export model.keras model.tflite --calibration x.npy`
"""

import argparse
import sys

import numpy as np

from keras_mgrade.export.convert import to_tflite
from keras_mgrade.export.options import PRECISIONS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments; `None` takes those of the process.

    Returns:
        Exit status, 0 if the file was written.
    """
    parser = argparse.ArgumentParser(
        prog="python -m keras_mgrade.export",
        description="Export a trained model as a .tflite step model, checked "
        "in LiteRT and TFLite Micro.",
    )
    parser.add_argument("model", help=".keras file of a model")
    parser.add_argument("path", help=".tflite file to write")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="mixed", help="(mixed)"
    )
    parser.add_argument(
        "--calibration",
        help=".npy file of real sequences, (n, time, features)",
    )
    options = parser.parse_args(arguments)
    try:
        calibration = None
        if options.calibration is not None:
            calibration = np.load(options.calibration, allow_pickle=False)
        result = to_tflite(
            options.model, options.path, options.precision, calibration
        )
    except (OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Convert a `.keras` file: `python tflite/convert.py MODEL.keras FILE.tflite`.

The flags are those of `python -m keras_mgrade.export convert --help`.
"""

import sys

from keras_mgrade.export.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))

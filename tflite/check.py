"""Look at a file without trusting it: `python tflite/check.py FILE`.

The flags are those of `python -m keras_mgrade.export check --help`.
"""

import sys

from keras_mgrade.export.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["check", *sys.argv[1:]]))

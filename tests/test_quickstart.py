"""The demo, a small part of everything, as a user runs it."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest

from budget import AS_USERS

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = (
    "Keras, whole sequence",
    "Keras, streaming",
    "LiteRT, float32",
    "TFLite Micro, float32",
    "LiteRT, mixed",
    "TFLite Micro, mixed",
)


@pytest.mark.skipif(
    keras.backend.backend() != "jax",
    reason="the demo trains on JAX unless told otherwise; once is enough",
)
def test_quickstart_fast(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "examples" / "quickstart.py",
            "--fast",
            "--output",
            tmp_path,
        ],
        env=AS_USERS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in (
        "activity.keras",
        "activity_float32.tflite",
        "activity_mixed.tflite",
        "quickstart.png",
    ):
        assert (tmp_path / name).stat().st_size > 1000

    found = {
        name: re.search(
            rf"^{name} +(\S+)% +(\S+)$", done.stdout, re.MULTILINE
        ).groups()
        for name in ROWS
    }
    accuracy = {name: float(row[0]) for name, row in found.items()}
    whole = accuracy[ROWS[0]]
    # 150 steps are a tenth of a training: far above chance, no more.
    assert whole > 40
    for name in ROWS[1:4]:
        # The same numbers: to 0.001 % of the largest logit.
        assert float(found[name][1].rstrip("%")) < 1e-3
        assert accuracy[name] == pytest.approx(whole, abs=0.2)
    for name in ROWS[4:]:
        assert accuracy[name] == pytest.approx(whole, abs=10)

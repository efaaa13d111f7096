"""Two devices train the model that one trains, with each backend's engine."""

import pathlib
import re
import subprocess
import sys

import keras
import pytest

from budget import AS_USERS

SCRIPT = (
    pathlib.Path(__file__).resolve().parent.parent
    / "examples"
    / "more_than_one_device.py"
)
# Of how far the weights move in ten steps: float32 sums in another order.
APART = 1e-4


@pytest.mark.slow
def test_two_devices():
    backend = keras.backend.backend()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--fast", "--backend", backend],
        env=AS_USERS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    number = r"(\d[\d.e-]*)"
    moved, apart = map(
        float,
        re.search(
            f"weights move by {number}, and are {number} apart", done.stdout
        ).groups(),
    )
    assert moved > 0.05
    assert apart <= APART * moved
    rows = re.findall(r"^(\d) devices? +[\d.]+ +([\d.]+)%$", done.stdout, re.M)
    assert [count for count, _ in rows] == ["1", "2"]
    # Six activities: by chance a sixth.
    accuracies = [float(accuracy) for _, accuracy in rows]
    assert min(accuracies) > 40
    assert abs(accuracies[0] - accuracies[1]) < 5

"""What has to be waited for once: imports, first training steps."""

import pathlib
import subprocess
import sys
import time

import timing
from speed_models import (
    PAPER_INPUT,
    classification,
    gru_model,
    paper_model,
    training_step,
)

FIRST_STEPS = {"paper's model": paper_model, "two layers of GRU": gru_model}


def first_steps(rounds):
    """Rows of the first training step, each time in a new process."""
    rows = []
    for mode, compiled in timing.modes().items():
        for name in FIRST_STEPS:
            code = (
                "import speed_starts; "
                f"print(speed_starts.first_step({name!r}, {compiled}))"
            )
            times = milliseconds(code, rounds)
            rows.append(
                {
                    "part": "first training step",
                    "mode": mode,
                    "name": name,
                    **timing.summary(times),
                }
            )
    return rows


def first_step(name, compiled):
    """Seconds from a built model to the end of its first training step."""
    model = FIRST_STEPS[name]()
    run = training_step(model, PAPER_INPUT, compiled, classification())
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def imports(rounds):
    """A row of `import keras_mgrade` on top of `import keras`."""
    code = (
        "import time; import keras; start = time.perf_counter(); "
        "import keras_mgrade; print(time.perf_counter() - start)"
    )
    return [
        {
            "part": "import",
            "mode": next(iter(timing.modes())),
            "name": "keras_mgrade, on top of keras",
            **timing.summary(milliseconds(code, rounds)),
        }
    ]


def milliseconds(code, rounds):
    """What a program that prints seconds prints last, in ms."""
    times = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
        times.append(1e3 * float(done.stdout.split()[-1]))
    return times

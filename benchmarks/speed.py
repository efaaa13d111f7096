"""How fast everything is, on each backend, beside its peers.

    python benchmarks/speed.py            # everything, about half an hour
    python benchmarks/speed.py --fast     # fewer rounds and sizes, minutes

Every part runs in a process of its own for each backend, one after the other.
Leave the machine alone meanwhile. The results go to `results/speed.json`,
`speed.md` and `speed.png`, or to `speed_fast.*`.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BACKENDS = ("jax", "tensorflow", "torch")
PACKAGES = ("keras", "jax", "tensorflow_cpu", "torch", "numpy")
PEERS = ("mingru-keras", "keras-tcn", "DCLS")
# Memory stays with a process once it has it. Fresh pages are dear, in virtual
# machines most of all, and would be charged to whoever asks for them first.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_ARENA_MAX": "1",
}


def parts(fast):
    """From a part's name to the arguments of each of its processes."""
    lengths = range(8, 18, 3) if fast else range(8, 18)
    training = (32, 256) if fast else (32, 256, 1024)
    return {
        "recurrence": [[]],
        "taps": [[]],
        "training": [[str(length)] for length in training],
        "paper": [[]],
        "first step": [
            [name, mode]
            for name in ("paper's model", "two layers of GRU")
            for mode in ("False", "True")
        ],
        "regrowth": [[]],
        "streaming": [[]],
        "growth": [[str(2**power)] for power in lengths],
        "import": [[]],
    }


def child(part, arguments, fast):
    """Runs one part in this process; its rows."""
    import speed_growth
    import speed_models
    import speed_operations
    import timing

    rounds = 5 if fast else 15
    if part in ("recurrence", "taps"):
        return getattr(speed_operations, part)(rounds)
    if part in ("paper", "streaming", "regrowth"):
        return getattr(speed_models, part)(rounds)
    if part == "training":
        return speed_models.training(rounds, int(arguments[0]))
    if part == "growth":
        return [speed_growth.growth(int(arguments[0]))]
    if part == "import":
        times = speed_models.seconds_to_import(3 if fast else 7)
        return [
            {
                "part": "import",
                "mode": next(iter(timing.modes())),
                "name": "keras_mgrade, on top of keras",
                **timing.summary(times),
            }
        ]
    name, compiled = arguments[0], arguments[1] == "True"
    mode = {c: m for m, c in timing.modes().items()}.get(compiled)
    if mode is None:
        return []
    seconds = speed_models.first_step(name, compiled)
    return [
        {
            "part": "first training step",
            "mode": mode,
            "name": name,
            "ms": round(1e3 * seconds, 1),
        }
    ]


def run(part, arguments, backend, fast):
    """The rows of one process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--child", part, str(answer)]
        done = subprocess.run(
            [*command, *arguments, *(["--fast"] if fast else [])],
            env={
                **os.environ,
                **KEEP_MEMORY,
                "KERAS_BACKEND": backend,
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{part} on {backend}:\n{done.stderr[-3000:]}")
        rows = json.loads(answer.read_text())
        return [{"process": [part, backend], **row} for row in rows]


def kept_rows(path, work):
    """Of an earlier run on this machine: the rows of other processes."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    if earlier["machine"] != processor() or earlier["versions"] != versions():
        return []
    anew = [[part, backend] for part, _, backend in work]
    return [row for row in earlier["rows"] if row["process"] not in anew]


def versions():
    found = {}
    for package in (*PACKAGES, *PEERS):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    models = [ln.split(":")[1].strip() for ln in lines if "model name" in ln]
    return f"{models[0] if models else 'unknown'}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--backends", nargs="+", default=BACKENDS)
    parser.add_argument("--parts", nargs="+", default=list(parts(True)))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        part, answer, *rest = arguments.child
        rows = child(part, rest, arguments.fast)
        pathlib.Path(answer).write_text(json.dumps(rows))
        return

    import tqdm

    import speed_table

    work = [
        (part, each, backend)
        for part, several in parts(arguments.fast).items()
        if part in arguments.parts
        for each in several
        for backend in arguments.backends
    ]
    name = "speed_fast" if arguments.fast else "speed"
    path = HERE / "results" / name
    kept = kept_rows(path.with_suffix(".json"), work)
    rows = []
    progress = tqdm.tqdm(work, unit="process")
    for part, each, backend in progress:
        progress.set_description(" ".join([part, *each, "on", backend]))
        rows += run(part, each, backend, arguments.fast)
    results = {
        "machine": processor(),
        "versions": versions(),
        "rows": kept + rows,
    }
    speed_table.write(results, path)


if __name__ == "__main__":
    main()

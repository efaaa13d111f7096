"""How fast everything is, on each backend, beside its peers.

    python benchmarks/speed.py            # everything, twenty minutes
    python benchmarks/speed.py --fast     # fewer rounds and sizes, minutes

Every part runs in a process of its own for each backend, one after the other.
Leave the machine alone meanwhile. The results go to `results/speed.json`,
`speed.md` and `speed.png`, or to `speed_fast.*`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import machine

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
# The recurrence once more without them: as programs are when nobody sets them.
FRESH = "recurrence, memory taken anew"


def parts(fast):
    """From a part's name to the arguments of each of its processes."""
    lengths = range(8, 18, 3) if fast else range(8, 18)
    training = (32, 256) if fast else (32, 256, 1024)
    return {
        "recurrence": [[]],
        FRESH: [[]],
        "taps": [[]],
        "choices": [[]],
        "training": [[str(length)] for length in training],
        "paper": [[]],
        "first step": [[]],
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
    import speed_starts

    rounds = 5 if fast else 15
    if part in ("recurrence", FRESH):
        rows = speed_operations.recurrence(rounds)
        return [{**row, "part": part} for row in rows]
    if part in ("taps", "choices"):
        return getattr(speed_operations, part)(rounds)
    if part in ("paper", "streaming", "regrowth"):
        return getattr(speed_models, part)(rounds)
    if part == "training":
        return speed_models.training(rounds, int(arguments[0]))
    if part == "growth":
        return [speed_growth.growth(int(arguments[0]))]
    if part == "first step":
        return speed_starts.first_steps(1 if fast else 3)
    return speed_starts.imports(3 if fast else 7)


def run(part, arguments, backend, fast):
    """The rows of one process."""
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder) / "rows.json"
        command = [sys.executable, __file__, "--child", part, str(answer)]
        done = subprocess.run(
            [*command, *arguments, *(["--fast"] if fast else [])],
            env={
                **os.environ,
                **({} if part == FRESH else KEEP_MEMORY),
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


def measured_with():
    return {
        "machine": machine.processor(),
        "versions": machine.versions((*PACKAGES, *PEERS)),
    }


def kept_rows(path, work):
    """Of an earlier run on this machine: the rows of other processes."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text())
    if any(earlier[key] != value for key, value in measured_with().items()):
        return []
    anew = [[part, backend] for part, _, backend in work]
    return [row for row in earlier["rows"] if row["process"] not in anew]


def in_order(rows):
    """By part and backend, in whatever order they were measured."""
    names = list(parts(True))

    def place(row):
        part, backend = row["process"]
        return names.index(part), BACKENDS.index(backend)

    return sorted(rows, key=place)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument(
        "--backends", nargs="+", choices=BACKENDS, default=BACKENDS
    )
    names = list(parts(True))
    parser.add_argument("--parts", nargs="+", choices=names, default=names)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        part, answer, *rest = arguments.child
        rows = child(part, rest, arguments.fast)
        pathlib.Path(answer).write_text(json.dumps(rows))
        return

    import tqdm

    import results_file
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
        results = {**measured_with(), "rows": in_order(kept + rows)}
        # After each: what a later process breaks must not take these along.
        text = json.dumps(results, indent=1) + "\n"
        results_file.write_whole(path.with_suffix(".json"), text)
    speed_table.write(results, path)
    print(path.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()

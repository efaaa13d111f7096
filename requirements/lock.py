"""Resolves demo.in and dev.in into demo.lock and dev.lock.

Run it as `make lock`, with Python 3.11 on Linux x86-64. pip resolves without
installing anything and reports what it would take; what is written are
complete lists of pinned versions, to be installed with `--no-deps`.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

HEADER = """\
# Made by `make lock` from {source}; do not edit.
# Install with: pip install --no-deps -r requirements/{name}
"""

# TensorFlow comes as tensorflow-cpu, torch from the Makefile, both built
# without CUDA. `--no-deps` leaves the rest behind.
REPLACED = {"tensorflow": "tensorflow-cpu"}
DROPPED = re.compile(r"torch|triton|(nvidia|cuda)(-.*)?")


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(*arguments):
    """Returns {canonical name: version} of everything pip would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet"]
        command += ["--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", "--report", str(report), *arguments]
        subprocess.run(command, check=True)
        items = json.loads(report.read_text())["install"]
    pins = {}
    for item in items:
        name = canonical(item["metadata"]["name"])
        if not DROPPED.fullmatch(name):
            pins[REPLACED.get(name, name)] = item["metadata"]["version"]
    return pins


def write(name, source, pins):
    lines = [f"{package}=={pins[package]}" for package in sorted(pins)]
    text = HEADER.format(name=name, source=source) + "\n".join(lines) + "\n"
    (HERE / name).write_text(text)
    print(f"requirements/{name}: {len(lines)} packages")


def main():
    demo_in, dev_in = str(HERE / "demo.in"), str(HERE / "dev.in")
    demo_lock = str(HERE / "demo.lock")
    write("demo.lock", "demo.in", resolve("-r", demo_in))
    # The demo's versions are constraints: both locks agree on them.
    dev = resolve("-r", demo_in, "-r", dev_in, "-c", demo_lock)
    write("dev.lock", "demo.in and dev.in", dev)


if __name__ == "__main__":
    main()

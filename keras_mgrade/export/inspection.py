"""Check a file of unknown origin, in a process that it may bring down."""

import json
import os
import pathlib
import subprocess
import threading
from typing import Any

import numpy as np

from keras_mgrade.export import calibration as calibrations
from keras_mgrade.export import flatbuffer as fb
from keras_mgrade.export import operators, process
from keras_mgrade.export.container import modules_of, read_config
from keras_mgrade.export.result import TFLiteFile, file_from_json, to_json

# A step takes microseconds; what runs longer than this does not end.
SECONDS = 60.0


def check(
    path: str | os.PathLike, sequence: Any = None, steps: int = 256
) -> TFLiteFile | str:
    """Look at a `.tflite` or `.keras` file without trusting it.

    A `.tflite` file is verified and run in LiteRT and TFLite Micro, whose
    outputs are compared; a `.keras` file is loaded and made a stream. All of
    it happens in a process of its own, which stays for the next file: a file
    that crashes or never ends costs that process and nothing else.

    Example:

    ```python
    print(keras_mgrade.export.check("kws.tflite"))
    ```

    Args:
        path: The file.
        sequence: Input of a `.tflite` file, an array (time, features), or a
            list of them for several inputs. Defaults to `None`, which is
            noise.
        steps: How much noise. Defaults to `256`.

    Returns:
        For a `.tflite` file what was found; prints as a table. For a `.keras`
        file the table of its memory.

    Raises:
        ValueError: If the file is broken, has operators or states that do not
            work, or brought the process down.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"Expected `path` to be a file. Received: path={str(path)!r}"
        )
    columns = None
    if sequence is not None:
        columns = (
            sequence if isinstance(sequence, (list, tuple)) else [sequence]
        )
        columns = [np.asarray(c, np.float32).tolist() for c in columns]
    answer = _WORKER.ask(
        {"path": str(path.resolve()), "columns": columns, "steps": steps}
    )
    if "error" in answer:
        raise ValueError(answer["error"])
    found = answer["result"]
    return found if isinstance(found, str) else file_from_json(found)


class Worker:
    """The process that looks; started when first asked, and after a crash."""

    def __init__(self):
        self._process = None
        self._lock = threading.Lock()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The answer to a job; an error in it, if it ended the process."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._start()
            timer = threading.Timer(SECONDS, self._process.kill)
            timer.start()
            try:
                self._process.stdin.write(json.dumps(job) + "\n")
                self._process.stdin.flush()
                line = self._answers.readline()
            except BrokenPipeError:
                line = ""
            except BaseException:
                # An answer that is still to come must not meet another job.
                self.stop()
                raise
            finally:
                timer.cancel()
            if line:
                return json.loads(line)
            return {"error": self._how_it_ended(job)}

    def _start(self) -> None:
        self.stop()
        reading, writing = os.pipe()
        self._process = subprocess.Popen(
            process.command("worker", str(writing)),
            env=process.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[writing],
            text=True,
        )
        os.close(writing)
        self._answers = os.fdopen(reading)

    def _how_it_ended(self, job: dict[str, Any]) -> str:
        status = self._process.wait()
        how = f"exit status {status}"
        if status < 0:
            how = f"signal {-status}"
        if status == -9:
            how += f" (after {SECONDS:.0f} s, or for want of memory)"
        return (
            "Expected a file that can be run, but this one ended the process "
            f"that ran it, with {how}. Do not use it. Received: "
            f"path={job['path']!r}"
        )

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._answers.close()
            self._process = None


_WORKER = Worker()


def look_at(
    path: str, columns: list[Any] | None, steps: int
) -> str | dict[str, Any]:
    """What `check` finds, in the process that may die of it."""
    file = pathlib.Path(path)
    with open(file, "rb") as opened:
        head = opened.read(8)
    if head[:2] == b"PK" or file.suffix == ".keras":
        return _look_at_keras(file)
    return to_json(_look_at_tflite(file, columns, steps))


def _look_at_keras(path: pathlib.Path) -> str:
    from keras_mgrade.export.child import load_stream
    from keras_mgrade.memory import stream_report

    # Importing what an untrusted file names would run it.
    own = [
        module
        for module in modules_of(read_config(path))
        if module.split(".")[0] == "keras_mgrade"
    ]
    stream, _ = load_stream(str(path), own)
    return str(stream_report(stream))


def _look_at_tflite(
    path: pathlib.Path, columns: list[Any] | None, steps: int
) -> TFLiteFile:
    from keras_mgrade.export import describe, prove
    from keras_mgrade.export.interpreters import LiteRTRunner, TFLMRunner

    # Before any runtime sees the file.
    model = fb.load(path.read_bytes(), path.name)
    operators.check_operators(model)
    lite = LiteRTRunner(path)
    shapes = [tuple(t.shape[1:]) for t in lite.samples]
    if columns is None:
        columns = calibrations.noise(shapes, steps)
    columns = [
        # What is no quantised number stays what it is, a token perhaps.
        np.asarray(c, "float32" if t.scale else t.dtype)
        for c, t in zip(columns, lite.samples, strict=True)
    ]
    calibrations.check_rows([columns], shapes)
    outputs = prove.run(lite, columns)
    deviations, arena, note = [], (None, None), ""
    try:
        micro = TFLMRunner(path)
    except ImportError as error:
        note = f"not run: {error}"
    else:
        found = prove.run(micro, columns)
        deviations = [prove.deviation("TFLM beside LiteRT", found, outputs)]
        arena = prove.arena_bytes(micro)
    proof = prove.Proof(tuple(deviations), *arena, note, lite.step_time())
    return describe.describe_file(path, proof)

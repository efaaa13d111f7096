"""Processes of this package's own, which stay for the next job."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

# Variables that Python, Keras and the runtimes read when they start.
_READ = ("PYTHON", "KERAS", "TF_", "XLA_", "OMP_", "CUDA_")


def environment(**more: str) -> dict[str, str]:
    """This process's environment, in which another can import the same.

    Args:
        **more: Variables to set beside.

    Returns:
        All variables by name.
    """
    return {
        **os.environ,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path),
        **more,
    }


@dataclasses.dataclass(frozen=True)
class Reply:
    """What came of a job.

    Attributes:
        text: The answer; `None` if the process ended without one.
        late: Whether it was ended because it took too long.
        status: Its exit status, if it ended.
        output: What it printed.
    """

    text: str | None
    late: bool = False
    status: int | None = None
    output: str = ""


class Helper:
    """A process that answers jobs, a line each.

    It is started when it is first asked, after a crash, and when what it
    would import or read from its environment is not the same any more.

    Args:
        module: What it runs, which calls `answer_jobs`.
        prints: Whether what it prints is kept for the reply.
        **variables: Of its environment.
    """

    def __init__(self, module: str, prints: bool = False, **variables: str):
        self._module, self._prints = module, prints
        self._variables = variables
        self._process: subprocess.Popen | None = None
        self._lock = threading.Lock()

    def ask(self, job: str, seconds: float | None = None) -> Reply:
        """The answer to a job, a line as the job is.

        Args:
            job: What the process is told.
            seconds: After how long it is ended; `None` waits for ever.
        """
        with self._lock:
            reply = self._ask(job, seconds)
            if reply.text is None and reply.status == 0:
                # It went for want of jobs, just now.
                reply = self._ask(job, seconds)
            return reply

    def _ask(self, job, seconds):
        self._make_ready()
        late = threading.Event()
        timer = None
        if seconds is not None:
            seconds = min(seconds, threading.TIMEOUT_MAX)
            timer = threading.Timer(seconds, self._end, [late])
            timer.start()
        try:
            self._process.stdin.write(job + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        except BaseException:
            # An answer that is still to come must not meet another job.
            self.stop()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        # An answer without its end is that of a process that died.
        if line.endswith("\n"):
            if late.is_set():
                self.stop()
            return Reply(line[:-1])
        status = self._process.wait()
        output = self._printed()
        self.stop()
        return Reply(None, late.is_set(), status, output)

    def _end(self, late):
        late.set()
        self._process.kill()

    def _make_ready(self):
        wanted = environment(**self._variables)
        read = {k: v for k, v in wanted.items() if k.startswith(_READ)}
        # A fork of this process must start one of its own.
        start = (os.getpid(), read)
        running = self._process is not None and self._process.poll() is None
        if running and start == self._start:
            if self._prints:
                self._told = os.fstat(self._output.fileno()).st_size
            return
        self.stop()
        self._start = start
        self._output = subprocess.DEVNULL
        if self._prints:
            self._output, self._told = tempfile.TemporaryFile(), 0
        # -P: the current folder must not come before this process's path.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", self._module],
            env=wanted,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            text=True,
        )

    def _printed(self):
        if not self._prints:
            return ""
        # What it printed for this job; nobody else writes there any more.
        self._output.seek(self._told)
        return self._output.read().decode(errors="replace")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is None:
            return
        if self._start[0] == os.getpid():
            self._process.kill()
            self._process.wait()
        # What it was not told any more is still to be written.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        if self._prints:
            self._output.close()
        self._process = None


def answer_jobs(
    answer: Callable[[str], str], idle: float | None = None
) -> None:
    """What a `Helper`'s process does.

    Args:
        answer: From a job to its answer, a line each.
        idle: After how many seconds without a job it ends; `None` stays.
    """
    # Runtimes print on the standard output, which from here on goes the way
    # of errors.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        rest = None
        for job in sys.stdin:
            if rest is not None:
                rest.cancel()
            answers.write(answer(job) + "\n")
            answers.flush()
            if idle is not None:
                rest = threading.Timer(idle, os._exit, [0])
                rest.daemon = True
                rest.start()

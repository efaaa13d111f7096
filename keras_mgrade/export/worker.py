"""A process that looks at files, and may die of one.

`process.Helper` starts and asks it.
"""

import json
import sys
from typing import Any

from keras_mgrade.export import process

# What a job may take beyond what the process has when it begins, in bytes.
MEMORY = 3 << 30

# What no file can do without, and is not to blame for.
LITERT = "ai_edge_litert"


def main() -> None:
    """Answer jobs until there are no more."""
    _limit_memory()
    process.answer_jobs(lambda job: json.dumps(_answer(json.loads(job))))


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    from keras_mgrade.export import look

    try:
        return {"result": look.look_at(**job)}
    # Whatever a broken file raises is an answer about it.
    except Exception as error:
        module = getattr(error, "name", None) or ""
        if isinstance(error, ImportError) and module.startswith(LITERT):
            text = f"{error}. To check a file, install keras_mgrade[tflite]"
            return {"error": text, "missing": True}
        kind = type(error).__name__
        if kind == "ValueError":
            return {"error": str(error)}
        return {
            "error": "Expected a file that can be loaded and run on its input. "
            f"Received: path={job['path']!r} ({kind}: {error})"
        }


def _limit_memory() -> None:
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    # Runtimes reserve far more than they use: room for them, too.
    used = pages * resource.getpagesize()
    limit = used + MEMORY + (8 << 30)
    _, allowed = resource.getrlimit(resource.RLIMIT_AS)
    if allowed == resource.RLIM_INFINITY or limit < allowed:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    main()

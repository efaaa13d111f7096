"""A look at a `.keras` file before Keras opens it."""

import json
import pathlib
import zipfile
from collections.abc import Iterator
from typing import Any

import keras

# A `.keras` file holds its weights as they are; what is to grow more than this
# many times was made to fill the memory.
LARGEST_GROWTH = 100


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The configuration of the model in a `.keras` file.

    Args:
        path: The file.

    Returns:
        The content of its `config.json`.

    Raises:
        ValueError: If the file is not a whole and plain `.keras` archive.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise ValueError(
            "Expected `model` to be a Keras model or the path of a whole "
            f".keras file. Received: model={str(path)!r} ({_instead(path)})"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path)
            config = json.loads(archive.read("config.json"))
            if not isinstance(config, dict):
                raise ValueError("config.json is no object")
    except (
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        RecursionError,
        RuntimeError,
        UnicodeDecodeError,
        ValueError,
        zipfile.BadZipFile,
        zipfile.zlib.error,
    ) as error:
        raise ValueError(
            "Expected `model` to be a whole .keras file; this one was cut "
            f"short or changed: save the model again. Received: "
            f"model={str(path)!r} ({_gist(error)})"
        ) from error
    return config


def _instead(path: pathlib.Path) -> str:
    """What is there in place of a `.keras` file."""
    if not path.exists():
        return "there is no such file"
    if not path.is_file():
        return "it is not a file"
    try:
        with open(path, "rb") as file:
            head = file.read(8)
    except OSError as error:
        return str(error)
    if head[4:] == b"TFL3":
        return "it is a .tflite file"
    if head[:2] == b"PK":
        return "its end is missing: save the model again"
    return f"it starts with {head!r}, not as an archive does"


def _check_members(archive: zipfile.ZipFile, path: pathlib.Path) -> None:
    members = archive.infolist()
    names = [m.filename for m in members]
    for name in ("config.json", "model.weights.h5"):
        if name not in names:
            raise ValueError(f"no {name} in it")
    if len(set(names)) != len(names):
        raise ValueError("one name twice")
    for name in names:
        place = pathlib.PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            raise ValueError(f"a member outside of it, {name!r}")
    size = path.stat().st_size
    if sum(m.file_size for m in members) > LARGEST_GROWTH * size:
        raise ValueError("it would grow more than a hundredfold")
    broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of {broken!r} is wrong")


def _gist(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def modules_of(config: dict[str, Any]) -> list[str]:
    """Modules that define the registered classes of a model.

    Args:
        config: What `read_config` gives.

    Returns:
        Their names, without Keras's own.

    Raises:
        ValueError: If a class was defined in a script.
    """
    modules = set()
    for value in _objects(config):
        name, module = value.get("registered_name"), value.get("module")
        # Keras leaves the module out for what a script itself defines.
        if name and "class_name" in value and module in (None, "__main__"):
            raise _of_a_script(value["class_name"], name)
        if name and module:
            modules.add(str(module))
    return _others(modules)


def input_names(config: dict[str, Any]) -> list[str] | None:
    """Names of the inputs of a functional model, in its order.

    Args:
        config: What `read_config` gives.

    Returns:
        The names, or `None` where the configuration does not list them.
    """
    inner = config.get("config")
    listed = inner.get("input_layers") if isinstance(inner, dict) else None
    if not isinstance(listed, list) or not listed:
        return None
    # A single input is not in a list of its own.
    entries = [listed] if isinstance(listed[0], str) else listed
    names = [e[0] for e in entries if isinstance(e, list) and e]
    whole = len(names) == len(entries)
    return names if whole and all(isinstance(n, str) for n in names) else None


def modules_of_functions(config: dict[str, Any]) -> list[str]:
    """Modules that define the registered functions of a model.

    A `.keras` file names the function but not its module; this process knows
    it if it has imported it.

    Args:
        config: What `read_config` gives.

    Returns:
        The modules' names, without Keras's own.

    Raises:
        ValueError: If a function was defined in a script.
    """
    modules = set()
    for value in _objects(config):
        name = value.get("config")
        if value.get("class_name") != "function" or not isinstance(name, str):
            continue
        found = keras.saving.get_registered_object(name)
        module = getattr(found, "__module__", None)
        if module == "__main__":
            raise _of_a_script(found.__name__, name)
        if module:
            modules.add(module)
    return _others(modules)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries in a configuration, from the outside in."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _of_a_script(name: str, registered_name: str) -> ValueError:
    return ValueError(
        "Expected the layers and functions of `model` to come from modules "
        "that can be imported, since the conversion runs in a process of its "
        f"own. Move {name!r} out of the script into a module. "
        f"Received: registered_name={registered_name!r}"
    )


def _others(modules: set[str]) -> list[str]:
    # Functions, whose own module a file does not name, are of "builtins".
    known = ("keras", "builtins")
    return sorted(m for m in modules if m.split(".")[0] not in known)

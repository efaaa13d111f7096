"""What is shipped: the wheel in a clean environment, requirements, locks."""

import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile

import keras
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

VERSION = re.search(
    r'^__version__ = "(.+)"$',
    (ROOT / "keras_mgrade" / "version.py").read_text(),
    re.MULTILINE,
).group(1)

# Runs in the clean environment, where nothing else of this checkout is.
PROBE = """
import importlib.util, json, sys
import keras, keras_mgrade
found = [
    name
    for name in ("tensorflow", "torch")
    if name in sys.modules or importlib.util.find_spec(name)
]
try:
    keras_mgrade.export.to_tflite(None, "model.tflite")
except ImportError as error:
    hint = str(error)
print(json.dumps({
    "hint": hint,
    "backend": keras.backend.backend(),
    "version": keras_mgrade.__version__,
    "file": keras_mgrade.__file__,
    "found": found,
}))
"""


def read_lock(name):
    """Returns {canonical name: version} of a lock file."""
    pins = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, version = line.split("==")
            pins[canonicalize_name(package)] = version
    return pins


def closure(*names):
    """Returns the names and all that they require, as installed here."""
    found, open_names = set(), [canonicalize_name(name) for name in names]
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            for line in importlib.metadata.requires(name) or []:
                needed = Requirement(line)
                marker = needed.marker
                if marker is None or marker.evaluate({"extra": ""}):
                    open_names.append(canonicalize_name(needed.name))
    return sorted(found)


def run(*command, **options):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        **options,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy so that the checkout stays as it is."""
    if keras.backend.backend() != "jax":
        pytest.skip("the wheel is built once, in the run on JAX")
    folder = tmp_path_factory.mktemp("wheel")
    unwanted = (".*", "*.egg-info", "__pycache__", "build", "dist", "data")
    copy = folder / "checkout"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*unwanted))
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", folder, copy),
    )
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_package_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    about = f"keras_mgrade-{VERSION}.dist-info"
    assert wheel.name == f"keras_mgrade-{VERSION}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"keras_mgrade", about}
    assert f"{about}/licenses/LICENSE" in names
    shipped = {n for n in names if n.startswith("keras_mgrade/")}
    sources = [
        path
        for pattern in ("*.py", "*.c", "*.h")
        for path in (ROOT / "keras_mgrade").rglob(pattern)
    ]
    assert shipped == {path.relative_to(ROOT).as_posix() for path in sources}


def test_wheel_works_alone_on_jax(wheel, tmp_path):
    lock = read_lock("dev.lock")
    needed = closure("keras", "numpy", "jax")
    pins = [f"{name}=={lock[name]}" for name in needed]
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install"),
        *("--quiet", "--no-deps", "--only-binary=:all:", "--no-compile"),
        *(*pins, wheel),
    )
    # Without PYTHONPATH and the like, from a folder where nothing lies.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    clean.update(KERAS_BACKEND="jax", KERAS_HOME=str(tmp_path / "keras"))
    answer = run(python, "-c", PROBE, cwd=tmp_path, env=clean)
    answer = json.loads(answer.splitlines()[-1])
    assert answer["backend"] == "jax"
    assert answer["version"] == VERSION
    assert pathlib.Path(answer["file"]).is_relative_to(environment)
    assert answer["found"] == []
    assert "install keras_mgrade[tflite]" in answer["hint"]


def test_locks_agree_and_hold_no_cuda():
    demo, dev = read_lock("demo.lock"), read_lock("dev.lock")
    assert demo.items() <= dev.items()
    for name in dev:
        assert not re.match(r"nvidia|cuda|triton|jax-cuda|torch", name), name
    assert "tensorflow" not in dev


def test_lock_meets_every_requirement():
    pins = read_lock("dev.lock")
    pins["tensorflow"] = pins["tensorflow-cpu"]
    makefile = (ROOT / "Makefile").read_text()
    pins["torch"] = re.search(r"torch==([^+\s]+)\+cpu", makefile).group(1)
    extras = PROJECT["optional-dependencies"].values()
    lines = [*PROJECT["dependencies"], *(line for e in extras for line in e)]
    for requirement in map(Requirement, lines):
        name = canonicalize_name(requirement.name)
        version = Version(pins[name])
        met = requirement.specifier.contains(version, prereleases=True)
        assert met, f"{requirement} is not met by {version}"
        assert ">=" in str(requirement.specifier), requirement


def test_base_requirements_are_keras_and_numpy():
    names = {Requirement(line).name for line in PROJECT["dependencies"]}
    assert names == {"keras", "numpy"}

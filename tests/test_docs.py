"""Every example in a docstring and in the README runs as it stands."""

import doctest
import importlib
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest

import keras_mgrade
from budget import slow_except_on

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


class Checker(doctest.OutputChecker):
    """Shapes print as tuples on every backend."""

    def check_output(self, want, got, optionflags):
        got = re.sub(r"(?:torch\.Size|TensorShape)\((\[.*?\])\)", _tuple, got)
        return super().check_output(want, got, optionflags)


def _tuple(match):
    return str(tuple(int(n) for n in re.findall(r"\d+", match[1])))


def test_shapes_of_every_backend_read_as_tuples():
    flags = doctest.NORMALIZE_WHITESPACE
    for shape in ("torch.Size([2, 4])", "TensorShape([2, 4])", "(2, 4)"):
        assert Checker().check_output("(2, 4)\n", f"{shape}\n", flags)
        assert not Checker().check_output("(2, 5)\n", f"{shape}\n", flags)
    assert Checker().check_output("(2,)\n", "torch.Size([2])\n", flags)


def examples():
    # Conversion has examples of its own kind: they need the converter.
    finder = doctest.DocTestFinder()
    modules = ["keras_mgrade"] + [
        module.name
        for module in pkgutil.walk_packages(
            keras_mgrade.__path__, "keras_mgrade."
        )
        if ".export" not in module.name and ".kernels." not in module.name
    ]
    for name in modules:
        for found in finder.find(importlib.import_module(name)):
            if found.examples:
                yield found


EXAMPLES = {example.name: example for example in examples()}


def test_the_public_names_have_examples():
    # The others are parts of these, or return what these examples show.
    without = {
        "MinGRUCell",
        "initial_states",
        "reset_states",
        "set_states",
        "__version__",
    }
    modules = {
        "activations",
        "callbacks",
        "initializers",
        "models",
        "ops",
        "plotting",
        "regularizers",
    }
    names = set(keras_mgrade.__all__) - without - modules
    assert names <= {example.rsplit(".")[-1] for example in EXAMPLES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_docstring_example(name):
    keras.utils.clear_session(free_memory=False)
    example = EXAMPLES[name]
    example.globs = {"np": np, "keras": keras, "keras_mgrade": keras_mgrade}
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    output = []
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=flags)
    result = runner.run(example, out=output.append, clear_globs=False)
    assert result.attempted > 0
    assert not result.failed, "".join(output)


def run_blocks(path, namespace):
    blocks = re.findall(
        r"^```python\n(.*?)^```$",
        path.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert blocks
    keras.utils.clear_session(free_memory=False)
    for number, block in enumerate(blocks):
        code = compile(block, f"{path.name}, block {number}", "exec")
        exec(code, namespace)
    return namespace


@slow_except_on("torch")
def test_readme(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_blocks(README, {})


@slow_except_on("torch")
# So short a training has time for few probes, and says so.
@pytest.mark.filterwarnings("ignore:RegrowDelays")
def test_the_page_on_delays(monkeypatch, tmp_path, rng):
    monkeypatch.chdir(tmp_path)
    namespace = {
        "keras": keras,
        "keras_mgrade": keras_mgrade,
        "x": rng.normal(size=(128, 20, 6)).astype("float32"),
        "y": np.arange(128) % 6,
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "learning_rate": 1e-3,
        "epochs": 10,
    }
    found = run_blocks(README.parent / "docs" / "delays.md", namespace)
    assert 0 < found["changes"]["output"] < 1
    assert list((tmp_path / "logs").iterdir())

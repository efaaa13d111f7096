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


def test_readme(monkeypatch, tmp_path):
    blocks = re.findall(
        r"^```python\n(.*?)^```$",
        README.read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert blocks
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session(free_memory=False)
    namespace = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"README.md, block {number}", "exec"), namespace)

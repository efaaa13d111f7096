"""The process that converts, which stays for the next file."""

import keras
import numpy as np
import pytest

import keras_mgrade
from keras_mgrade.export import convert, process, to_tflite
from test_export import once, pytestmark  # noqa: F401

X = np.random.default_rng(0).normal(size=(4, 60, 3)).astype("float32")

# `process` alone: without the package, which would take seconds to start.
ECHO = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("process", {path!r})
process = sys.modules["process"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(process)

def answer(job):
    print("told", job)
    return job.strip() * 2 if job != "die\\n" else sys.exit(3)

process.answer_jobs(answer, {idle})
"""


def contents(units, folder, precision="mixed"):
    keras.utils.set_random_seed(units)
    layer = keras_mgrade.MGrade(units, 2, 5, name="a")
    model = keras.Sequential([keras.Input((None, 3)), layer])
    path = folder / f"{units}.tflite"
    to_tflite(model, path, precision, X, proof_steps=50)
    return path.read_bytes()


@once
def test_files_are_the_same_whatever_came_before(tmp_path):
    convert._STAYS.stop()
    alone = contents(4, tmp_path)
    first = convert._STAYS._process.pid
    contents(5, tmp_path, "int8")
    assert contents(4, tmp_path) == alone
    assert convert._STAYS._process.pid == first


@once
def test_which_process_a_model_gets():
    with convert._helper(["keras_mgrade.layers.mgrade"]) as stays:
        assert stays is convert._STAYS
        # As in another thread; and one whose modules may be edited.
        for modules in ([], ["of_ones_own"]):
            with convert._helper(modules) as other:
                assert other is not stays
    with convert._helper(["of_ones_own"]) as other:
        assert other is not stays


@pytest.fixture
def echo(tmp_path, monkeypatch):
    """Makes a `Helper` that says everything twice."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(idle=None):
        source = ECHO.format(path=process.__file__, idle=idle)
        (tmp_path / "says_it_twice.py").write_text(source)
        made.append(process.Helper("says_it_twice", prints=True))
        return made[-1]

    yield make
    for helper in made:
        helper.stop()


@once
def test_crashes_and_other_environments(echo, monkeypatch):
    helper = echo()
    assert helper.ask("ab") == process.Reply("abab")
    first = helper._process.pid
    monkeypatch.setenv("OF_NO_CONCERN", "1")
    assert helper.ask("c") == process.Reply("cc")
    assert helper._process.pid == first
    reply = helper.ask("die")
    # What it printed for this job, not for those before.
    assert (reply.text, reply.status) == (None, 3)
    assert reply.output.startswith("told die")
    assert helper.ask("d").text == "dd"
    second = helper._process.pid
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert helper.ask("e").text == "ee"
    assert len({first, second, helper._process.pid}) == 3


@once
def test_a_process_that_went_is_started_again(echo, monkeypatch):
    """It ends after a while without a job, perhaps just as one comes."""
    helper = echo(idle=0.2)
    assert helper.ask("ab").text == "abab"
    assert helper._process.wait() == 0
    monkeypatch.setattr(helper._process, "poll", lambda: None)
    assert helper.ask("c").text == "cc"

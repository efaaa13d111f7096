"""What `save_bundle` writes compiles, and its golden vectors hold."""

import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import test_export as exports
from keras_mgrade import export
from keras_mgrade.export import __main__ as command_line
from keras_mgrade.export import bundle, bundle_text, flatbuffer
from keras_mgrade.export.operators import SUPPORTED
from test_export import RUNNERS, once, sequences

pytestmark = [exports.pytestmark, once]
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or shutil.which("c++") is None,
    reason="no C compiler `cc` and `c++` on the path",
)

# How the states are held, and in which precision: each once.
KINDS = {
    "explicit": ("mixed", {}),
    "rings": ("int16x8", {"delay_line": "application"}),
    "internal": ("float32", {"state_io": "internal"}),
}
FLAGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    model = exports.make_model(interpolation="integer")
    made = {}
    for kind, (precision, options) in KINDS.items():
        folder = tmp_path_factory.mktemp(kind)
        made[kind] = export.to_tflite(
            model,
            folder / "m.tflite",
            precision,
            sequences(),
            proof_steps=300,
            **options,
        )
        made[kind].save_bundle(folder / "bundle")
    return made


def folder_of(result):
    return result.path.parent / "bundle"


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_as_c_and_as_cpp(results, kind, tmp_path):
    sources = [
        folder_of(results[kind]) / name
        for name in ("model.c", "rings.c", "self_test.c")
    ]
    for compiler, standard in (
        (["cc"], "-std=c99"),
        (["c++", "-x", "c++"], "-std=c++11"),
    ):
        subprocess.run(
            [*compiler, standard, *FLAGS, "-c", *sources],
            cwd=tmp_path,
            check=True,
        )


@pytest.mark.parametrize("kind", KINDS)
def test_files(results, kind):
    result, folder = results[kind], folder_of(results[kind])
    assert sorted(p.name for p in folder.iterdir()) == sorted(bundle.FILES)
    source = (folder / "model.c").read_text()
    listed = re.search(r"g_model\[\] = \{([^}]*)\}", source)[1]
    array = bytes(int(n, 16) for n in listed.replace(",", " ").split())
    whole = (folder / "model.tflite").read_bytes()
    assert whole == result.path.read_bytes()
    model = flatbuffer.load(array)
    # What only our runners read stays behind.
    assert not flatbuffer.notes(model)
    assert flatbuffer.operator_names(model) == list(result.operators)
    header = (folder / "model.h").read_text()
    for tensor in result.inputs + result.outputs:
        assert f"{tensor.name}, {tensor.dtype}" in header
    for operator in set(result.operators):
        assert f".{bundle_text.method(operator)}()" in header
    arena = int(re.search(r"ARENA_BYTES (\d+)", header)[1])
    if result.arena_bytes is not None:
        assert result.arena_bytes < result.arena_needed
        assert 0 <= arena - 1.1 * result.arena_needed < 16
    readme = (folder / "README.md").read_text()
    assert str(result) in readme
    for name, tensor in (("SAMPLE", "inputs"), ("ANSWER", "outputs")):
        (count,) = getattr(result, tensor)[0].shape[1:]
        assert f"MGRADE_{name}_VALUES {count}\n" in header
    assert "ai-edge-litert " in readme
    # Which loop is to be taken, and how many variables it must make.
    inside = int(re.search(r"INTERNAL_STATES (\d+)", header)[1])
    assert inside == (kind == "internal") * result.operators.count("VAR_HANDLE")
    assert (inside > 0) == ("MicroResourceVariables" in readme)


needs_tflm = pytest.mark.skipif(
    export.TFLMRunner not in RUNNERS, reason="no wheel of TFLite Micro here"
)


@needs_tflm
@pytest.mark.parametrize("kind", KINDS)
def test_arena_is_enough_for_the_setup(results, kind):
    """In a process of its own: too small an arena may crash it."""
    folder = folder_of(results[kind])
    header = (folder / "model.h").read_text()
    arena = int(re.search(r"ARENA_BYTES (\d+)", header)[1])
    code = (
        "import pathlib\n"
        "from tflite_micro.python.tflite_micro import runtime\n"
        f"data = pathlib.Path({str(folder / 'model.tflite')!r}).read_bytes()\n"
        "runtime.Interpreter.from_bytes(data, arena_size={}).invoke()\n"
    )
    for size in (arena, results[kind].arena_needed):
        command = [sys.executable, "-c", code.format(size)]
        subprocess.run(command, check=True)


@needs_compiler
def test_main_loop_takes_the_header_and_the_test_its_functions(
    results, tmp_path
):
    root = pathlib.Path(__file__).resolve().parent
    (tmp_path / "main.cc").write_text(
        f'#include "{root.parent / "tflite" / "main_loop.cc"}"\n'
        '#include "self_test.h"\n'
        "int FeedOrFail(const float *sample, float *answer) {\n"
        "  return Feed(sample, answer);\n"
        "}\n"
        "int main() {\n"
        "  keras_mgrade_self_test_result result;\n"
        "  return !Setup() || keras_mgrade_self_test(\n"
        "      Reset, FeedOrFail, States, &result);\n"
        "}\n"
    )

    def compile_with(kind):
        return subprocess.run(
            ["c++", "-std=c++14", "-fsyntax-only", *FLAGS]
            + [f"-I{folder_of(results[kind])}", f"-I{root / 'tflm_stub'}"]
            + [tmp_path / "main.cc"],
            capture_output=True,
            text=True,
            check=False,
        )

    for kind in ("explicit", "rings"):
        done = compile_with(kind)
        assert done.returncode == 0, done.stderr
    assert "state_io='explicit'" in compile_with("internal").stderr


# The program of the firmware's author, with a table of answers for a model.
PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "self_test.h"
#include "golden.h"

static FILE *answers;
static float last[KERAS_MGRADE_SAMPLE_VALUES];

static void reset(void) {{ rewind(answers); }}

static int feed(const float *sample, float *answer) {{
  memcpy(last, sample, sizeof(last));
  return fread(answer, sizeof(float), KERAS_MGRADE_ANSWER_VALUES, answers) ==
         KERAS_MGRADE_ANSWER_VALUES;
}}

int main(int count, char **arguments) {{
  keras_mgrade_self_test_result result;
  int i, failed;
  answers = fopen(arguments[count - 1], "rb");
  failed = keras_mgrade_self_test(reset, feed, {states}, &result);
  printf("%d %d %d %g", result.steps, result.wrong, result.first_step,
         (double)result.worst);
  for (i = 0; i < KERAS_MGRADE_SAMPLE_VALUES; ++i) {{
    printf(" %.9g", (double)last[i]);
  }}
  return failed;
}}
"""


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_golden_vectors_hold(results, kind, runner, tmp_path):
    """Every runtime passes the test; another model's answers do not."""
    result, folder = results[kind], folder_of(results[kind])
    (tmp_path / "main.c").write_text(PROGRAM.format(states="NULL"))
    program = tmp_path / "program"
    subprocess.run(
        ["cc", "-std=c99", f"-I{folder}", tmp_path / "main.c"]
        + [folder / "self_test.c", "-o", program],
        check=True,
    )
    samples = np.asarray(result.sample[0], np.float32)
    answers = runner(result.path).run(samples)

    def run(answers):
        (tmp_path / "answers").write_bytes(answers.astype("<f4").tobytes())
        done = subprocess.run(
            [program, tmp_path / "answers"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, [float(n) for n in done.stdout.split()]

    status, (steps, wrong, first, worst, *sample) = run(answers)
    assert (status, wrong, first) == (0, 0, -1)
    assert steps == len(samples) and worst <= 1.25
    # Eight steps of the longest delay, and sixteen more.
    assert steps == 24
    step = result.inputs[0].scale or 1e-6
    np.testing.assert_allclose(sample, samples[-1], atol=0.51 * step)
    broken = answers.copy()
    broken[7, 1] += 0.3 * np.abs(answers).max()
    status, (_, wrong, first, worst, *_) = run(broken)
    assert (status, wrong, first) == (1, 1, 7) and worst > 1.25
    broken[7, 1] = np.nan
    status, (_, wrong, first, worst, *_) = run(broken)
    assert (status, wrong, first) == (1, 1, 7) and np.isnan(worst)
    # A step that failed is told from one that came out wrong.
    status, (steps, wrong, first, *_) = run(answers[:10])
    assert (status, steps, wrong, first) == (2, 11, 0, -1)


@needs_compiler
def test_states_are_compared_too(results, tmp_path):
    result, folder = results["explicit"], folder_of(results["explicit"])
    runner = RUNNERS[-1](result.path)
    samples = np.asarray(result.sample[0], np.float32)
    answers = runner.run(samples)
    kept = b"".join(runner.states[t.name].tobytes() for t in result.inputs[1:])
    program = PROGRAM.replace(
        "static FILE *answers;",
        "static FILE *answers;\nstatic unsigned char kept[100000];\n"
        "static const void *states(void) {{ return kept; }}",
    ).replace(
        "answers = fopen",
        'FILE *file = fopen(arguments[1], "rb");\n'
        "  if (!fread(kept, 1, sizeof(kept), file)) return 3;\n"
        "  answers = fopen",
    )
    (tmp_path / "main.c").write_text(program.format(states="states"))
    subprocess.run(
        ["cc", "-std=c99", f"-I{folder}", tmp_path / "main.c"]
        + [folder / "self_test.c", "-o", tmp_path / "program"],
        check=True,
    )
    (tmp_path / "answers").write_bytes(answers.astype("<f4").tobytes())

    def run(kept):
        (tmp_path / "kept").write_bytes(kept)
        command = [tmp_path / "program", tmp_path / "kept"]
        command.append(tmp_path / "answers")
        return subprocess.run(command, capture_output=True).returncode

    assert run(kept) == 0
    assert run(bytes([kept[0] ^ 0x40]) + kept[1:]) == 1


def test_methods_of_the_resolver():
    """Its names, for every operator that a file may have."""
    methods = {name: bundle_text.method(name) for name in SUPPORTED}
    assert methods["BATCH_MATMUL"] == "AddBatchMatMul"
    assert methods["CONV_2D"] == "AddConv2D"
    assert methods["DEPTHWISE_CONV_2D"] == "AddDepthwiseConv2D"
    assert methods["GATHER_ND"] == "AddGatherNd"
    assert methods["L2_NORMALIZATION"] == "AddL2Normalization"
    assert methods["MAX_POOL_2D"] == "AddMaxPool2D"
    assert methods["RELU6"] == "AddRelu6"
    assert methods["REVERSE_V2"] == "AddReverseV2"
    assert methods["SPLIT_V"] == "AddSplitV"


def test_nothing_is_left_half_written(results, tmp_path):
    result = results["explicit"]
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match="to be a folder"):
        result.save_bundle(file)
    copy = tmp_path / "copy.tflite"
    content = bytearray(result.path.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    changed = dataclasses.replace(result, path=copy)
    with pytest.raises(ValueError, match="that was proved"):
        changed.save_bundle(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    # Over one that is there already.
    result.save_bundle(tmp_path / "again")
    result.save_bundle(tmp_path / "again")
    assert len(list((tmp_path / "again").iterdir())) == len(bundle.FILES)


@pytest.mark.slow
def test_scripts_beside_the_main_loop(results):
    """They are the command line with its first word."""
    root = pathlib.Path(__file__).resolve().parent.parent / "tflite"
    done = subprocess.run(
        [sys.executable, root / "check.py", results["explicit"].path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and "FULLY_CONNECTED" in done.stdout
    # The bundle's copy still says where the taps of its line are.
    found = export.check(folder_of(results["rings"]) / "model.tflite")
    assert found.bytes == results["rings"].bytes
    done = subprocess.run(
        [sys.executable, root / "convert.py", "nowhere.keras", "m.tflite"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no such file" in done.stderr


def test_command_line_writes_a_bundle(tmp_path, capsys):
    exports.make_model().save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", sequences())
    status = command_line.main(
        [
            "convert",
            str(tmp_path / "m.keras"),
            str(tmp_path / "m.tflite"),
            f"--calibration={tmp_path / 'x.npy'}",
            f"--bundle={tmp_path / 'bundle'}",
            "--proof_steps=100",
        ]
    )
    assert status == 0 and "bundle" in capsys.readouterr().out
    assert len(list((tmp_path / "bundle").iterdir())) == len(bundle.FILES)

"""The main loop for TFLite Micro: it compiles, whatever the states are."""

import pathlib
import shutil
import subprocess

import pytest

from keras_mgrade import export

ROOT = pathlib.Path(__file__).resolve().parent.parent
STUB = ROOT / "tests" / "tflm_stub"
LOOP = ROOT / "tflite" / "main_loop.cc"
BUNDLE = pathlib.Path(export.__file__).parent / "c"

COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="there is no C++ compiler `c++` here"
)

# What the loop needs of a bundle, and nothing more.
HEADER = """
#include <stdint.h>
#include "rings.h"
extern const unsigned char g_model[];
#define KERAS_MGRADE_ARENA_BYTES 4096
#define KERAS_MGRADE_OPERATOR_COUNT 2
#define KERAS_MGRADE_REGISTER_OPERATORS(resolver) \\
  ((resolver).AddFullyConnected() == kTfLiteOk && \\
   (resolver).AddMul() == kTfLiteOk)
#define KERAS_MGRADE_INTERNAL_STATES 0
#define KERAS_MGRADE_INPUTS 1
#define KERAS_MGRADE_OUTPUTS 1
static const int kKerasMgradeInputs[] = {0};
static const int kKerasMgradeOutputs[] = {0};
typedef struct {
  int input_index;
  int output_index;
  uint32_t bytes;
  int32_t zero_point;
  uint8_t element_size;
  const keras_mgrade_rings *rings;
} KerasMgradeState;
"""
STATES = """
static const uint16_t kDelays[] = {3, 0, 1, 2};
static const uint16_t kLengths[] = {3, 2};
static int8_t g_values[5];
static uint16_t g_heads[2];
static const keras_mgrade_rings kRings = {
    kDelays, kLengths, 2, 2, 1, -7, g_values, g_heads};
#define KERAS_MGRADE_STATES 2
#define KERAS_MGRADE_STATE_BYTES 16
static const KerasMgradeState kKerasMgradeStates[] = {
    {1, 1, 16, 0, 2, nullptr},
    {2, 2, 0, -7, 1, &kRings},
};
"""
NO_STATES = """
#define KERAS_MGRADE_STATES 0
#define KERAS_MGRADE_STATE_BYTES 0
static const KerasMgradeState kKerasMgradeStates[] = {
    {0, 0, 0, 0, 0, nullptr}};
"""


@pytest.mark.parametrize("states", [STATES, NO_STATES], ids=["two", "none"])
@pytest.mark.parametrize("standard", ["c++11", "c++14"])
def test_the_main_loop_compiles(standard, states, tmp_path):
    (tmp_path / "model.h").write_text(HEADER + states)
    includes = [f"-I{path}" for path in (tmp_path, BUNDLE, STUB)]
    done = subprocess.run(
        [
            *(COMPILER, f"-std={standard}", "-fsyntax-only"),
            *("-Wall", "-Wextra", "-Werror", "-pedantic"),
            *(*includes, str(LOOP)),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr

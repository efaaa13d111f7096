"""What a bundle's generated files say."""

import contextlib
import dataclasses
import re
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import numpy as np

C_TYPES = {
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "float32": "float",
}

HEADER = """\
/* {title}, precision {precision}: a step of a stream for TFLite Micro.
 *
{tensors}
 *
 * A tensor that stands among the inputs and among the outputs is a state: what
 * comes out goes in at the next step. At the start all states are zero.
 */
#ifndef KERAS_MGRADE_MODEL_H_
#define KERAS_MGRADE_MODEL_H_

#include <stdint.h>

#include "rings.h"

#ifdef __cplusplus
extern "C" {{
#endif

/* The .tflite file, {bytes:,} bytes, aligned to 16. */
extern const unsigned char g_model[];
extern const unsigned int g_model_size;

/* {arena_note} */
#define KERAS_MGRADE_ARENA_BYTES {arena}

/* The operators of the file, each counted once, and no other: all of them are
 * added to a MicroMutableOpResolver<KERAS_MGRADE_OPERATOR_COUNT>. */
#define KERAS_MGRADE_OPERATOR_COUNT {operators}
#define KERAS_MGRADE_REGISTER_OPERATORS(resolver) \\
  ({register})

/* How many inputs are samples, how many outputs answers; the states. */
#define KERAS_MGRADE_INPUTS {inputs}
#define KERAS_MGRADE_OUTPUTS {outputs}
#define KERAS_MGRADE_STATES {states}
/* Values of all samples, and of all answers, of one step. */
#define KERAS_MGRADE_SAMPLE_VALUES {sample_values}
#define KERAS_MGRADE_ANSWER_VALUES {answer_values}
/* Bytes of all states but delay lines that the program holds. */
#define KERAS_MGRADE_STATE_BYTES {state_bytes}
/* How many states the file keeps inside, in resource variables. */
#define KERAS_MGRADE_INTERNAL_STATES {internal}

/* Position of each sample among the inputs of the file, and of each answer
 * among its outputs. */
extern const int kKerasMgradeInputs[];
extern const int kKerasMgradeOutputs[];

typedef struct {{
  int input_index;      /* Position among the inputs of the file. */
  int output_index;     /* Position among its outputs. */
  uint32_t bytes;       /* Of a state that goes in as it came out, else 0. */
  int32_t zero_point;   /* What stands for zero. */
  uint8_t element_size; /* 1, 2 or 4 bytes. */
  const keras_mgrade_rings *rings; /* A delay line that the program holds. */
}} KerasMgradeState;

/* One entry, not to be looked at, if there are no states. */
extern const KerasMgradeState kKerasMgradeStates[];

#ifdef __cplusplus
}}
#endif

#endif /* KERAS_MGRADE_MODEL_H_ */
"""

SOURCE = """\
#include "model.h"

#if defined(__cplusplus)
#define ALIGNED alignas(16)
#elif defined(__GNUC__)
#define ALIGNED __attribute__((aligned(16)))
#else
#define ALIGNED _Alignas(16)
#endif

const unsigned int g_model_size = {size}u;

ALIGNED const unsigned char g_model[] = {{
{model}
}};
{rings}
const int kKerasMgradeInputs[] = {{{inputs}}};

const int kKerasMgradeOutputs[] = {{{outputs}}};

const KerasMgradeState kKerasMgradeStates[] = {{
{states}
}};
"""

RINGS = """
/* {name} */
static const uint16_t delays_{number}[] = {{
{delays}
}};
static const uint16_t lengths_{number}[] = {{
{lengths}
}};
static {type} values_{number}[{size}];
static uint16_t heads_{number}[{channels}];
static const keras_mgrade_rings rings_{number} = {{
    delays_{number}, lengths_{number}, {taps}, {channels},
    {element_size}, {zero}, values_{number}, heads_{number},
}};
"""

_GOLDEN = """\
/* The first {steps} steps of a real stream, and what must come of them. */
#ifndef KERAS_MGRADE_GOLDEN_H_
#define KERAS_MGRADE_GOLDEN_H_

#include <stdint.h>

#include "model.h"

enum {{
  KERAS_MGRADE_INT8,
  KERAS_MGRADE_INT16,
  KERAS_MGRADE_INT32,
  KERAS_MGRADE_FLOAT32
}};

typedef struct {{
  const void *data;   /* Step by step; of a state after the last step. */
  uint32_t values;    /* Values a step. */
  uint8_t kind;       /* Type of the values. */
  float scale;        /* Step between two neighbouring integers. */
  int32_t zero_point; /* The integer that means zero. */
  float tolerance;    /* How far a value may lie off. */
}} keras_mgrade_golden;

#define KERAS_MGRADE_GOLDEN_STEPS {steps}
#define KERAS_MGRADE_GOLDEN_INPUTS {inputs}
#define KERAS_MGRADE_GOLDEN_OUTPUTS {outputs}
#define KERAS_MGRADE_GOLDEN_STATES {states}

{arrays}
#endif /* KERAS_MGRADE_GOLDEN_H_ */
"""


@dataclasses.dataclass(frozen=True)
class Vector:
    """The golden values of one tensor."""

    name: str
    dtype: str
    size: int
    scale: float
    zero_point: int
    tolerance: float
    values: np.ndarray


def golden(groups: dict[str, list[Vector]], steps: int) -> str:
    """The text of `golden.h`."""
    arrays = []
    for kind, vectors in groups.items():
        rows = []
        for number, v in enumerate(vectors):
            array = f"golden_{kind}_{number}"
            pattern = "{:.9g}f" if v.dtype == "float32" else "{}"
            listed = numbers(np.ravel(v.values), 8, pattern)
            arrays.append(
                f"/* {v.name} */\nstatic const {C_TYPES[v.dtype]} {array}[] = "
                f"{{\n{listed}\n}};\n"
            )
            rows.append(
                f"    {{{array}, {v.size}u, KERAS_MGRADE_{v.dtype.upper()}, "
                f"{_float(v.scale)}, {v.zero_point}, {_float(v.tolerance)}}},"
            )
        listed = "\n".join(rows or ["    {0, 0u, 0, 1.0f, 0, 1.0f},"])
        arrays.append(
            f"static const keras_mgrade_golden keras_mgrade_golden_{kind}[] = "
            f"{{\n{listed}\n}};\n"
        )
    return _GOLDEN.format(
        steps=steps,
        arrays="\n".join(arrays),
        **{kind: len(vectors) for kind, vectors in groups.items()},
    )


def _float(value: float) -> str:
    """A number as C reads it: with a point, or an exponent."""
    listed = f"{value:.9g}"
    return f"{listed}f" if re.search("[.e]", listed) else f"{listed}.0f"


def numbers(values: Iterable[Any], columns: int, pattern: str) -> str:
    """Numbers as the lines of a C array; one at least."""
    listed = [pattern.format(value) for value in values] or ["0"]
    # C takes no float without a point or an exponent.
    listed = [re.sub(r"^(-?\d+)f$", r"\1.0f", number) for number in listed]
    return "\n".join(
        f"    {', '.join(listed[i : i + columns])},"
        for i in range(0, len(listed), columns)
    )


def method(operator: str) -> str:
    """What MicroMutableOpResolver calls an operator: `AddFullyConnected`."""
    words = {"2D": "2D", "MATMUL": "MatMul"}
    return "Add" + "".join(
        words.get(word, word.capitalize()) for word in operator.split("_")
    )


def registrations(operators: list[str]) -> str:
    """An expression that adds all operators and says whether that worked."""
    calls = [f"(resolver).{method(name)}() == kTfLiteOk" for name in operators]
    return " && \\\n   ".join(calls)


def tensors(inputs: Iterable[Any], outputs: Iterable[Any]) -> str:
    """The tables of tensors, as lines of a comment."""
    lines = []
    for title, table in (("inputs", inputs), ("outputs", outputs)):
        lines.append(f" * {title}: position, name, type, shape, scale, zero")
        for position, t in enumerate(table):
            scale = "" if t.scale is None else f", {t.scale!r}, {t.zero_point}"
            shape = " x ".join(map(str, t.shape))
            lines.append(
                f" *   {position}  {t.name}, {t.dtype}, {shape}{scale}"
            )
    return "\n".join(lines)


def arena_note(result: Any) -> str:
    """What is known of the arena."""
    if result.arena_bytes is None:
        return (
            "Bytes of the arena, a guess: TFLite Micro did not run where this "
            "was made."
        )
    return (
        f"Bytes of the arena: on x86-64 {result.arena_bytes:,} are in use and "
        f"{result.arena_needed:,} are enough\n * for the setup; a tenth more "
        "is the margin. A Cortex-M4 needs less (45 to 97 %),\n * a Cortex-M55 "
        "with Helium up to two and a half times as much. What\n * "
        "`arena_used_bytes()` says on yours is in use after the setup, which "
        "itself may\n * take more: shrink it step by step. States are not in "
        "it."
    )


_LOOP = """\
1. Compile the `.c` files with the firmware, and `main_loop.cc` (in the folder
   `tflite/` of keras_mgrade's sources), which sets up the interpreter, feeds a
   sample, carries the states, reads the answer and resets.
2. Call `Setup()` once.
3. Call `keras_mgrade_self_test(...)` once, as `self_test.h` shows. It returns 0
   where every value lies within its tolerance: twice what two runtimes differed
   by where this was made, one step of an integer at least.
4. Call `Feed(sample, answer)` at every sample, `Reset()` before a new
   stream."""

# The main loop that comes with the sources refuses these files.
_LOOP_INSIDE = """\
The states are in variables of the file, and `main_loop.cc` is not for it: the
loop is yours.

1. Compile the `.c` files with the firmware. Make a `MicroInterpreter` of
   `g_model`, with the operators and the arena of `model.h` and with
   `MicroResourceVariables` for `KERAS_MGRADE_INTERNAL_STATES` variables.
2. At every sample write the inputs, call `Invoke()`, read the outputs; before a
   new stream call the interpreter's `Reset()`.
3. Give both to `keras_mgrade_self_test(...)` once, with `NULL` for the states,
   as `self_test.h` says. It returns 0 where every value lies within its
   tolerance: twice what two runtimes differed by where this was made, one step
   of an integer at least."""


def _runtimes() -> str:
    """The runtimes that are installed here, with their versions."""
    found = []
    for name in ("ai-edge-litert", "tflite-micro"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return " and ".join(found) or "no runtime at hand"


def readme(result: Any, vectors: Any) -> str:
    """The text of `README.md`."""
    warnings = "".join(f"- {text}\n" for text in result.warnings)
    loop = _LOOP_INSIDE if result.state_io == "internal" else _LOOP
    return f"""\
# {result.path.stem}

A step of a stream for TFLite Micro, made and proved by keras_mgrade.

| file | what |
| --- | --- |
| `model.tflite` | the model, {result.bytes:,} bytes |
| `model.h`, `model.c` | a C array of it; tensors, states, operators, arena |
| `rings.h`, `rings.c` | ring buffers for delay lines that the program holds |
| `self_test.*`, `golden.h` | {vectors.steps} golden steps, and their test |

{loop}

What was proved, with {_runtimes()}:

```
{result}
```
{warnings}"""

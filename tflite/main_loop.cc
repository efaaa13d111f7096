// The main loop of a streaming model in TFLite Micro: copy it and fit it.
//
// Build it together with a bundle (`model.h`, `model.c`, `rings.h`,
// `rings.c`) and TFLite Micro, with the compiler flags of TFLite Micro:
// TF_LITE_STATIC_MEMORY changes the layout of a tensor. Declare the functions
// where they are called:
//
//   bool Setup();                                  // once, before all else
//   void Reset();                                  // before a new stream
//   bool Feed(const float* sample, float* answer); // at every sample
//   const void* States();                          // the kept states
//   size_t ArenaUsedBytes();                       // after the setup
//
// The file must take its states as inputs and give them as outputs
// (`state_io="explicit"`). This is all that is needed of `model.h`, which
// includes "rings.h":
//
//   extern const unsigned char g_model[];
//       The .tflite file, aligned to 16 bytes.
//   KERAS_MGRADE_ARENA_BYTES
//       Size of the arena, in bytes.
//   KERAS_MGRADE_OPERATOR_COUNT
//       How many operators the file uses, each counted once.
//   KERAS_MGRADE_REGISTER_OPERATORS(resolver)
//       An expression, true if all of them were added to the resolver:
//       ((resolver).AddMul() == kTfLiteOk && ...).
//   KERAS_MGRADE_INPUTS, KERAS_MGRADE_OUTPUTS, KERAS_MGRADE_STATES
//       How many inputs are samples, how many outputs are answers, and how
//       many states there are.
//   const int kKerasMgradeInputs[], kKerasMgradeOutputs[]
//       Position of each sample among the inputs of the file, and of each
//       answer among its outputs. An answer may be a state as well.
//   KerasMgradeState, and const KerasMgradeState kKerasMgradeStates[]
//       With one entry that is not looked at if there are no states:
//         int input_index;     Position among the inputs of the file.
//         int output_index;    Position among its outputs.
//         uint32_t bytes;      Size of a state that goes in as it came out;
//                              0 for a delay line that the program holds.
//         int32_t zero_point;  What stands for zero; 0 in float.
//         uint8_t element_size;             1, 2 or 4 bytes.
//         const keras_mgrade_rings* rings;  The delay line that the program
//                                           holds, or nullptr.
//   KERAS_MGRADE_STATE_BYTES
//       The sum of all `bytes`.
//   KERAS_MGRADE_INTERNAL_STATES
//       Not 0: a file that keeps its states inside is not for this loop.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "model.h"
#include "rings.h"
#include "tensorflow/lite/c/common.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

#if KERAS_MGRADE_INTERNAL_STATES
#error "This loop carries the states: export with state_io='explicit'."
#endif

namespace {

alignas(16) uint8_t g_arena[KERAS_MGRADE_ARENA_BYTES];

// The states between two steps, one after another. They cannot stay in the
// arena: TFLite Micro puts other tensors where an input has been read.
uint8_t g_states[KERAS_MGRADE_STATE_BYTES > 0 ? KERAS_MGRADE_STATE_BYTES : 1];

// Null until the setup succeeded.
tflite::MicroInterpreter* g_interpreter = nullptr;

// Whether samples and answers of this tensor can be converted from and to
// float.
bool IsConvertible(const TfLiteTensor* tensor) {
  if (tensor == nullptr) {
    return false;
  }
  switch (tensor->type) {
    case kTfLiteFloat32:
    case kTfLiteInt32:
      return true;
    case kTfLiteInt8:
    case kTfLiteInt16:
      return tensor->params.scale > 0.0f;
    default:
      return false;
  }
}

// The integer of a value, rounded to nearest, a tie to even, and clipped.
int32_t Quantize(float value, const TfLiteTensor* tensor, int32_t lowest,
                 int32_t highest) {
  const float steps = rintf(value / tensor->params.scale) +
                      static_cast<float>(tensor->params.zero_point);
  // Not `steps <= lowest`, which is false for what is not a number.
  if (!(steps > static_cast<float>(lowest))) {
    return lowest;
  }
  if (steps > static_cast<float>(highest)) {
    return highest;
  }
  return static_cast<int32_t>(steps);
}

float Dequantize(int32_t value, const TfLiteTensor* tensor) {
  const int32_t steps = value - tensor->params.zero_point;
  return static_cast<float>(steps) * tensor->params.scale;
}

// Writes one input and returns how many values it took.
size_t Encode(const float* values, TfLiteTensor* tensor) {
  size_t count = tensor->bytes;
  switch (tensor->type) {
    case kTfLiteInt8:
      for (size_t i = 0; i < count; ++i) {
        tensor->data.int8[i] =
            static_cast<int8_t>(Quantize(values[i], tensor, -128, 127));
      }
      return count;
    case kTfLiteInt16:
      count /= sizeof(int16_t);
      for (size_t i = 0; i < count; ++i) {
        tensor->data.i16[i] =
            static_cast<int16_t>(Quantize(values[i], tensor, -32768, 32767));
      }
      return count;
    case kTfLiteInt32:
      // Numbers of a vocabulary and the like, whole in the sample too.
      count /= sizeof(int32_t);
      for (size_t i = 0; i < count; ++i) {
        tensor->data.i32[i] = static_cast<int32_t>(values[i]);
      }
      return count;
    default:
      memcpy(tensor->data.f, values, count);
      return count / sizeof(float);
  }
}

// Reads one output and returns how many values it gave.
size_t Decode(const TfLiteTensor* tensor, float* values) {
  size_t count = tensor->bytes;
  switch (tensor->type) {
    case kTfLiteInt8:
      for (size_t i = 0; i < count; ++i) {
        values[i] = Dequantize(tensor->data.int8[i], tensor);
      }
      return count;
    case kTfLiteInt16:
      count /= sizeof(int16_t);
      for (size_t i = 0; i < count; ++i) {
        values[i] = Dequantize(tensor->data.i16[i], tensor);
      }
      return count;
    case kTfLiteInt32:
      count /= sizeof(int32_t);
      for (size_t i = 0; i < count; ++i) {
        values[i] = static_cast<float>(tensor->data.i32[i]);
      }
      return count;
    default:
      memcpy(values, tensor->data.f, count);
      return count / sizeof(float);
  }
}

// Whether the input and the output of a state are as large as `model.h` says.
bool Fits(const KerasMgradeState& state) {
  size_t input_bytes = state.bytes;
  size_t output_bytes = state.bytes;
  if (state.rings != nullptr) {
    const size_t element_size = state.rings->element_size;
    output_bytes = state.rings->channels * element_size;
    input_bytes = state.rings->taps * output_bytes;
  }
  const TfLiteTensor* input = g_interpreter->input(state.input_index);
  const TfLiteTensor* output = g_interpreter->output(state.output_index);
  return input != nullptr && output != nullptr && input->bytes == input_bytes &&
         output->bytes == output_bytes;
}

// Whether `model.h` and the file belong together.
bool HeaderFits() {
  for (int i = 0; i < KERAS_MGRADE_INPUTS; ++i) {
    if (!IsConvertible(g_interpreter->input(kKerasMgradeInputs[i]))) {
      return false;
    }
  }
  for (int i = 0; i < KERAS_MGRADE_OUTPUTS; ++i) {
    if (!IsConvertible(g_interpreter->output(kKerasMgradeOutputs[i]))) {
      return false;
    }
  }
  size_t bytes = 0;
  for (int i = 0; i < KERAS_MGRADE_STATES; ++i) {
    if (!Fits(kKerasMgradeStates[i])) {
      return false;
    }
    bytes += kKerasMgradeStates[i].bytes;
  }
  return bytes == KERAS_MGRADE_STATE_BYTES;
}

void FillWithZeros(const KerasMgradeState& state, uint8_t* values) {
  if (state.element_size == sizeof(int16_t)) {
    const int16_t zero = static_cast<int16_t>(state.zero_point);
    for (size_t i = 0; i < state.bytes; i += sizeof(zero)) {
      memcpy(values + i, &zero, sizeof(zero));
    }
  } else {
    // One byte of int8; in float both the zero point and the bytes are 0.
    memset(values, static_cast<int>(state.zero_point), state.bytes);
  }
}

}  // namespace

// Back to the start of a stream: every state is zero.
void Reset() {
  uint8_t* values = g_states;
  for (int i = 0; i < KERAS_MGRADE_STATES; ++i) {
    const KerasMgradeState& state = kKerasMgradeStates[i];
    if (state.rings != nullptr) {
      keras_mgrade_rings_reset(state.rings);
    } else {
      FillWithZeros(state, values);
      values += state.bytes;
    }
  }
}

// The kept states one after another, as they are between two steps; without
// the delay lines that the program holds.
const void* States() { return g_states; }

// How much of the arena is in use since the setup, which itself may have taken
// more; 0 before it.
size_t ArenaUsedBytes() {
  return g_interpreter == nullptr ? 0 : g_interpreter->arena_used_bytes();
}

// Makes the interpreter and starts a stream. False if an operator is missing,
// the arena is too small, or `model.h` is that of another file.
bool Setup() {
  if (g_interpreter != nullptr) {
    Reset();
    return true;
  }
  const tflite::Model* model = tflite::GetModel(g_model);
  if (model->version() != TFLITE_SCHEMA_VERSION) {
    return false;
  }
  static tflite::MicroMutableOpResolver<KERAS_MGRADE_OPERATOR_COUNT> resolver;
  if (!KERAS_MGRADE_REGISTER_OPERATORS(resolver)) {
    return false;
  }
  static tflite::MicroInterpreter interpreter(model, resolver, g_arena,
                                              sizeof(g_arena));
  if (interpreter.AllocateTensors() != kTfLiteOk) {
    return false;
  }
  g_interpreter = &interpreter;
  if (!HeaderFits()) {
    g_interpreter = nullptr;
    return false;
  }
  Reset();
  return true;
}

// Advances the stream by one sample. The values of several inputs, and those
// of several answers, lie one after another in the order of the tables. False
// before the setup and if the model did not run; then the states are those
// before the sample.
bool Feed(const float* sample, float* answer) {
  if (g_interpreter == nullptr) {
    return false;
  }
  for (int i = 0; i < KERAS_MGRADE_INPUTS; ++i) {
    sample += Encode(sample, g_interpreter->input(kKerasMgradeInputs[i]));
  }
  // Every input anew: the last step has written over it.
  uint8_t* values = g_states;
  for (int i = 0; i < KERAS_MGRADE_STATES; ++i) {
    const KerasMgradeState& state = kKerasMgradeStates[i];
    TfLiteTensor* input = g_interpreter->input(state.input_index);
    if (state.rings != nullptr) {
      keras_mgrade_rings_read(state.rings, input->data.raw);
    } else {
      memcpy(input->data.raw, values, state.bytes);
      values += state.bytes;
    }
  }

  if (g_interpreter->Invoke() != kTfLiteOk) {
    return false;
  }

  values = g_states;
  for (int i = 0; i < KERAS_MGRADE_STATES; ++i) {
    const KerasMgradeState& state = kKerasMgradeStates[i];
    const TfLiteTensor* output = g_interpreter->output(state.output_index);
    if (state.rings != nullptr) {
      keras_mgrade_rings_write(state.rings, output->data.raw);
    } else {
      memcpy(values, output->data.raw, state.bytes);
      values += state.bytes;
    }
  }
  for (int i = 0; i < KERAS_MGRADE_OUTPUTS; ++i) {
    answer += Decode(g_interpreter->output(kKerasMgradeOutputs[i]), answer);
  }
  return true;
}

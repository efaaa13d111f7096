// Declarations for a compile check only, not TFLite Micro: what
// tflite/main_loop.cc uses of tensorflow/lite/schema/schema_generated.h.
#ifndef TFLM_STUB_SCHEMA_GENERATED_H_
#define TFLM_STUB_SCHEMA_GENERATED_H_

#include <stdint.h>

namespace tflite {

struct Model {
  uint32_t version() const;
};

const Model* GetModel(const void* data);

}  // namespace tflite

#endif  // TFLM_STUB_SCHEMA_GENERATED_H_

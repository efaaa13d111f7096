// Declarations for a compile check only, not TFLite Micro: what
// tflite/main_loop.cc uses of tensorflow/lite/c/common.h.
#ifndef TFLM_STUB_COMMON_H_
#define TFLM_STUB_COMMON_H_

#include <stddef.h>
#include <stdint.h>

typedef enum TfLiteStatus {
  kTfLiteOk = 0,
  kTfLiteError = 1,
} TfLiteStatus;

typedef enum TfLiteType {
  kTfLiteNoType = 0,
  kTfLiteFloat32 = 1,
  kTfLiteInt32 = 2,
  kTfLiteInt16 = 7,
  kTfLiteInt8 = 9,
} TfLiteType;

typedef struct TfLiteQuantizationParams {
  float scale;
  int32_t zero_point;
} TfLiteQuantizationParams;

typedef union TfLitePtrUnion {
  int32_t* i32;
  float* f;
  char* raw;
  int16_t* i16;
  int8_t* int8;
} TfLitePtrUnion;

typedef struct TfLiteTensor {
  TfLiteQuantizationParams params;
  TfLitePtrUnion data;
  size_t bytes;
  TfLiteType type;
} TfLiteTensor;

#endif  // TFLM_STUB_COMMON_H_

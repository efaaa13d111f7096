#include "self_test.h"

#include <stddef.h>
#include <string.h>

#include "golden.h"

static float value_at(const void *values, size_t place,
                      const keras_mgrade_golden *tensor) {
  const uint8_t *bytes = (const uint8_t *)values;
  if (tensor->kind == KERAS_MGRADE_INT8) {
    const int8_t read = (int8_t)bytes[place];
    return (float)(read - tensor->zero_point) * tensor->scale;
  } else if (tensor->kind == KERAS_MGRADE_INT16) {
    int16_t read;
    memcpy(&read, bytes + place * sizeof(read), sizeof(read));
    return (float)(read - tensor->zero_point) * tensor->scale;
  } else if (tensor->kind == KERAS_MGRADE_INT32) {
    int32_t read;
    memcpy(&read, bytes + place * sizeof(read), sizeof(read));
    return (float)read;
  } else {
    float read;
    memcpy(&read, bytes + place * sizeof(read), sizeof(read));
    return read;
  }
}

static size_t size_of(const keras_mgrade_golden *tensor) {
  static const size_t sizes[] = {1, 2, 4, 4};
  return sizes[tensor->kind];
}

static void compare(float found, float wanted, float tolerance, int32_t step,
                    keras_mgrade_self_test_result *result) {
  const float difference = found > wanted ? found - wanted : wanted - found;
  const float share = difference / tolerance;
  /* What is not a number is the worst of all, and stays so. */
  if (share > result->worst || share != share) {
    result->worst = share;
  }
  /* Not `share > 1`, which is false for what is not a number. A quarter is left
   * for the rounding of these lines. */
  if (!(share <= 1.25f)) {
    if (result->wrong == 0) {
      result->first_step = step;
    }
    ++result->wrong;
  }
}

int keras_mgrade_self_test(void (*reset)(void),
                           int (*feed)(const float *sample, float *answer),
                           const void *(*states)(void),
                           keras_mgrade_self_test_result *result) {
  static float sample[KERAS_MGRADE_SAMPLE_VALUES];
  static float answer[KERAS_MGRADE_ANSWER_VALUES];
  keras_mgrade_self_test_result found = {0, 0, -1, 0.0f};
  int32_t step;
  int failed = 0;
  reset();
  for (step = 0; step < KERAS_MGRADE_GOLDEN_STEPS; ++step) {
    int32_t tensor;
    size_t value, at = 0;
    for (tensor = 0; tensor < KERAS_MGRADE_GOLDEN_INPUTS; ++tensor) {
      const keras_mgrade_golden *golden = &keras_mgrade_golden_inputs[tensor];
      for (value = 0; value < golden->values; ++value) {
        sample[at++] = value_at(golden->data,
                                (size_t)step * golden->values + value, golden);
      }
    }
    failed = !feed(sample, answer);
    ++found.steps;
    if (failed) {
      break;
    }
    at = 0;
    for (tensor = 0; tensor < KERAS_MGRADE_GOLDEN_OUTPUTS; ++tensor) {
      const keras_mgrade_golden *golden = &keras_mgrade_golden_outputs[tensor];
      for (value = 0; value < golden->values; ++value) {
        const float wanted = value_at(
            golden->data, (size_t)step * golden->values + value, golden);
        compare(answer[at++], wanted, golden->tolerance, step, &found);
      }
    }
  }
  if (states != NULL && !failed) {
    const uint8_t *kept = (const uint8_t *)states();
    int32_t tensor;
    size_t value;
    for (tensor = 0; tensor < KERAS_MGRADE_GOLDEN_STATES; ++tensor) {
      const keras_mgrade_golden *golden = &keras_mgrade_golden_states[tensor];
      for (value = 0; value < golden->values; ++value) {
        compare(value_at(kept, value, golden),
                value_at(golden->data, value, golden), golden->tolerance,
                KERAS_MGRADE_GOLDEN_STEPS, &found);
      }
      kept += golden->values * size_of(golden);
    }
  }
  reset();
  if (result != NULL) {
    *result = found;
  }
  return failed ? 2 : found.wrong != 0;
}

/* Delay lines that the program holds: a ring buffer for each channel.
 *
 * At every step, first read the values at the taps, run the model on them,
 * then write the newest values. Write nothing if the model did not run.
 */
#ifndef KERAS_MGRADE_RINGS_H_
#define KERAS_MGRADE_RINGS_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One delay line. Its tables may lie in flash; `values` and `heads` are
 * memory of the program, and hold nothing before the first reset.
 *
 * The elements are int8_t, int16_t or float, and so must be what `values` and
 * the arguments of the functions point to. */
typedef struct {
  const uint16_t *delays;  /* In steps, taps x channels, row by row; 0 is no
                              tap, which reads zero. */
  const uint16_t *lengths; /* Longest delay of each channel, in steps. */
  uint16_t taps;
  uint16_t channels;
  uint8_t element_size; /* In bytes: 1, 2 or 4. */
  int32_t zero;         /* What stands for zero, the zero point. */
  void *values;         /* As many elements as the sum of `lengths`. */
  uint16_t *heads;      /* Place of the oldest value of each channel. */
} keras_mgrade_rings;

/* Back to the start of a stream: nothing but zeros. */
void keras_mgrade_rings_reset(const keras_mgrade_rings *rings);

/* The values at the taps: `taps` gets taps x channels elements, row by row. */
void keras_mgrade_rings_read(const keras_mgrade_rings *rings, void *taps);

/* The newest value of each channel, after the step that used them. */
void keras_mgrade_rings_write(const keras_mgrade_rings *rings,
                              const void *newest);

#ifdef __cplusplus
}
#endif

#endif /* KERAS_MGRADE_RINGS_H_ */

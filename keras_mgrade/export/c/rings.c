#include "rings.h"

#include <stddef.h>

/* The same three loops for each type of element. A head is always less than
 * the length of its channel, and no delay is longer, so that a comparison
 * wraps a place around and no division is needed. */
#define KERAS_MGRADE_RINGS_OF(type)                                         \
  static void reset_##type(const keras_mgrade_rings *rings, size_t size) {  \
    type *values = (type *)rings->values;                                   \
    const type zero = (type)rings->zero;                                    \
    size_t i;                                                               \
    for (i = 0; i < size; ++i) {                                            \
      values[i] = zero;                                                     \
    }                                                                       \
  }                                                                         \
                                                                            \
  static void read_##type(const keras_mgrade_rings *rings, type *taps) {    \
    const type *const values = (const type *)rings->values;                 \
    const uint16_t *const lengths = rings->lengths;                         \
    const uint16_t *const heads = rings->heads;                             \
    const uint16_t *delays = rings->delays;                                 \
    const size_t channels = rings->channels;                                \
    const size_t rows = rings->taps;                                        \
    const type zero = (type)rings->zero;                                    \
    size_t row, channel;                                                    \
    for (row = 0; row < rows; ++row) {                                      \
      const type *ring = values;                                            \
      for (channel = 0; channel < channels; ++channel) {                    \
        const size_t delay = delays[channel];                               \
        const size_t length = lengths[channel];                             \
        const size_t head = heads[channel];                                 \
        if (delay == 0) {                                                   \
          taps[channel] = zero;                                             \
        } else if (head >= delay) {                                         \
          taps[channel] = ring[head - delay];                               \
        } else {                                                            \
          taps[channel] = ring[head + (length - delay)];                    \
        }                                                                   \
        ring += length;                                                     \
      }                                                                     \
      delays += channels;                                                   \
      taps += channels;                                                     \
    }                                                                       \
  }                                                                         \
                                                                            \
  static void write_##type(const keras_mgrade_rings *rings,                 \
                           const type *newest) {                            \
    const uint16_t *const lengths = rings->lengths;                         \
    uint16_t *const heads = rings->heads;                                   \
    const size_t channels = rings->channels;                                \
    type *ring = (type *)rings->values;                                     \
    size_t channel;                                                         \
    for (channel = 0; channel < channels; ++channel) {                      \
      const size_t length = lengths[channel];                               \
      const size_t head = heads[channel];                                   \
      if (length > 0) {                                                     \
        ring[head] = newest[channel];                                       \
        heads[channel] = (uint16_t)(head + 1 < length ? head + 1 : 0);      \
        ring += length;                                                     \
      }                                                                     \
    }                                                                       \
  }

KERAS_MGRADE_RINGS_OF(int8_t)
KERAS_MGRADE_RINGS_OF(int16_t)
KERAS_MGRADE_RINGS_OF(float)

void keras_mgrade_rings_reset(const keras_mgrade_rings *rings) {
  size_t size = 0;
  size_t channel;
  for (channel = 0; channel < rings->channels; ++channel) {
    size += rings->lengths[channel];
    rings->heads[channel] = 0;
  }
  if (rings->element_size == 1) {
    reset_int8_t(rings, size);
  } else if (rings->element_size == 2) {
    reset_int16_t(rings, size);
  } else {
    reset_float(rings, size);
  }
}

void keras_mgrade_rings_read(const keras_mgrade_rings *rings, void *taps) {
  if (rings->element_size == 1) {
    read_int8_t(rings, (int8_t *)taps);
  } else if (rings->element_size == 2) {
    read_int16_t(rings, (int16_t *)taps);
  } else {
    read_float(rings, (float *)taps);
  }
}

void keras_mgrade_rings_write(const keras_mgrade_rings *rings,
                              const void *newest) {
  if (rings->element_size == 1) {
    write_int8_t(rings, (const int8_t *)newest);
  } else if (rings->element_size == 2) {
    write_int16_t(rings, (const int16_t *)newest);
  } else {
    write_float(rings, (const float *)newest);
  }
}

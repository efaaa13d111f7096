/* Does this board give what the file gave where it was made?
 *
 * The vectors in golden.h are the first steps of a real stream. The program
 * says how a stream is started and how it is fed:
 *
 *   int FeedOrFail(const float *sample, float *answer) {
 *     return Feed(sample, answer);
 *   }
 *
 *   keras_mgrade_self_test_result result;
 *   if (keras_mgrade_self_test(Reset, FeedOrFail, States, &result) != 0) {
 *     ... this board is not to be trusted
 *   }
 */
#ifndef KERAS_MGRADE_SELF_TEST_H_
#define KERAS_MGRADE_SELF_TEST_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  int32_t steps;      /* Steps that were run. */
  int32_t wrong;      /* Values beyond their tolerance. */
  int32_t first_step; /* Step of the first of them, from 0; -1 if there is
                         none, and the number of golden steps if only states
                         after the last one are. */
  float worst;        /* Largest deviation, in tolerances; not a number if one
                         is none. Up to 1.25 passes. */
} keras_mgrade_self_test_result;

/* Runs the golden vectors through the program, from a fresh start, and leaves
 * a fresh start behind.
 *
 * reset:  starts a stream.
 * feed:   one step: the values of a sample in, those of an answer out, several
 *         of them one after another; not 0 if it went well.
 * states: gives the kept states in the order of the file, or is NULL: then
 *         they are not compared.
 * result: what was found, or NULL.
 *
 * Returns 0 if every value was within its tolerance, 1 if one was not, and 2 if
 * `feed` failed: at the last of `result->steps`, of which nothing is
 * compared. */
int keras_mgrade_self_test(void (*reset)(void),
                           int (*feed)(const float *sample, float *answer),
                           const void *(*states)(void),
                           keras_mgrade_self_test_result *result);

#ifdef __cplusplus
}
#endif

#endif /* KERAS_MGRADE_SELF_TEST_H_ */

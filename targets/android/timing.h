/* The timed loop: warm up until steady, then time bursts, and tag preempted samples, as in targets/harness/sampling.py. */
#ifndef EDGEDISTILL_TIMING_H
#define EDGEDISTILL_TIMING_H

#include <stdint.h>

#include "requests.h"

enum { WARM_UP, LEAD, CLEAN, PREEMPTED }; /* kinds of inferences; the last two are samples */

/* One inference, as it is written to the file of samples; the round of a warm-up is -1. */
typedef struct {
    int64_t ns;
    int32_t round, kind;
} Inference;

/* Inferences so far. `wall_ns` is the time of samples, `spent_ns` that of whole bursts; a burst takes about `burst_ns` and has
 * `burst_n` samples. If `cleared_bytes` is above 0, so much memory is written before each inference, to empty the caches. */
typedef struct {
    Inference *inferences;
    unsigned char *cleared;
    size_t cleared_bytes, count, warmup_n, lead_n, n, bursts, burst_n;
    int steady;
    int64_t wall_ns, spent_ns, burst_ns;
} Samples;

/* The bytes of the buffer for samples. */
extern const int64_t ROOM_BYTES;

int64_t now_ns(void);

/* Allocate the buffers and write them once, so that filling them does not grow the measured process. */
void make_room(Samples *samples, size_t cleared_bytes);

/* Infer until two windows agree, within the bounds of constants.h. */
void warm_up(Samples *samples, Model *model, const Requests *requests, double seconds);

/* Time three bursts, to know how long the fastest is, and forget them. */
void rehearse(Samples *samples, Model *model, const Requests *requests);

/* Take one turn: refill the caches, unless they are to be cold, then time inferences for some milliseconds. */
void take_burst(Samples *samples, Model *model, const Requests *requests, int round);

/* About how many more bursts are needed for some seconds and enough samples; 0 if there are enough. */
size_t bursts_needed(const Samples *samples, double seconds);

#endif

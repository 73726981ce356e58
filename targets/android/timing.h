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

typedef struct {
    Inference *inferences;
    size_t count, warmup_n, lead_n, n, bursts;
    int steady;
    int64_t typical_ns, wall_ns;
} Samples;

/* The bytes of the buffer for samples. */
extern const int64_t ROOM_BYTES;

int64_t now_ns(void);

/* Allocate the buffer and write it once, so that filling it does not grow the measured process. */
void make_room(Samples *samples);

/* Infer until two windows agree, within the bounds of constants.h. */
void warm_up(Samples *samples, Model *model, const Requests *requests, double seconds);

/* Take one turn: refill the caches, then time inferences for some milliseconds. */
void take_burst(Samples *samples, Model *model, const Requests *requests, int round);

/* About how many more bursts are needed for some seconds and enough samples; 0 if there are enough. */
size_t bursts_needed(const Samples *samples, double seconds);

#endif

/* The timed loop: warm up until steady, then sample, and tag preempted samples, as in targets/harness/sampling.py. */
#ifndef EDGEDISTILL_TIMING_H
#define EDGEDISTILL_TIMING_H

#include <stdint.h>

#include "requests.h"

typedef struct {
    int64_t *warmup_ns, *latency_ns;
    unsigned char *preempted;
    size_t warmup_n, n;
    int steady;
    int64_t wall_ns;
} Samples;

int64_t now_ns(void);

/* Allocate buffers and write them once, so that filling them does not grow the measured process. */
void make_room(Samples *samples);

/* Time inferences for some seconds, within the bounds of constants.h. */
void take_samples(Samples *samples, Model *model, const Requests *requests, double seconds);

/* A field of /proc/self/status in bytes, or -1. */
int64_t status_bytes(const char *field);

/* Reset the peak of resident memory; return whether the kernel supports it. */
int reset_peak(void);

#endif

#define _GNU_SOURCE
#include "timing.h"

#include "constants.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { WINDOW = WARM_UP_WINDOW, MAX_WARM_UP = 250000, MAX_INFERENCES = 750000, CACHE_LINE = 64, REHEARSALS = 3, SECOND = 1000000000 };

const int64_t ROOM_BYTES = MAX_INFERENCES * (int64_t)sizeof(Inference);

int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * (int64_t)SECOND + time.tv_nsec;
}

static long preemptions(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_nivcsw;
}

static int by_size(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int64_t window_median(const Inference *inferences) {
    int64_t sorted[WINDOW];
    for (size_t i = 0; i < WINDOW; i++)
        sorted[i] = inferences[i].ns;
    qsort(sorted, WINDOW, sizeof *sorted, by_size);
    return sorted[WINDOW / 2];
}

/* The last two windows agree. */
static int is_steady(const Inference *inferences, size_t n) {
    int64_t last = window_median(inferences + n - WINDOW), before = window_median(inferences + n - 2 * WINDOW);
    return (double)llabs(last - before) <= WARM_UP_AGREEMENT * (double)before;
}

/* Run and keep one inference of a kind; a clean one that was preempted becomes PREEMPTED. */
static void time_one(Samples *samples, Model *model, const Requests *requests, int round, int kind) {
    volatile unsigned char *cleared = samples->cleared;
    set_request(model, requests, samples->count);
    for (size_t i = 0; kind == CLEAN && i < samples->cleared_bytes; i += CACHE_LINE)
        cleared[i]++;
    long before = preemptions();
    int64_t begin = now_ns();
    infer(model);
    int64_t took = now_ns() - begin;
    if (kind == CLEAN && preemptions() != before)
        kind = PREEMPTED;
    samples->inferences[samples->count++] = (Inference){took, round, kind};
}

static void *written(size_t bytes) {
    void *found = malloc(bytes);
    if (!found)
        fail(FAILED, "no memory for the samples");
    return memset(found, 1, bytes);
}

void make_room(Samples *samples, size_t cleared_bytes) {
    memset(samples, 0, sizeof *samples);
    samples->inferences = written((size_t)ROOM_BYTES);
    samples->cleared_bytes = cleared_bytes;
    if (cleared_bytes)
        samples->cleared = written(cleared_bytes);
}

void warm_up(Samples *samples, Model *model, const Requests *requests, double seconds) {
    double shortest = fmin(WARM_UP_LEAST_S, WARM_UP_LEAST_SHARE * seconds);
    double longest = fmin(WARM_UP_MOST_S, WARM_UP_MOST_TIMES * seconds);
    int64_t begin = now_ns();
    size_t n = 0;
    for (double elapsed = 0; n < MAX_WARM_UP && elapsed < longest && !samples->steady; elapsed = (now_ns() - begin) / 1e9) {
        time_one(samples, model, requests, -1, WARM_UP);
        n++;
        samples->steady = n >= 2 * WINDOW && n % WINDOW == 0 && elapsed >= shortest && is_steady(samples->inferences, n);
    }
    samples->warmup_n = n;
}

static int has_room(const Samples *samples) {
    return samples->count < MAX_INFERENCES;
}

void take_burst(Samples *samples, Model *model, const Requests *requests, int round) {
    int64_t start = now_ns(), warm = start + (int64_t)(BURSTS_LEAD_S * SECOND);
    for (size_t n = 0; !samples->cleared && has_room(samples) && (!n || now_ns() < warm); n++, samples->lead_n++)
        time_one(samples, model, requests, round, LEAD);
    int64_t begin = now_ns(), enough = begin + (int64_t)(BURSTS_LEAST_S * SECOND);
    for (size_t n = 0; has_room(samples) && (n < BURSTS_LEAST || now_ns() < enough); n++, samples->n++)
        time_one(samples, model, requests, round, CLEAN);
    int64_t end = now_ns();
    samples->wall_ns += end - begin;
    samples->spent_ns += end - start;
    samples->bursts++;
}

void rehearse(Samples *samples, Model *model, const Requests *requests) {
    for (int i = 0; i < REHEARSALS; i++) {
        Samples before = *samples;
        take_burst(samples, model, requests, 0);
        if (!i || samples->spent_ns < before.burst_ns) {
            before.burst_ns = samples->spent_ns;
            before.burst_n = samples->n;
        }
        *samples = before;
    }
}

size_t bursts_needed(const Samples *samples, double seconds) {
    double burst_s = samples->burst_ns / 1e9, spent_s = samples->spent_ns / 1e9;
    double for_time = (seconds - spent_s) / burst_s, at_most = (SAMPLING_MOST_TIMES * seconds - spent_s) / burst_s;
    double for_number = fmin((SAMPLING_LEAST - (double)samples->n) / (double)samples->burst_n, at_most);
    return has_room(samples) ? (size_t)ceil(fmax(0, fmax(for_time, for_number))) : 0;
}

#define _GNU_SOURCE
#include "timing.h"

#include "constants.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { WINDOW = WARM_UP_WINDOW, MAX_SAMPLES = 500000, SECOND = 1000000000 };

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

static int64_t window_median(const int64_t *latencies) {
    int64_t sorted[WINDOW];
    memcpy(sorted, latencies, sizeof sorted);
    qsort(sorted, WINDOW, sizeof *sorted, by_size);
    return sorted[WINDOW / 2];
}

/* The last two windows agree. */
static int is_steady(const int64_t *latencies, size_t n) {
    int64_t last = window_median(latencies + n - WINDOW), before = window_median(latencies + n - 2 * WINDOW);
    return (double)llabs(last - before) <= WARM_UP_AGREEMENT * (double)before;
}

static int64_t time_one(Model *model, const Requests *requests, size_t i) {
    set_request(model, requests, i);
    int64_t begin = now_ns();
    infer(model);
    return now_ns() - begin;
}

static void warm_up(Samples *samples, Model *model, const Requests *requests, double seconds) {
    double shortest = fmin(WARM_UP_LEAST_S, WARM_UP_LEAST_SHARE * seconds);
    double longest = fmin(WARM_UP_MOST_S, WARM_UP_MOST_TIMES * seconds);
    int64_t begin = now_ns();
    size_t n = 0;
    for (double elapsed = 0; n < MAX_SAMPLES && elapsed < longest && !samples->steady; elapsed = (now_ns() - begin) / 1e9) {
        samples->warmup_ns[n] = time_one(model, requests, n);
        n++;
        samples->steady = n >= 2 * WINDOW && n % WINDOW == 0 && elapsed >= shortest && is_steady(samples->warmup_ns, n);
    }
    samples->warmup_n = n;
}

void make_room(Samples *samples) {
    samples->warmup_ns = malloc(MAX_SAMPLES * sizeof(int64_t));
    samples->latency_ns = malloc(MAX_SAMPLES * sizeof(int64_t));
    samples->preempted = malloc(MAX_SAMPLES);
    if (!samples->warmup_ns || !samples->latency_ns || !samples->preempted)
        fail(FAILED, "no memory for the samples");
    memset(samples->warmup_ns, 1, MAX_SAMPLES * sizeof(int64_t));
    memset(samples->latency_ns, 1, MAX_SAMPLES * sizeof(int64_t));
    memset(samples->preempted, 1, MAX_SAMPLES);
}

void take_samples(Samples *samples, Model *model, const Requests *requests, double seconds) {
    warm_up(samples, model, requests, seconds);
    int64_t begin = now_ns(), shortest = (int64_t)(seconds * SECOND), elapsed = 0;
    int64_t longest = (int64_t)(seconds * SAMPLING_MOST_TIMES * SECOND);
    size_t n = 0;
    while (n < MAX_SAMPLES && (elapsed < shortest || (n < SAMPLING_LEAST && elapsed < longest))) {
        long before = preemptions();
        samples->latency_ns[n] = time_one(model, requests, n);
        samples->preempted[n++] = preemptions() != before;
        elapsed = now_ns() - begin;
    }
    samples->n = n;
    samples->wall_ns = now_ns() - begin;
}

int64_t status_bytes(const char *field) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    int64_t found = -1;
    if (!file)
        return -1;
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, field, strlen(field)) && line[strlen(field)] == ':')
            found = atoll(line + strlen(field) + 1) * 1024;
    fclose(file);
    return found;
}

int reset_peak(void) {
    FILE *file = fopen("/proc/self/clear_refs", "w");
    if (!file)
        return 0;
    int written = fputs("5", file) >= 0;
    return fclose(file) == 0 && written;
}

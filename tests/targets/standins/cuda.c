/* Stands in for libcuda and libcudart where there is no GPU: memory is the host's, a stream does at once what it is given.

   It proves that the kit asks in the right order and with the right types; of a GPU it proves nothing. STANDIN_GPU names
   another device, STANDIN_CAPTURE=refused is a model that no graph can hold. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int capturing, broken;
static size_t used;
static void (*launch)(void);

/* libcuda */

int cuInit(unsigned flags) { return getenv("STANDIN_NO_GPU") ? 100 : (int)flags; }
int cuDeviceGet(int *device, int ordinal) { *device = 7; return ordinal; }

int cuDeviceGetName(char *name, int length, int device) {
    const char *given = getenv("STANDIN_GPU");
    if (device != 7) return 101;
    snprintf(name, length, "%s", given ? given : "Orin");
    return 0;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 7) return 101;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 16 ? 16 : -1;
    return *value < 0;
}

/* libcudart */

const char *cudaGetErrorString(int code) {
    return code == 900 ? "operation not permitted when stream is capturing" : "invalid argument";
}

int cudaSetDeviceFlags(unsigned flags) { return flags == 1 ? 0 : 1; }
int cudaMalloc(void **at, size_t size) { *at = calloc(1, size); used += size; return !*at; }
int cudaHostAlloc(void **at, size_t size, unsigned flags) { *at = calloc(1, size); return flags || !*at; }
int cudaMemGetInfo(size_t *free, size_t *total) { *total = (size_t)8 << 30; *free = *total - used; return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = calloc(1, 8); return flags != 1; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = calloc(1, sizeof(struct timespec)); return flags; }

int cudaEventRecord(void *event, void *stream) {
    return !stream || capturing || broken || clock_gettime(CLOCK_MONOTONIC, event);
}

int cudaEventElapsedTime(float *ms, void *begin, void *end) {
    struct timespec *a = begin, *b = end;
    *ms = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) / 1e6f;
    return 0;
}

int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (!stream || capturing || (kind != 1 && kind != 2)) return 1;
    memcpy(to, from, size);
    return 0;
}

int cudaStreamSynchronize(void *stream) { return !stream || capturing; }

int cudaStreamBeginCapture(void *stream, int mode) {
    capturing = 1;
    return !stream || mode != 1;
}

int cudaStreamEndCapture(void *stream, void **graph) {
    const char *wanted = getenv("STANDIN_CAPTURE");
    capturing = 0;
    *graph = stream;
    return wanted && !strcmp(wanted, "refused") ? 900 : 0;
}

int cudaGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long flags) {
    *ready = graph;
    return !graph || flags;
}

int cudaGraphLaunch(void *ready, void *stream) {
    if (!ready || !stream || !launch) return 1;
    launch();
    return 0;
}

/* What the stand-in for TensorRT's module asks. */

int standin_capturing(void) { return capturing; }
void standin_on_launch(void (*what)(void)) { launch = what; }

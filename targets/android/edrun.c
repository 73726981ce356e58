/* The runner for phones: loads models with ONNX Runtime's C API, checks their outputs, and times them, without Python.
 *
 *   edrun probe                              describe the engine and the device
 *   edrun check --model M --input FILE…      run every recorded request; compare with --expected, write --output
 *   edrun bench --model M --input FILE… [--model N --input FILE…]…
 *                                            time one or more models in turns until each has --seconds of bursts
 *   edrun work  --model M --input FILE…      infer for --seconds, and print the number and the times, for an energy meter
 *
 * --lib FILE, or EDGEDISTILL_ORT, is ONNX Runtime's library, by default ./libonnxruntime.so.
 * --input, --threads and --samples belong to the --model before them. --samples FILE takes every inference of a bench.
 * --input, --expected and --output are given once per input or output, in the model's order; each names a file of raw values.
 * --caches cold empties the CPU's caches before each inference of a bench; warm is the default.
 * --seed N chooses the order of turns in a bench. --requests N takes the first N requests.
 * The first output agrees where its highest value has the same index, the others by 1 - squared error / variance.
 * Prints one JSON object as the last line of stdout. Exit codes: 0 fine, 2 usage, 5 the engine failed.
 * Works with glibc and with Android's bionic; needs nothing but libonnxruntime.so.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "device.h"
#include "requests.h"
#include "timing.h"
#include "turns.h"

enum { VERSION = 2 }; /* of the options and of the answers; edgedistill compares it with its own */

static void probe(const Arguments *arguments) {
    const char *version = open_runtime(arguments->library);
    struct utsname system;
    uname(&system);
    printf("\n{\"version\": %d, \"engine\": {\"name\": \"onnxruntime\", \"version\": ", VERSION);
    print_json(version);
    printf("}, \"arch\": ");
    print_json(system.machine);
    printf(", \"kernel\": ");
    print_json(system.release);
    printf(", \"cores\": %ld, \"memory_bytes\": %lld, \"emulated\": ", sysconf(_SC_NPROCESSORS_CONF),
           (long long)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
    print_emulated();
    printf("}\n");
}

static int64_t clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time); /* the clock of `date +%s%N`, which a loop beside this program logs */
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void work(const Arguments *arguments) {
    const Arm *arm = only_arm(arguments);
    Model model;
    Requests requests;
    size_t n = 0;
    pin(arm->threads);
    open_runtime(arguments->library);
    load_model(&model, arm->model, arm->threads);
    read_requests(&requests, &model, arm->inputs, arm->n_inputs, arguments->requests);
    int64_t begin = clock_ns(), end = now_ns() + (int64_t)(arguments->seconds * 1e9);
    while (now_ns() < end) {
        set_request(&model, &requests, n++);
        infer(&model);
    }
    printf("\n{\"n\": %zu, \"begin_ns\": %lld, \"end_ns\": %lld}\n", n, (long long)begin, (long long)clock_ns());
}

int main(int count, char **values) {
    static Arguments arguments;
    parse(&arguments, count, values);
    if (!strcmp(arguments.verb, "probe"))
        probe(&arguments);
    else if (!strcmp(arguments.verb, "check"))
        check(&arguments);
    else if (!strcmp(arguments.verb, "bench"))
        return measure_in_turns(&arguments);
    else if (!strcmp(arguments.verb, "work"))
        work(&arguments);
    else
        fail(USAGE, "'%s' is not a command; the commands are: probe, check, bench, work", arguments.verb);
    return 0;
}

/* The runner for phones: loads a model with ONNX Runtime's C API, checks its outputs, and times it, without Python.
 *
 *   edrun probe                              describe the engine and the device
 *   edrun check --model M --input FILE…      run every recorded request; compare with --expected, write --output
 *   edrun bench --model M --input FILE…      time inferences for --seconds; raw samples go to --samples PREFIX
 *   edrun work  --model M --input FILE…      infer for --seconds, and print the number and the times, for an energy meter
 *
 * --lib FILE, or EDGEDISTILL_ORT, is ONNX Runtime's library, by default ./libonnxruntime.so.
 * --input, --expected and --output are given once per input or output, in the model's order; each names a file of raw values.
 * The first output agrees where its highest value has the same index, the others by 1 - squared error / variance.
 * Prints one JSON object as the last line of stdout. Exit codes: 0 fine, 2 usage, 5 the engine failed.
 * Works with glibc and with Android's bionic; needs nothing but libonnxruntime.so.
 */
#define _GNU_SOURCE
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "timing.h"

enum { /* ONNX's numbers of element types */
    FLOAT32 = 1, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL = 9, FLOAT16, FLOAT64, UINT32, UINT64
};

typedef struct {
    const char *verb, *library, *model, *samples;
    char *inputs[MAX_TENSORS], *expected[MAX_TENSORS], *outputs[MAX_TENSORS];
    size_t n_inputs, n_expected, n_outputs, requests;
    double seconds;
    int threads;
} Arguments;

static void add(char **list, size_t *n, char *value) {
    if (*n == MAX_TENSORS)
        fail(USAGE, "more than %d files of one kind", MAX_TENSORS);
    list[(*n)++] = value;
}

static Arguments parse(int count, char **values) {
    Arguments found = {.verb = count > 1 ? values[1] : "", .library = getenv("EDGEDISTILL_ORT"), .seconds = 5, .threads = 1};
    if (!found.library)
        found.library = "./libonnxruntime.so";
    for (int i = 2; i < count; i += 2) {
        char *key = values[i], *value = i + 1 < count ? values[i + 1] : NULL;
        if (!value)
            fail(USAGE, "'%s' needs a value", key);
        else if (!strcmp(key, "--lib"))
            found.library = value;
        else if (!strcmp(key, "--model"))
            found.model = value;
        else if (!strcmp(key, "--input"))
            add(found.inputs, &found.n_inputs, value);
        else if (!strcmp(key, "--expected"))
            add(found.expected, &found.n_expected, value);
        else if (!strcmp(key, "--output"))
            add(found.outputs, &found.n_outputs, value);
        else if (!strcmp(key, "--samples"))
            found.samples = value;
        else if (!strcmp(key, "--requests"))
            found.requests = (size_t)atol(value);
        else if (!strcmp(key, "--seconds"))
            found.seconds = atof(value);
        else if (!strcmp(key, "--threads"))
            found.threads = atoi(value);
        else
            fail(USAGE, "unknown option '%s'", key);
    }
    if (!(found.seconds > 0) || found.threads < 1)
        fail(USAGE, "--seconds and --threads must be above 0");
    return found;
}

/* Bind this process to as many CPUs as it has threads: the last, which are the fast ones of most phones. */
static void pin(int threads) {
    cpu_set_t allowed, chosen;
    CPU_ZERO(&chosen);
    if (sched_getaffinity(0, sizeof allowed, &allowed))
        fail(FAILED, "the CPUs of this process cannot be read");
    if (threads > CPU_COUNT(&allowed))
        fail(FAILED, "%d threads were requested, but this device gives the process %d CPUs", threads, CPU_COUNT(&allowed));
    for (int cpu = CPU_SETSIZE - 1; cpu >= 0 && CPU_COUNT(&chosen) < threads; cpu--)
        if (CPU_ISSET(cpu, &allowed))
            CPU_SET(cpu, &chosen);
    sched_setaffinity(0, sizeof chosen, &chosen);
}

static void print_affinity(void) {
    cpu_set_t bound;
    const char *comma = "";
    printf("\"affinity\": [");
    if (!sched_getaffinity(0, sizeof bound, &bound))
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &bound)) {
                printf("%s%d", comma, cpu);
                comma = ", ";
            }
    printf("]");
}

static void print_bytes(const char *name, int64_t bytes) {
    if (bytes < 0)
        printf(", \"%s\": null", name);
    else
        printf(", \"%s\": %lld", name, (long long)bytes);
}

/* Print the emulator of this processor, or null: QEMU does not emulate the link of the thread, which shows QEMU. */
static void print_emulated(void) {
    char path[4096];
    const char *declared = getenv("EDGEDISTILL_EMULATED");
    ssize_t length = readlink("/proc/thread-self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    const char *slash = strrchr(path, '/'), *seen = slash ? slash + 1 : path;
    if (!(declared && *declared) && strncmp(seen, "qemu-", 5)) {
        printf("null");
        return;
    }
    print_json(declared && *declared ? declared : seen);
}

static void probe(const Arguments *arguments) {
    const char *version = open_runtime(arguments->library);
    struct utsname system;
    uname(&system);
    printf("\n{\"engine\": {\"name\": \"onnxruntime\", \"version\": ");
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

static void load(const Arguments *arguments, Model *model, Requests *requests) {
    if (!arguments->model)
        fail(USAGE, "--model is missing");
    load_model(model, arguments->model, arguments->threads);
    read_requests(requests, model, (char **)arguments->inputs, arguments->n_inputs, arguments->requests);
}

/* How the answers of one output differ from the recorded ones: sums over all requests, of values less the first recorded one. */
typedef struct {
    double largest, squared_error, sum, squares, origin, magnitude, *first;
    size_t values, agreed;
    int varies;
} Parity;

static double element(const void *data, int type, size_t i) {
    switch (type) {
    case FLOAT32: return ((const float *)data)[i];
    case UINT8: case BOOL: return ((const uint8_t *)data)[i];
    case INT8: return ((const int8_t *)data)[i];
    case UINT16: return ((const uint16_t *)data)[i];
    case INT16: return ((const int16_t *)data)[i];
    case INT32: return ((const int32_t *)data)[i];
    case INT64: return (double)((const int64_t *)data)[i];
    case FLOAT64: return ((const double *)data)[i];
    case UINT32: return ((const uint32_t *)data)[i];
    case UINT64: return (double)((const uint64_t *)data)[i];
    default: return NAN;
    }
}

/* Compare one request's output with the recorded one. */
static void compare(const Tensor *output, const void *recorded, Parity *parity) {
    size_t n = output->bytes / element_bytes(output->type), best = 0, best_wanted = 0;
    int is_first = !parity->first;
    if (is_first && !(parity->first = malloc(n * sizeof(double))))
        fail(FAILED, "no memory for output '%s'", output->name);
    for (size_t i = 0; i < n; i++) {
        double got = element(output->data, output->type, i), wanted = element(recorded, output->type, i);
        double difference = fabs(got - wanted);
        if (!parity->values++)
            parity->origin = wanted;
        if (is_first)
            parity->first[i] = wanted;
        else if (!(fabs(wanted - parity->first[i]) <= 1e-6 + 2e-6 * fabs(wanted)))
            parity->varies = 1;
        parity->magnitude = fmax(parity->magnitude, fabs(wanted));
        if (isnan(difference))
            parity->largest = INFINITY;
        else if (difference > parity->largest)
            parity->largest = difference;
        parity->squared_error += difference * difference;
        parity->sum += wanted - parity->origin;
        parity->squares += (wanted - parity->origin) * (wanted - parity->origin);
        if (got > element(output->data, output->type, best))
            best = i;
        if (wanted > element(recorded, output->type, best_wanted))
            best_wanted = i;
    }
    parity->agreed += best == best_wanted;
}

static void compare_request(const Model *model, const Arguments *arguments, FILE **expected, Parity *parities) {
    for (size_t k = 0; k < arguments->n_expected; k++) {
        const Tensor *output = &model->outputs[k];
        void *recorded = malloc(output->bytes);
        if (output->type == FLOAT16)
            fail(FAILED, "output '%s' holds 16-bit floats, which edrun cannot compare", output->name);
        if (!recorded || fread(recorded, 1, output->bytes, expected[k]) != output->bytes)
            fail(USAGE, "%s: holds too few recorded outputs for '%s'", arguments->expected[k], output->name);
        compare(output, recorded, &parities[k]);
        free(recorded);
    }
}

/* 1 - squared error / variance; 0 without variance. */
static double fidelity(const Parity *parity) {
    double variance = parity->squares - parity->sum * parity->sum / parity->values;
    return variance > 0 ? 1 - parity->squared_error / variance : 0;
}

/* An output that is the same for all requests has no agreement: NAN if it is reproduced within 1 % or 0.01, and 0 otherwise. */
static double agreement(const Parity *parity, int is_main, size_t requests) {
    if (requests < 2 || !parity->varies)
        return parity->largest <= 0.01 * fmax(1, parity->magnitude) ? NAN : 0;
    return is_main ? (double)parity->agreed / requests : fidelity(parity);
}

static void print_agreement(double value) {
    printf(isnan(value) ? ", \"agreement\": null" : ", \"agreement\": %.9g", value);
}

/* Print the largest difference and the smallest agreement; for several outputs, also those of each. */
static void print_parity(const Model *model, const Parity *parities, size_t n, size_t requests) {
    double largest = 0, smallest = INFINITY, agreements[MAX_TENSORS];
    printf(", \"parity\": ");
    for (size_t k = 0; k < n; k++) {
        agreements[k] = agreement(&parities[k], !k, requests);
        if (!isfinite(parities[k].largest))
            fail(FAILED, "output '%s' has infinite or undefined values", model->outputs[k].name);
        largest = fmax(largest, parities[k].largest);
        smallest = fmin(smallest, agreements[k]);
    }
    if (!n) {
        printf("null");
        return;
    }
    printf("{\"max_abs_diff\": %.9g", largest);
    print_agreement(isinf(smallest) ? NAN : smallest);
    for (size_t k = 0; n > 1 && k < n; k++) {
        printf("%s", k ? ", " : ", \"outputs\": {");
        print_json(model->outputs[k].name);
        printf(": {\"max_abs_diff\": %.9g", parities[k].largest);
        print_agreement(agreements[k]);
        printf("}");
    }
    printf(n > 1 ? "}}" : "}");
}

static void print_outputs(const Model *model) {
    printf(", \"outputs\": [");
    for (size_t i = 0; i < model->n_outputs; i++) {
        const Tensor *output = &model->outputs[i];
        printf("%s{\"name\": ", i ? ", " : "");
        print_json(output->name);
        printf(", \"type\": %d, \"shape\": [", output->type);
        for (size_t k = 0; k < output->rank; k++)
            printf("%s%lld", k ? ", " : "", (long long)output->shape[k]);
        printf("]}");
    }
    printf("]");
}

static void open_all(FILE **files, char *const *paths, size_t n, const char *mode) {
    for (size_t i = 0; i < n; i++)
        if (!(files[i] = fopen(paths[i], mode)))
            fail(USAGE, "%s: cannot be opened", paths[i]);
}

static void check(const Arguments *arguments) {
    Model model;
    Requests requests;
    Parity parities[MAX_TENSORS] = {0};
    FILE *expected[MAX_TENSORS], *outputs[MAX_TENSORS];
    int64_t fastest_ns = INT64_MAX;
    open_runtime(arguments->library);
    load(arguments, &model, &requests);
    if (arguments->n_expected > model.n_outputs || arguments->n_outputs > model.n_outputs)
        fail(USAGE, "the model has %zu outputs, but more files were given for them", model.n_outputs);
    open_all(expected, arguments->expected, arguments->n_expected, "rb");
    open_all(outputs, arguments->outputs, arguments->n_outputs, "wb");
    for (size_t i = 0; i < requests.count; i++) {
        set_request(&model, &requests, i);
        int64_t begin = now_ns();
        infer(&model);
        int64_t took_ns = now_ns() - begin;
        fastest_ns = took_ns < fastest_ns ? took_ns : fastest_ns;
        read_outputs(&model);
        compare_request(&model, arguments, expected, parities);
        for (size_t k = 0; k < arguments->n_outputs; k++)
            if (fwrite(model.outputs[k].data, 1, model.outputs[k].bytes, outputs[k]) != model.outputs[k].bytes)
                fail(FAILED, "%s: cannot be written", arguments->outputs[k]);
    }
    for (size_t k = 0; k < arguments->n_outputs; k++)
        if (fclose(outputs[k]))
            fail(FAILED, "%s: cannot be written", arguments->outputs[k]);
    printf("\n{\"requests\": %zu", requests.count);
    print_parity(&model, parities, arguments->n_expected, requests.count);
    print_outputs(&model);
    printf(", \"latency_ns\": null, \"emulated\": ");
    print_emulated();
    printf("}\n");
}

static void write_samples(const char *prefix, const char *suffix, const void *data, size_t bytes) {
    char path[4096];
    snprintf(path, sizeof path, "%s%s", prefix, suffix);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, bytes, file) != bytes || fclose(file))
        fail(FAILED, "%s: cannot be written", path);
}

static void bench(const Arguments *arguments) {
    Model model;
    Requests requests;
    Samples samples = {0};
    pin(arguments->threads);
    open_runtime(arguments->library);
    make_room(&samples);
    int resettable = reset_peak();
    int64_t baseline = resettable ? status_bytes("VmRSS") : -1, begin = now_ns();
    load_model(&model, arguments->model ? arguments->model : "", arguments->threads);
    int64_t load_ns = now_ns() - begin, load_peak = resettable ? status_bytes("VmHWM") : -1;
    read_requests(&requests, &model, (char **)arguments->inputs, arguments->n_inputs, arguments->requests);
    set_request(&model, &requests, 0);
    begin = now_ns();
    infer(&model);
    int64_t first_ns = now_ns() - begin;
    take_samples(&samples, &model, &requests, arguments->seconds);
    int64_t peak = resettable ? status_bytes("VmHWM") : -1, steady = status_bytes("VmRSS");
    if (arguments->samples) {
        write_samples(arguments->samples, ".warmup_ns", samples.warmup_ns, samples.warmup_n * sizeof(int64_t));
        write_samples(arguments->samples, ".latency_ns", samples.latency_ns, samples.n * sizeof(int64_t));
        write_samples(arguments->samples, ".preempted", samples.preempted, samples.n);
    }
    printf("\n{\"wall_ns\": %lld, \"load_ns\": %lld, \"first_inference_ns\": %lld, \"warmup_n\": %zu, \"n\": %zu, ",
           (long long)samples.wall_ns, (long long)load_ns, (long long)first_ns, samples.warmup_n, samples.n);
    printf("\"steady\": %s, \"threads\": %d, ", samples.steady ? "true" : "false", arguments->threads);
    print_affinity();
    print_bytes("peak_bytes", peak);
    print_bytes("baseline_bytes", baseline);
    print_bytes("load_peak_bytes", load_peak);
    print_bytes("steady_bytes", steady);
    printf(", \"emulated\": ");
    print_emulated();
    printf("}\n");
}

static int64_t clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time); /* the clock of `date +%s%N`, which a loop beside this program logs */
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void work(const Arguments *arguments) {
    Model model;
    Requests requests;
    size_t n = 0;
    pin(arguments->threads);
    open_runtime(arguments->library);
    load(arguments, &model, &requests);
    int64_t begin = clock_ns(), end = now_ns() + (int64_t)(arguments->seconds * 1e9);
    while (now_ns() < end) {
        set_request(&model, &requests, n++);
        infer(&model);
    }
    printf("\n{\"n\": %zu, \"begin_ns\": %lld, \"end_ns\": %lld}\n", n, (long long)begin, (long long)clock_ns());
}

int main(int count, char **values) {
    Arguments arguments = parse(count, values);
    if (!strcmp(arguments.verb, "probe"))
        probe(&arguments);
    else if (!strcmp(arguments.verb, "check"))
        check(&arguments);
    else if (!strcmp(arguments.verb, "bench"))
        bench(&arguments);
    else if (!strcmp(arguments.verb, "work"))
        work(&arguments);
    else
        fail(USAGE, "'%s' is not a command; the commands are: probe, check, bench, work", arguments.verb);
    return 0;
}

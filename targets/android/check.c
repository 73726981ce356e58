#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "device.h"
#include "requests.h"
#include "timing.h"

enum { /* ONNX's numbers of element types */
    FLOAT32 = 1, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL = 9, FLOAT16, FLOAT64, UINT32, UINT64
};

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

/* The memory of a process that times this model with few requests, or -1. */
static int64_t bench_bytes(const Requests *requests, int cold) {
    int64_t peak = status_bytes("VmHWM"), buffers = ROOM_BYTES + (cold ? (int64_t)cache_clearing_bytes() : 0);
    return peak < 0 ? -1 : peak - (int64_t)requests->bytes + buffers;
}

void check(const Arguments *arguments) {
    const Arm *arm = only_arm(arguments);
    Model model;
    Requests requests;
    Parity parities[MAX_TENSORS] = {0};
    FILE *expected[MAX_TENSORS], *outputs[MAX_TENSORS];
    open_runtime(arguments->library);
    load_model(&model, arm->model, arm->threads);
    read_requests(&requests, &model, arm->inputs, arm->n_inputs, arguments->requests);
    if (arguments->n_expected > model.n_outputs || arguments->n_outputs > model.n_outputs)
        fail(USAGE, "the model has %zu outputs, but more files were given for them", model.n_outputs);
    open_all(expected, arguments->expected, arguments->n_expected, "rb");
    open_all(outputs, arguments->outputs, arguments->n_outputs, "wb");
    for (size_t i = 0; i < requests.count; i++) {
        set_request(&model, &requests, i);
        infer(&model);
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
    print_bytes("bench_bytes", bench_bytes(&requests, arguments->cold));
    printf(", \"latency_ns\": null, \"emulated\": ");
    print_emulated();
    printf("}\n");
}


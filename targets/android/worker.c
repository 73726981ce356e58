#include "worker.h"

#include <stdio.h>
#include <unistd.h>

#include "device.h"
#include "requests.h"
#include "timing.h"

/* What is measured once, before the bursts. */
typedef struct {
    int64_t baseline, load_ns, load_peak, first_ns;
    int resettable;
} Start;

static void write_samples(const char *path, const Samples *samples) {
    FILE *file = fopen(path, "wb");
    size_t written = file ? fwrite(samples->inferences, sizeof(Inference), samples->count, file) : 0;
    if (!file || written != samples->count || fclose(file))
        fail(FAILED, "%s: cannot be written", path);
}

static Start start(const Arguments *arguments, const Arm *arm, Model *model, Requests *requests) {
    Start found = {.resettable = reset_peak()};
    found.baseline = found.resettable ? status_bytes("VmRSS") : -1;
    int64_t begin = now_ns();
    load_model(model, arm->model, arm->threads);
    found.load_ns = now_ns() - begin;
    found.load_peak = found.resettable ? status_bytes("VmHWM") : -1;
    read_requests(requests, model, arm->inputs, arm->n_inputs, arguments->requests);
    set_request(model, requests, 0);
    begin = now_ns();
    infer(model);
    found.first_ns = now_ns() - begin;
    return found;
}

static void print_answer(const Arm *arm, const Start *start, const Samples *samples) {
    int64_t peak = start->resettable ? status_bytes("VmHWM") : -1, steady = status_bytes("VmRSS");
    printf("{\"wall_ns\": %lld, \"load_ns\": %lld, \"first_inference_ns\": %lld, ", (long long)samples->wall_ns,
           (long long)start->load_ns, (long long)start->first_ns);
    printf("\"warmup_n\": %zu, \"lead_n\": %zu, \"n\": %zu, \"bursts\": %zu, ", samples->warmup_n, samples->lead_n,
           samples->n, samples->bursts);
    printf("\"steady\": %s, \"threads\": %d, ", samples->steady ? "true" : "false", arm->threads);
    print_affinity();
    print_bytes("peak_bytes", peak);
    print_bytes("baseline_bytes", start->baseline);
    print_bytes("load_peak_bytes", start->load_peak);
    print_bytes("steady_bytes", steady);
    printf("}\n");
}

static void print_need(const Samples *samples, double seconds) {
    printf("%zu\n", bursts_needed(samples, seconds));
    fflush(stdout);
}

void serve_turns(const Arguments *arguments, const Arm *arm, int rounds) {
    Model model;
    Requests requests;
    Samples samples;
    int32_t round;
    pin(arm->threads);
    open_runtime(arguments->library);
    make_room(&samples, arguments->cold ? cache_clearing_bytes() : 0);
    Start started = start(arguments, arm, &model, &requests);
    warm_up(&samples, &model, &requests, arguments->seconds);
    rehearse(&samples, &model, &requests);
    print_need(&samples, arguments->seconds);
    while (read(rounds, &round, sizeof round) == (ssize_t)sizeof round && round != LAST_ROUND) {
        take_burst(&samples, &model, &requests, round);
        print_need(&samples, arguments->seconds);
    }
    if (arm->samples)
        write_samples(arm->samples, &samples);
    print_answer(arm, &started, &samples);
}

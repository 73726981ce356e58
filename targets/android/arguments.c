#include "arguments.h"

#include <stdlib.h>
#include <string.h>

static void add(char **list, size_t *n, char *value) {
    if (*n == MAX_TENSORS)
        fail(USAGE, "more than %d files of one kind", MAX_TENSORS);
    list[(*n)++] = value;
}

static void begin_arm(Arguments *found, const char *model) {
    if (found->n_arms == MAX_ARMS)
        fail(USAGE, "more than %d models", MAX_ARMS);
    found->arms[found->n_arms++] = (Arm){.model = model, .threads = 1};
}

/* Read an option of the last --model; return whether it is one. */
static int read_arm_option(Arguments *found, const char *key, char *value) {
    if (strcmp(key, "--input") && strcmp(key, "--samples") && strcmp(key, "--threads"))
        return 0;
    if (!found->n_arms)
        fail(USAGE, "%s must follow the --model that it belongs to", key);
    Arm *arm = &found->arms[found->n_arms - 1];
    if (!strcmp(key, "--input"))
        add(arm->inputs, &arm->n_inputs, value);
    else if (!strcmp(key, "--samples"))
        arm->samples = value;
    else if ((arm->threads = atoi(value)) < 1)
        fail(USAGE, "--threads must be above 0");
    return 1;
}

static int is_cold(const char *caches) {
    if (strcmp(caches, "warm") && strcmp(caches, "cold"))
        fail(USAGE, "--caches must be warm or cold, not '%s'", caches);
    return !strcmp(caches, "cold");
}

static void read_option(Arguments *found, const char *key, char *value) {
    if (!strcmp(key, "--lib"))
        found->library = value;
    else if (!strcmp(key, "--model"))
        begin_arm(found, value);
    else if (!strcmp(key, "--expected"))
        add(found->expected, &found->n_expected, value);
    else if (!strcmp(key, "--output"))
        add(found->outputs, &found->n_outputs, value);
    else if (!strcmp(key, "--requests"))
        found->requests = (size_t)atol(value);
    else if (!strcmp(key, "--seconds"))
        found->seconds = atof(value);
    else if (!strcmp(key, "--caches"))
        found->cold = is_cold(value);
    else if (!strcmp(key, "--seed"))
        found->seed = strtoull(value, NULL, 10);
    else if (!read_arm_option(found, key, value))
        fail(USAGE, "unknown option '%s'", key);
}

void parse(Arguments *found, int count, char **values) {
    memset(found, 0, sizeof *found);
    found->verb = count > 1 ? values[1] : "";
    found->library = getenv("EDGEDISTILL_ORT");
    found->seconds = 5;
    if (!found->library)
        found->library = "./libonnxruntime.so";
    for (int i = 2; i < count; i += 2) {
        if (i + 1 == count)
            fail(USAGE, "'%s' needs a value", values[i]);
        read_option(found, values[i], values[i + 1]);
    }
    if (!(found->seconds > 0))
        fail(USAGE, "--seconds must be above 0");
}

const Arm *only_arm(const Arguments *arguments) {
    if (!arguments->n_arms)
        fail(USAGE, "--model is missing");
    if (arguments->n_arms > 1)
        fail(USAGE, "%s takes one --model; only bench takes several", arguments->verb);
    return arguments->arms;
}

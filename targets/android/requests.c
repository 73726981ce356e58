#include "requests.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    long size = -1;
    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET))
        fail(USAGE, "%s: cannot be read", path);
    char *data = malloc((size_t)size + 1);
    if (!data || fread(data, 1, (size_t)size, file) != (size_t)size)
        fail(USAGE, "%s: cannot be read", path);
    fclose(file);
    *bytes = (size_t)size;
    return data;
}

void read_requests(Requests *requests, const Model *model, char *const *paths, size_t n_paths, size_t most) {
    if (n_paths != model->n_inputs)
        fail(USAGE, "the model has %zu inputs, but %zu files were given for them", model->n_inputs, n_paths);
    requests->bytes = 0;
    for (size_t i = 0; i < n_paths; i++) {
        size_t bytes, each = model->inputs[i].bytes;
        requests->data[i] = read_file(paths[i], &bytes);
        requests->bytes += bytes;
        if (!bytes || bytes % each)
            fail(USAGE, "%s: %zu bytes are not a multiple of a request of %zu bytes for '%s'", paths[i], bytes, each,
                 model->inputs[i].name);
        if (i == 0 || bytes / each < requests->count)
            requests->count = bytes / each;
    }
    if (most && most < requests->count)
        requests->count = most;
}

void set_request(Model *model, const Requests *requests, size_t i) {
    for (size_t k = 0; k < model->n_inputs; k++) {
        Tensor *input = &model->inputs[k];
        memcpy(input->data, requests->data[k] + (i % requests->count) * input->bytes, input->bytes);
    }
}

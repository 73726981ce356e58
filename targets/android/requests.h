/* Recorded requests: for each input of a model a raw file of requests one after another, as numpy's tofile writes them. */
#ifndef EDGEDISTILL_REQUESTS_H
#define EDGEDISTILL_REQUESTS_H

#include "session.h"

typedef struct {
    char *data[MAX_TENSORS];
    size_t count, bytes; /* bytes: of all data */
} Requests;

/* Read as many requests as all files hold, or the first `most` if that is above 0. */
void read_requests(Requests *requests, const Model *model, char *const *paths, size_t n_paths, size_t most);

/* Copy one request into the inputs' buffers. */
void set_request(Model *model, const Requests *requests, size_t i);

#endif

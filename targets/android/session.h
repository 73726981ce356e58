/* A model loaded by ONNX Runtime, with a buffer for each input, and error exits. */
#ifndef EDGEDISTILL_SESSION_H
#define EDGEDISTILL_SESSION_H

#include <stddef.h>
#include <stdint.h>

#include "ort_api.h"

#define MAX_TENSORS 16
#define MAX_DIMENSIONS 8

enum { USAGE = 2, FAILED = 5 };

typedef struct {
    char *name;
    int type;        /* ONNX's number for the element type */
    int64_t shape[MAX_DIMENSIONS];
    size_t rank;
    size_t bytes;    /* of one request */
    void *data;      /* owned by an input; ONNX Runtime owns that of an output */
    OrtValue *value;
} Tensor;

typedef struct {
    OrtSession *session;
    Tensor inputs[MAX_TENSORS], outputs[MAX_TENSORS];
    const char *input_names[MAX_TENSORS], *output_names[MAX_TENSORS];
    OrtValue *input_values[MAX_TENSORS], *output_values[MAX_TENSORS];
    size_t n_inputs, n_outputs;
} Model;

/* Print {"error": TEXT} as the last line of stdout, and end with an exit code. */
void fail(int code, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* Print a string as JSON. */
void print_json(const char *text);

/* Open the library of ONNX Runtime, and return its version. */
const char *open_runtime(const char *library);

/* The size of an element of ONNX's type, or 0 for an unknown type. */
size_t element_bytes(int type);

/* Load a model with fixed shapes, on the CPU, with a number of threads. */
void load_model(Model *model, const char *path, int threads);

/* Run one inference on the contents of the input buffers. */
void infer(Model *model);

/* Find shape, type, bytes and data of the outputs of the last inference. */
void read_outputs(Model *model);

#endif

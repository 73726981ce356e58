#include "session.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const OrtApi *api;

void print_json(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", (unsigned char)*text);
        else
            putchar(*text);
    }
    putchar('"');
}

void fail(int code, const char *format, ...) {
    char text[2048];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    printf("\n{\"error\": ");
    print_json(text);
    printf("}\n");
    exit(code);
}

static void require(OrtStatus *status, const char *what) {
    if (status)
        fail(FAILED, "%s: %s", what, api->GetErrorMessage(status));
}

const char *open_runtime(const char *library) {
    void *handle = dlopen(library, RTLD_NOW);
    if (!handle)
        fail(FAILED, "%s", dlerror());
    const OrtApiBase *(*get_base)(void);
    *(void **)&get_base = dlsym(handle, "OrtGetApiBase");
    if (!get_base)
        fail(FAILED, "%s: is not ONNX Runtime", library);
    const OrtApiBase *base = get_base();
    api = base->GetApi(ORT_API_VERSION);
    if (!api)
        fail(FAILED, "%s: ONNX Runtime %s is too old", library, base->GetVersionString());
    return base->GetVersionString();
}

size_t element_bytes(int type) {
    static const size_t bytes[] = {0, 4, 1, 1, 2, 2, 4, 8, 0, 1, 2, 8, 4, 8}; /* ONNX's numbers, 1 is float32 */
    return type > 0 && type < (int)(sizeof bytes / sizeof *bytes) ? bytes[type] : 0;
}

static void read_shape(Tensor *tensor, const OrtShapeInfo *info) {
    require(api->GetTensorElementType(info, &tensor->type), tensor->name);
    require(api->GetDimensionsCount(info, &tensor->rank), tensor->name);
    if (tensor->rank > MAX_DIMENSIONS)
        fail(FAILED, "'%s' has %zu dimensions, more than this runner supports", tensor->name, tensor->rank);
    require(api->GetDimensions(info, tensor->shape, tensor->rank), tensor->name);
    tensor->bytes = element_bytes(tensor->type);
    if (!tensor->bytes)
        fail(FAILED, "'%s' has elements of ONNX's type %d, which this runner does not know", tensor->name, tensor->type);
    for (size_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] < 1)
            fail(FAILED, "'%s' has no fixed size in dimension %zu; export the model with fixed shapes", tensor->name, i);
        tensor->bytes *= (size_t)tensor->shape[i];
    }
}

static void make_input(Model *model, size_t i, OrtAllocator *allocator, const OrtMemoryInfo *memory) {
    Tensor *input = &model->inputs[i];
    OrtTypeInfo *type;
    const OrtShapeInfo *shape;
    require(api->SessionGetInputName(model->session, i, allocator, &input->name), "an input's name");
    require(api->SessionGetInputTypeInfo(model->session, i, &type), input->name);
    require(api->CastTypeInfoToTensorInfo(type, &shape), input->name);
    if (!shape)
        fail(FAILED, "'%s' is not a tensor", input->name);
    read_shape(input, shape);
    input->data = calloc(1, input->bytes);
    if (!input->data)
        fail(FAILED, "'%s': no memory for %zu bytes", input->name, input->bytes);
    require(api->CreateTensorWithDataAsOrtValue(memory, input->data, input->bytes, input->shape, input->rank, input->type,
                                                &input->value), input->name);
    model->input_names[i] = input->name;
    model->input_values[i] = input->value;
}

void load_model(Model *model, const char *path, int threads) {
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtAllocator *allocator;
    OrtMemoryInfo *memory;
    memset(model, 0, sizeof *model);
    require(api->CreateEnv(ORT_LOG_ERROR, "edrun", &env), "ONNX Runtime");
    require(api->CreateSessionOptions(&options), "ONNX Runtime");
    require(api->SetIntraOpNumThreads(options, threads), "threads");
    require(api->SetInterOpNumThreads(options, 1), "threads");
    require(api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "1"), "spinning");
    require(api->CreateSession(env, path, options, &model->session), path);
    require(api->GetAllocatorWithDefaultOptions(&allocator), "ONNX Runtime");
    require(api->CreateCpuMemoryInfo(ORT_ARENA_ALLOCATOR, ORT_MEMORY_DEFAULT, &memory), "ONNX Runtime");
    require(api->SessionGetInputCount(model->session, &model->n_inputs), path);
    require(api->SessionGetOutputCount(model->session, &model->n_outputs), path);
    if (model->n_inputs > MAX_TENSORS || model->n_outputs > MAX_TENSORS)
        fail(FAILED, "%s: has %zu inputs and %zu outputs; this runner takes %d", path, model->n_inputs, model->n_outputs,
             MAX_TENSORS);
    for (size_t i = 0; i < model->n_inputs; i++)
        make_input(model, i, allocator, memory);
    for (size_t i = 0; i < model->n_outputs; i++) {
        require(api->SessionGetOutputName(model->session, i, allocator, &model->outputs[i].name), "an output's name");
        model->output_names[i] = model->outputs[i].name;
    }
}

void infer(Model *model) {
    /* The first call lets ONNX Runtime make the outputs; from then on it writes into those. */
    require(api->Run(model->session, NULL, model->input_names, (const OrtValue *const *)model->input_values,
                     model->n_inputs, model->output_names, model->n_outputs, model->output_values), "inference");
}

void read_outputs(Model *model) {
    for (size_t i = 0; i < model->n_outputs; i++) {
        Tensor *output = &model->outputs[i];
        OrtShapeInfo *shape;
        require(api->GetTensorTypeAndShape(model->output_values[i], &shape), output->name);
        read_shape(output, shape);
        api->ReleaseShapeInfo(shape);
        require(api->GetTensorMutableData(model->output_values[i], &output->data), output->name);
    }
}

/* The functions of ONNX Runtime's C API that the runner calls.
 *
 * OrtApi is a table of function pointers that is only ever appended to, so that the place of each is the same in every version
 * since (checked with 1.20.1 to 1.32.0; places are those of onnxruntime_c_api.h at 1.20). Its 500 kB of headers are not needed.
 */
#ifndef EDGEDISTILL_ORT_API_H
#define EDGEDISTILL_ORT_API_H

#include <stddef.h>
#include <stdint.h>

#define ORT_API_VERSION 17
#define ORT_LOG_ERROR 3
#define ORT_ARENA_ALLOCATOR 1
#define ORT_MEMORY_DEFAULT 0

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtShapeInfo OrtShapeInfo;

typedef struct OrtApi {
    void *to_2[2];
    const char *(*GetErrorMessage)(const OrtStatus *);                     /* 2 */
    OrtStatus *(*CreateEnv)(int, const char *, OrtEnv **);                 /* 3 */
    void *to_7[3];
    OrtStatus *(*CreateSession)(const OrtEnv *, const char *, const OrtSessionOptions *, OrtSession **); /* 7 */
    void *to_9[1];
    OrtStatus *(*Run)(OrtSession *, const void *, const char *const *, const OrtValue *const *, size_t,
                      const char *const *, size_t, OrtValue **);           /* 9 */
    OrtStatus *(*CreateSessionOptions)(OrtSessionOptions **);              /* 10 */
    void *to_24[13];
    OrtStatus *(*SetIntraOpNumThreads)(OrtSessionOptions *, int);          /* 24 */
    OrtStatus *(*SetInterOpNumThreads)(OrtSessionOptions *, int);          /* 25 */
    void *to_30[4];
    OrtStatus *(*SessionGetInputCount)(const OrtSession *, size_t *);      /* 30 */
    OrtStatus *(*SessionGetOutputCount)(const OrtSession *, size_t *);     /* 31 */
    void *to_33[1];
    OrtStatus *(*SessionGetInputTypeInfo)(const OrtSession *, size_t, OrtTypeInfo **); /* 33 */
    void *to_36[2];
    OrtStatus *(*SessionGetInputName)(const OrtSession *, size_t, OrtAllocator *, char **);  /* 36 */
    OrtStatus *(*SessionGetOutputName)(const OrtSession *, size_t, OrtAllocator *, char **); /* 37 */
    void *to_49[11];
    OrtStatus *(*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo *, void *, size_t, const int64_t *, size_t, int,
                                                 OrtValue **);             /* 49 */
    void *to_51[1];
    OrtStatus *(*GetTensorMutableData)(OrtValue *, void **);               /* 51 */
    void *to_55[3];
    OrtStatus *(*CastTypeInfoToTensorInfo)(const OrtTypeInfo *, const OrtShapeInfo **); /* 55 */
    void *to_60[4];
    OrtStatus *(*GetTensorElementType)(const OrtShapeInfo *, int *);       /* 60 */
    OrtStatus *(*GetDimensionsCount)(const OrtShapeInfo *, size_t *);      /* 61 */
    OrtStatus *(*GetDimensions)(const OrtShapeInfo *, int64_t *, size_t);  /* 62 */
    void *to_64[1];
    OrtStatus *(*GetTensorShapeElementCount)(const OrtShapeInfo *, size_t *); /* 64 */
    OrtStatus *(*GetTensorTypeAndShape)(const OrtValue *, OrtShapeInfo **);   /* 65 */
    void *to_69[3];
    OrtStatus *(*CreateCpuMemoryInfo)(int, int, OrtMemoryInfo **);         /* 69 */
    void *to_78[8];
    OrtStatus *(*GetAllocatorWithDefaultOptions)(OrtAllocator **);         /* 78 */
    void *to_96[17];
    void (*ReleaseValue)(OrtValue *);                                      /* 96 */
    void *to_99[2];
    void (*ReleaseShapeInfo)(OrtShapeInfo *);                              /* 99 */
    void *to_130[30];
    OrtStatus *(*AddSessionConfigEntry)(OrtSessionOptions *, const char *, const char *); /* 130 */
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t);
    const char *(*GetVersionString)(void);
} OrtApiBase;

#endif

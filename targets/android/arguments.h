/* The command line: a verb, the models that it is for, and its settings. */
#ifndef EDGEDISTILL_ARGUMENTS_H
#define EDGEDISTILL_ARGUMENTS_H

#include "session.h"

#define MAX_ARMS 64

/* A model to run, and its files. */
typedef struct {
    const char *model, *samples;
    char *inputs[MAX_TENSORS];
    size_t n_inputs;
    int threads;
} Arm;

typedef struct {
    const char *verb, *library;
    Arm arms[MAX_ARMS];
    char *expected[MAX_TENSORS], *outputs[MAX_TENSORS];
    size_t n_arms, n_expected, n_outputs, requests;
    double seconds;
    int cold; /* empty the caches before each inference */
    uint64_t seed;
} Arguments;

/* Read the command line; end with the exit code USAGE if it is wrong. */
void parse(Arguments *found, int count, char **values);

/* Return the model of a verb that takes exactly one; end with the exit code USAGE if more or none are given. */
const Arm *only_arm(const Arguments *arguments);

#endif

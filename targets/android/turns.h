/* Models measured in turns: a fresh process for each model, all alive together, and one of them infers at a time. */
#ifndef EDGEDISTILL_TURNS_H
#define EDGEDISTILL_TURNS_H

#include "arguments.h"

/* Measure the models in bursts, print the answer of each process, and return the highest exit code of a process. */
int measure_in_turns(const Arguments *arguments);

#endif

/* Runs every recorded request, and compares the outputs with the recorded ones. */
#ifndef EDGEDISTILL_CHECK_H
#define EDGEDISTILL_CHECK_H

#include "arguments.h"

/* Print the parity, the outputs' shapes, and the memory that a timed process of this model needs. */
void check(const Arguments *arguments);

#endif

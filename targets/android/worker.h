/* The measured process of one model. */
#ifndef EDGEDISTILL_WORKER_H
#define EDGEDISTILL_WORKER_H

#include "arguments.h"

enum { LAST_ROUND = -1 };

/* Load a model, warm up, infer for a burst at each round number that arrives, and print the answer at LAST_ROUND.
 *
 * After the warm-up and after each burst, a line of stdout has the number of bursts that the model still needs.
 */
void serve_turns(const Arguments *arguments, const Arm *arm, int rounds);

#endif

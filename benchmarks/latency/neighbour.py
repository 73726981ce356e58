"""A neighbour that disturbs: multiply matrices on one CPU in random bursts of 10 to 300 ms, with pauses as long on average."""

import os
import sys
import time

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np

if __name__ == "__main__":
    cpu = int(sys.argv[1])
    os.sched_setaffinity(0, [cpu])
    random = np.random.default_rng(cpu)
    matrix = random.random((256, 256))
    while True:
        until = time.monotonic() + random.uniform(0.01, 0.3)
        while time.monotonic() < until:
            matrix @ matrix
        time.sleep(random.uniform(0.01, 0.3))

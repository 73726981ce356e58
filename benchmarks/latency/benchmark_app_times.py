"""OpenVINO's benchmark_app as it is shipped, which prints hundredths of a millisecond; here it also writes every time to a file.

Run as `benchmark_app_times.py TIMES.npy CPU benchmark_app's own arguments`. Nothing of what it does or times is changed: the list of
times that its synchronous loop returns is saved. Usage reporting, a process of its own, is off, as it is for the arm beside it.
"""

import os
import sys

sys.modules["openvino_telemetry"] = None

import numpy as np  # noqa: E402
from openvino.tools.benchmark import benchmark  # noqa: E402
from openvino.tools.benchmark.main import main  # noqa: E402

times_file, cpu, *arguments = sys.argv[1:]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(cpu)})
loop = benchmark.Benchmark.sync_inference


def kept(self, request, data_queue):
    times, seconds, iterations = loop(self, request, data_queue)
    if iterations > 1:  # the first inference goes through the same function
        np.save(times_file, np.array(times))
    return times, seconds, iterations


benchmark.Benchmark.sync_inference = kept
sys.argv = ["benchmark_app", *arguments]
sys.exit(main())

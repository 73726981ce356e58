"""How long a training step takes beside another program that keeps one CPU busy, by the rounds that waiting threads of libgomp spin.

python benchmarks/throughput/busy.py [--rounds 3]

A small convolutional network on batches of 32 images of 32x32 pixels, in torch with two threads. Each time is the mean of the steps of four
seconds in a fresh process; the settings take turns, alone and beside the other program. "default" is libgomp's own setting, 300,000 rounds.
Writes busy.json beside this file.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

SPINS = ("default", "50000", "5000", "500")
STEPS = """
import time, torch
from torch import nn
torch.set_num_threads(2)
layers, channels = [], 3
for _ in range(6):
    layers += [nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
x, y = torch.rand(32, 3, 32, 32), torch.randint(0, 10, (32,))
optimizer = torch.optim.SGD(model.parameters(), 0.1)
def step():
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(3):
    step()
start, steps = time.perf_counter(), 0
while time.perf_counter() - start < 4:
    step()
    steps += 1
print(1000 * (time.perf_counter() - start) / steps)
"""


def step_ms(spin):
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    if spin != "default":
        settings["GOMP_SPINCOUNT"] = spin
    done = subprocess.run([sys.executable, "-c", STEPS], env=settings, capture_output=True, text=True, check=True)
    return round(float(done.stdout), 1)


@contextlib.contextmanager
def busy_cpu():
    """Keep the last CPU busy with another program."""
    code = f"import os\nos.sched_setaffinity(0, [{max(os.sched_getaffinity(0))}])\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield
    finally:
        other.kill()
        other.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times = {place: {spin: [] for spin in SPINS} for place in ("alone", "beside")}
    for _ in range(rounds):
        for place, where in (("alone", contextlib.nullcontext), ("beside", busy_cpu)):
            for spin in SPINS:
                with where():
                    times[place][spin].append(step_ms(spin))
    alone = statistics.median(times["alone"]["default"])
    table = {"cpus": os.cpu_count(), "step_ms": times, "times_default_alone": {
        place: {spin: round(statistics.median(found) / alone, 2) for spin, found in by_spin.items()} for place, by_spin in times.items()
    }}  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(json.dumps(table, indent=2) + "\n")
    print(json.dumps(table["times_default_alone"], indent=2))


if __name__ == "__main__":
    main()

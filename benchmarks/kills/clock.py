"""A clock that jumps: runs during which the time of day jumps by hours, days or a year, forward and back, and between runs too.

python benchmarks/kills/clock.py [--runs 10] [--seed 1] [--until distill] [--json FILE]

clock.c, which needs a C compiler, gives the processes the time of day, which this script moves; the monotonic clock is not moved, as the
kernel never moves it. The times of files are the kernel's. A run is killed once and started again. It must end with the results of a run without jumps; each duration in the
manifest must be between 0 and the time that the run took; and no file may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import jobs
from checks import require_clean, require_equal, require_sound, results
from commands import Command, FoundError, Place, print_row
from series import RUN

CLOCK: Final = "EDGEDISTILL_CLOCK"
"""The environment variable with the file of the seconds, in eight bytes, by which the time of day is moved."""
JUMPS_S: Final = (3600, -3600, 11 * 3600, -11 * 3600, 8 * 86400, -8 * 86400, 365 * 86400, -365 * 86400)
PAUSE_S: Final = (0.2, 1.5)


def jump(clock: Path, rng: random.Random) -> None:
    """Set the time of day to another one: the real one, and some seconds."""
    with clock.open("r+b") as file:
        file.write(rng.choice(JUMPS_S).to_bytes(8, sys.byteorder, signed=True))


def jumps_until(command: Command, clock: Path, rng: random.Random, seconds: float) -> int:
    """Let the clock jump until a command ends, for at most some seconds; return the number of jumps."""
    count, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline and not command.ends_within(rng.uniform(*PAUSE_S)):
        jump(clock, rng)
        count += 1
    return count


def durations(value: Any) -> list[float]:
    """Return each duration in a manifest."""
    if isinstance(value, dict):
        own = [one for name, one in value.items() if name == "seconds" and isinstance(one, (int, float))]
        return own + [found for one in value.values() for found in durations(one)]
    return [found for one in value for found in durations(one)] if isinstance(value, list) else []


def series(folder: Path, clock: Path, runs: int, seed: int, until: str) -> dict[str, Any]:
    given, rng = ("run", "edgedistill.toml", "--until", until), random.Random(f"clock/{seed}")  # noqa: S311 - no secret
    calm = Place(folder / "calm")
    jobs.classifier(calm.job)
    calm.run(*given)
    wanted, jumps, checked = results(calm.job / RUN), 0, 0
    for number in range(runs):
        place = Place(folder / f"run-{number}")
        jobs.classifier(place.job)
        start = time.monotonic()
        killed = place.start(*given)
        jumps += jumps_until(killed, clock, rng, rng.uniform(0.5, 4))
        killed.kill()
        jump(clock, rng)
        command = place.start(*given)
        jumps += 1 + jumps_until(command, clock, rng, 600)
        if command.wait() != 0:
            raise FoundError(f"ended with {command.code}: {command.said()[-1500:]}")
        took = time.monotonic() - start
        require_equal(results(place.job / RUN), wanted)
        require_sound(place.job / RUN)
        require_clean(place)
        found = durations(json.loads((place.job / RUN / "manifest.json").read_bytes()))
        if not all(0 <= one <= took for one in found):
            raise FoundError(f"durations {found} of a run of {took:.1f} s")
        checked += len(found)
    return {"seed": seed, "until": until, "runs": runs, "jumps": jumps, "durations_checked": checked, "defects": 0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--until", default="distill", help="the last stage of the runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    clock = os.environ.get(CLOCK)
    if clock is None:
        return _with_clock()
    return print_row(
        options.json, lambda folder: series(folder, Path(clock), options.runs, options.seed, options.until)
    )


def _with_clock() -> int:
    """Run this script again with a clock that it can set."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("a C compiler is not here; Debian has it in gcc")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="clock-"))
    library, clock = folder / "clock.so", folder / "clock"
    clock.write_bytes(bytes(8))
    try:
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", library, Path(__file__).with_suffix(".c")], check=True
        )
        own = {"LD_PRELOAD": str(library), CLOCK: str(clock), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *sys.argv], env=os.environ | own, check=False).returncode
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())

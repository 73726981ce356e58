"""How long a whole job takes with this version and with an earlier one: `edgedistill demo`, each stage and the command.

Each job starts in an empty folder, with an empty cache; then the stages from quantize on are repeated. With --bench, only the bench stage
is timed, of a demo that learns for one epoch, with its processor time, which other work on the machine changes less. Of the two versions,
the one that goes first is drawn anew each time.

    git worktree add --detach ../before 9af1ba9       # the commit before models took turns
    python benchmarks/latency/job_time.py benchmarks/latency/job_time.json --before ../before [--times 3]
    python benchmarks/latency/job_time.py benchmarks/latency/bench_time.json --before ../before --bench [--times 10]
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BEFORE, NOW = "before", "now"
MEASURED = ("quantize", "export", "compile", "bench")
"""The stages that are repeated and compared one by one."""
SHORT = ("--set", "teacher.epochs=1", "--set", "distill.epochs=1", "--set", "distill.control=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the earlier version")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--bench", action="store_true", help="time the bench stage only")
    options = parser.parse_args()
    versions = {BEFORE: options.before.resolve(), NOW: REPOSITORY}
    found: dict[str, Any] = {"commits": {name: commit(folder) for name, folder in versions.items()}, "jobs": []}
    with tempfile.TemporaryDirectory() as scratch:
        once = prepared(versions, Path(scratch)) if options.bench else versions
        summed_up = of_benches if options.bench else of_jobs
        for number in range(options.times):
            for name in random.Random(number).sample(sorted(versions), len(versions)):  # noqa: S311 - an order, not a secret
                one = bench(versions[name], once[name]) if options.bench else job(versions[name])
                found["jobs"].append({"version": name} | one)
                sys.stderr.write(f"{number + 1}/{options.times} {json.dumps(found['jobs'][-1])}\n")
                options.result.write_text(json.dumps(summed_up(found), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found["medians_s"], indent=1))


def commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def job(version: Path) -> dict:
    """Run the demo of a version, and once more from quantize on; return the seconds of each stage and of the command."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"PYTHONPATH": str(version), "EDGEDISTILL_CACHE": f"{folder}/cache"}
        load = os.getloadavg()[0]
        command_s, stages = run(["demo", "--run-dir", "run"], Path(folder), environment)
        config = version / "edgedistill" / "config" / "demo.toml"
        repeated_s, repeated = run(
            ["run", str(config), "--run-dir", "run", "--from", MEASURED[0]], Path(folder), environment
        )
    return {
        "command_s": command_s,
        "stages_s": stages,
        "repeated_s": repeated_s,
        "repeated_stages_s": {stage: repeated[stage] for stage in MEASURED},
        "load_average": [load, os.getloadavg()[0]],
    }


def demo_of(version: Path) -> list[str]:
    """Return the command that runs the demo's configuration, in the run folder of `edgedistill demo --run-dir run`."""
    return ["run", str(version / "edgedistill" / "config" / "demo.toml"), "--run-dir", "run"]


def prepared(versions: dict[str, Path], scratch: Path) -> dict[str, Path]:
    """Run each version's demo with one epoch, each in another folder, and return the folders."""
    for name, version in versions.items():
        (scratch / name).mkdir()
        run([*demo_of(version), *SHORT], scratch / name, os.environ | {"PYTHONPATH": str(version)})
    return {name: scratch / name for name in versions}


def bench(version: Path, folder: Path) -> dict:
    """Repeat the bench stage of a version; return its seconds, and the processor seconds of the command."""
    before, load = resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg()[0]
    _, stages = run([*demo_of(version), *SHORT, "--from", "bench"], folder, os.environ | {"PYTHONPATH": str(version)})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"bench_s": stages["bench"], "command_cpu_s": round(cpu_s, 1), "load_average": [load, os.getloadavg()[0]]}


def run(arguments: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, dict[str, float]]:
    """Run a command in a folder; return its seconds, and those of each stage of the run."""
    command, begin = [sys.executable, "-m", "edgedistill", "-q", *arguments], time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    seconds = round(time.monotonic() - begin, 1)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr}")
    stages = json.loads((folder / "run" / "manifest.json").read_text(encoding="utf-8"))["stages"]
    return seconds, {name: entry["seconds"] for name, entry in stages.items()}


def of_benches(found: dict) -> dict:
    """Add the medians in seconds."""
    found["medians_s"] = {
        name: {
            key: round(statistics.median(one[key] for one in found["jobs"] if one["version"] == name), 1)
            for key in ("bench_s", "command_cpu_s")
        }
        for name in {one["version"] for one in found["jobs"]}
    }
    return found


def of_jobs(found: dict) -> dict:
    """Add the medians in seconds: of the command, and of the stages that measure, with their repetitions."""
    found["medians_s"] = {}
    for name in found["commits"]:
        jobs = [one for one in found["jobs"] if one["version"] == name]
        if jobs:
            medians = {"command": statistics.median(one["command_s"] for one in jobs)}
            for stage in MEASURED:
                both = [one[key][stage] for one in jobs for key in ("stages_s", "repeated_stages_s")]
                medians[stage] = round(statistics.median(both), 2)
            found["medians_s"][name] = medians
    return found


if __name__ == "__main__":
    main()

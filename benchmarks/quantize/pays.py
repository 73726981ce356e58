"""How long `auto` takes beside one post-training try, on a network for which int8 is slower than float, and what it says.

`pays.toml` describes the network. Rounds of `mode = "ptq"` and `mode = "auto"` alternate on the same float student; the ratio is taken in
each round. The command and its processor time include its start, which imports torch; the stage does not.

    OMP_NUM_THREADS=1 python benchmarks/quantize/pays.py benchmarks/quantize/pays.json --run runs/pays

trains the student first, which takes some minutes.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
CONFIG = HERE / "pays.toml"
TIMES = ("command_s", "cpu_s", "stage_s")


def arguments():
    parser = argparse.ArgumentParser(description="The time of auto beside that of one post-training try.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--run", type=Path, default=Path("runs/pays"), help="the run folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def edgedistill(verb, options, *more):
    """Run a command on the configuration; return its seconds, its processor seconds, and what it printed."""
    settings = [word for one in options.overrides for word in ("--set", one)]
    command = [sys.executable, "-m", "edgedistill", verb, str(CONFIG), "--run-dir", str(options.run), *settings, *more]
    before, start = cpu_seconds(), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return time.monotonic() - start, cpu_seconds() - before, done.stderr


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quantize(options, mode):
    """Quantize anew in one mode; return the times of the command and the stage, and the record."""
    seconds, cpu, said = edgedistill("quantize", options, "--set", f"quantize.mode={mode}", "--from", "quantize")
    stage = json.loads((options.run / "manifest.json").read_text())["stages"]["quantize"]
    lines = [line for line in said.splitlines() if line.startswith("quantize: ")]
    return {"command_s": seconds, "cpu_s": cpu, "stage_s": stage["seconds"], "said": lines}, stage["record"]


def main():
    options = arguments()
    edgedistill("distill", options)
    rounds = []
    for _ in range(options.rounds):
        ptq, _ = quantize(options, "ptq")
        auto, record = quantize(options, "auto")
        rounds.append({"ptq": ptq, "auto": auto})
        ratios = {key: median(one["auto"][key] / one["ptq"][key] for one in rounds) for key in TIMES}
        kept = {key: record[key] for key in ("mode", "outcome", "speeds", "seconds", "steps")}
        options.out.write_text(json.dumps({"ratios": ratios, "rounds": rounds, "auto": kept}, indent=2) + "\n")
        print({key: round(auto[key] / ptq[key], 2) for key in TIMES}, record["outcome"], flush=True)


if __name__ == "__main__":
    main()

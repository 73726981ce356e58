"""How often a gate of 3 % decides wrongly, through the command line: for a model against itself, and for one about 6 % slower.

Two ONNX files are measured once, in separate run folders. Then `edgedistill compare --again` measures both sides in turns, and
the baseline twice, once for each gate. The slower model is MLPerf Tiny's ResNet-8 with two extra 1x1 convolutions of as many channels
as come nearest to 6 % when ten sets of processes are measured in turns.

    python benchmarks/latency/gate.py benchmarks/latency/gate.json [--gates 20] [--seconds S] [--kit ort]
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from models import SIZES, Slower, build, export

from edgedistill.compare.load import load_results
from edgedistill.statistics import speedup

WANTED = 1.06
EXTRA_CHANNELS = (96, 104, 112)
GATE = "p50_ms > +3%"
EQUAL, SLOWER = "equal", "slower"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    parser.add_argument("--gates", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, help="Seconds of inference per process.  [default: that of the command]"
    )
    parser.add_argument("--kit", choices=["openvino", "ort"], default="ort")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        extra, ratios = calibrate(options.kit, folder)
        sides = {"base": "base.onnx", EQUAL: "base.onnx", SLOWER: f"extra-{extra}.onnx"}
        for name, model in sides.items():
            command("bench", model, "--target", options.kit, "--processes", 1, "--run-dir", f"runs/{name}", cwd=folder)
        found = {"gate": GATE, "kit": options.kit, "extra_channels": extra, "calibration": ratios, "gates": []}
        for number in range(options.gates):
            for side in (EQUAL, SLOWER):
                one, device = gate(side, options.seconds, folder)
                found |= {"cpu": device["cpu"], "engine": device["engine"]}
                found["gates"].append(one)
                options.result.write_text(json.dumps(summed_up(found), indent=1) + "\n", encoding="utf-8")
                sys.stderr.write(f"{number + 1}/{options.gates} {side}: exit code {one['exit_code']}, {one['found']}\n")
    print(json.dumps(found["exit_codes"], indent=1))


def calibrate(kit: str, folder: Path) -> tuple[int, dict[str, float]]:
    """Export the models; return how many channels make the model about 6 % slower, and the ratio of each number that was tried."""
    exported = {"base.onnx": build("resnet8")} | {f"extra-{n}.onnx": Slower(n).eval() for n in EXTRA_CHANNELS}
    for name, model in exported.items():
        export(model, SIZES["resnet8"], kit, "fp32", folder / "made").replace(folder / name)
    command("bench", *exported, "--target", kit, "--processes", 10, "--run-dir", "runs/calibration", cwd=folder)
    measured = {m.model.name: m for m in load_results([folder / "runs/calibration"])[0].measurements}
    ratios = {n: 1 / speedup(measured["base"], measured[f"extra-{n}"]).value for n in EXTRA_CHANNELS}
    return min(ratios, key=lambda n: abs(math.log(ratios[n] / WANTED))), {str(n): ratio for n, ratio in ratios.items()}


def gate(side: str, seconds: float | None, folder: Path) -> tuple[dict, dict]:
    """Check the gate once; return the exit code with what the command found, and the device."""
    begin, shorter = time.monotonic(), () if seconds is None else ("--seconds", seconds)
    done = command("compare", "--again", "runs/base", f"runs/{side}", "--fail-if", GATE, "--json", *shorter, cwd=folder)
    answer = json.loads(done.stdout)
    (outcome,), (group,) = answer["gates"], answer["groups"]
    return {
        "side": side, "exit_code": done.returncode, "decision": outcome["decision"], "found": outcome["found"],
        "change": outcome["value"], "interval": outcome["interval"], "least_change": outcome["least_change"],
        "in_turns": group["rows"][1]["speedup"]["duet"],
        "p50_us": {row["label"]: [p["p50_ns"] / 1000 for p in row["measurement"]["processes"]] for row in group["rows"]},
        "load_average": os.getloadavg()[0], "seconds": round(time.monotonic() - begin, 1),
    }, group["rows"][0]["measurement"]["device"]  # fmt: skip


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run `edgedistill` as a shell does; a code other than 0, 3 (failed) and 6 (undecided) ends the benchmark."""
    line = [sys.executable, "-m", "edgedistill", "-q", *map(str, arguments)]
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3, 6):
        raise SystemExit(f"{' '.join(line)}: exit code {done.returncode}: {done.stderr}")
    return done


def summed_up(found: dict) -> dict:
    """Add how often each side ended with which exit code, and the medians of what the machine could tell and of the time taken."""
    gates = found["gates"]
    sides = {one["side"] for one in gates}
    found["exit_codes"] = {
        side: dict(Counter(str(one["exit_code"]) for one in gates if one["side"] == side)) for side in sorted(sides)
    }
    for name in ("least_change", "seconds"):
        found[f"median_{name}"] = sorted(one[name] for one in gates)[len(gates) // 2]
    return found


if __name__ == "__main__":
    main()

"""Whether a run that is repeated from `quantize` makes the same student, bit for bit, and decides alike when it measures again.

    OMP_NUM_THREADS=1 python benchmarks/quantize/repeat.py benchmarks/quantize/repeat.json --work runs/repeat

Two students: that of the demo, and that of `repeat.toml`, for which "auto" ranks layers by measured times. Each is made once and repeated
with `--from quantize`. Then the second is repeated without the measurements that the run folder keeps, so that all are made anew. On x86
without VNNI, int8 is slower than float; so that there is something to rank, the kit of `repeat.toml` is ONNX Runtime with three inferences
in place of one where a model is in float.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIGS = {"demo": ROOT / "edgedistill" / "config" / "demo.toml", "layers": HERE / "repeat.toml"}
THRICE = '''

_load = load


def load(entry, precision, threads):
    """Load a model whose inference runs three times in float."""
    session = _load(entry, precision, threads)
    once = session.infer

    def thrice():
        once()
        once()
        once()

    if precision == "fp32":
        session.infer = thrice
    return session
'''


def arguments():
    parser = argparse.ArgumentParser(description="Repeat quantize, and compare the students.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--work", type=Path, default=Path("runs/repeat"), help="the folder of the runs")
    parser.add_argument("--times", type=int, default=10, help="repeated runs of each student")
    parser.add_argument("--anew", type=int, default=5, help="repeated runs in which everything is measured again")
    return parser.parse_args()


def write_kit(folder):
    """Write the kit, and return the folder of kits."""
    kit = folder / "kits" / "ort-thrice"
    shutil.copytree(ROOT / "targets" / "ort", kit, dirs_exist_ok=True)
    table, engine = kit / "target.toml", kit / "engine.py"
    table.write_text(table.read_text().replace('name = "ort"', 'name = "ort-thrice"'))
    engine.write_text(engine.read_text() + THRICE)
    return kit.parent


def quantize(config, run, kits, *more):
    """Run the stages up to quantize, and return what the record says of the student and of the decisions."""
    command = [
        sys.executable,
        "-m",
        "edgedistill",
        "--targets",
        kits,
        "run",
        config,
        "--run-dir",
        run,
        "--until",
        "quantize",
    ]
    start = time.monotonic()
    done = subprocess.run([*map(str, command), *more], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    stage = json.loads((run / "manifest.json").read_text())["stages"]["quantize"]
    record = stage["record"]
    return {
        "sha256": hashlib.sha256((run / record["file"]["path"]).read_bytes()).hexdigest(),
        "mode": record["mode"],
        "speeds": [[one["target"], one["verdict"], one["ci95"]] for one in record["speeds"]],
        "order": [one["layer"] for one in record["sensitivity"]],
        "saved_us_ci95": [one["saved_us_ci95"] for one in record["sensitivity"]],
        "steps": [
            [one["method"], len(one["float_layers"]), one["speed_kept"], one["speed_kept_ci95"]]
            for one in record["steps"]
        ],
        "stage_s": stage["seconds"],
        "command_s": round(time.monotonic() - start, 1),
    }


def main():
    options = arguments()
    options.work.mkdir(parents=True, exist_ok=True)
    kits, parts = write_kit(options.work), {}
    plan = [("demo", options.times, False), ("layers", options.times, False), ("layers", options.anew, True)]
    for name, times, anew in plan:
        run, runs = options.work / name, []
        parts[f"{name}, measured anew" if anew else name] = runs
        for number in range(times + (not anew)):
            if anew:
                shutil.rmtree(run / "quantized" / "timings")
            runs.append(quantize(CONFIGS[name], run, kits, *(["--from", "quantize"] if number or anew else [])))
            print(
                name,
                number,
                runs[-1]["sha256"][:12],
                runs[-1]["order"],
                runs[-1]["steps"],
                runs[-1]["stage_s"],
                flush=True,
            )
            students = {part: len({one["sha256"] for one in made}) for part, made in parts.items()}
            orders = {part: len({tuple(one["order"]) for one in made}) for part, made in parts.items()}
            table = {"different students": students, "different orders of layers": orders, "runs": parts}
            options.out.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Collect runs of bccd.toml or camvid.toml, of one or more seeds, into one file, and print a table.

python benchmarks/dense/results.py RUN... --json FILE

"gain" is the student's metric on the test data less that of its control, both of their checkpoints: of each run with the interval over
the test pictures, paired, and over the runs by Student's t. "int8_over_fp32" is the latency of the student's files, measured in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from scipy.stats import t

from edgedistill.records.measurement import Measurement
from edgedistill.statistics import speedup


def measured(row: dict[str, Any]) -> dict[str, Any]:
    one = row["measurement"]
    details, point = one["details"], row["operating_point"]
    kept = {name: value for name, value in details.items() if isinstance(value, dict) and "value" in value}
    return {
        "metric": one["accuracy"]["value"], "ci95": one["accuracy"]["ci95"], "images": one["accuracy"]["n"],
        **{name: value["value"] for name, value in kept.items()},
        "operating_point": point, "size_bytes": one["size_bytes"], "p50_ms": one["latency_ns"]["p50"] / 1e6,
        "executed": one["precision"]["executed"],
        "pictures_ms": {name: value / 1e6 for name, value in (one["pictures"] or {}).items() if name.endswith("_ns")},
    }  # fmt: skip


def result_of(folder: Path) -> dict[str, Any]:
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    records = {name: stage["record"] for name, stage in stages.items()}
    command = [sys.executable, "-m", "edgedistill", "compare", str(folder), "--json"]
    compared = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    targets, ratios = {}, {}
    for group in compared["groups"]:
        rows = {row["label"]: row for row in group["rows"]}
        targets[group["target"]] = {label: measured(row) for label, row in rows.items()}
        pair = [Measurement.model_validate(rows[f"student {name}"]["measurement"]) for name in ("int8", "fp32")]
        found = speedup(*pair)
        ratios[group["target"]] = {"value": found.value, "ci95": found.ci95}
    (scores,) = records["export"]["scores"]
    quantized = records["quantize"]
    return {
        "parameters": {
            "teacher": records["teacher"]["parameters"], "student": records["distill"]["student"]["parameters"],
        },
        "validation": {
            "teacher": records["teacher"]["val_accuracy"],
            **{name: records["distill"][name]["val_accuracy"] for name in ("student", "control")},
            "student_by_epoch": [round(one["val_accuracy"], 4) for one in records["distill"]["student"]["history"]],
        },
        "test": scores,
        "quantize": {name: quantized[name] for name in ("mode", "val_accuracy", "float_val_accuracy", "skip", "outcome")}
        | {"steps": [{key: step[key] for key in ("method", "ranges", "drop", "drop_ci95", "seconds")} for step in quantized["steps"]]},
        "measured": targets, "int8_over_fp32": ratios,
        "stage_seconds": {name: round(stage["seconds"], 1) for name, stage in stages.items()},
        "versions": stages["distill"]["versions"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    runs = {folder.name: result_of(folder) for folder in options.runs}
    gains = [100 * (one["test"]["student"] - one["test"]["control"]) for one in runs.values()]
    result: dict[str, Any] = {"runs": runs, "gain_points": {"mean": statistics.fmean(gains), "seeds": gains}}
    if len(gains) > 1:
        half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / len(gains) ** 0.5
        result["gain_points"]["ci95"] = [statistics.fmean(gains) - half, statistics.fmean(gains) + half]
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    for name, run in runs.items():
        print(name, {key: round(value, 4) for key, value in run["validation"].items() if key != "student_by_epoch"})
        for target, forms in run["measured"].items():
            for label, one in forms.items():
                print(f"  {target} {label}: {one['metric']:.4f}, AP50 {one.get('ap50', 0):.4f}, {one['p50_ms']:.2f} ms")
            print(f"  {target}: int8 over fp32 {run['int8_over_fp32'][target]}")
    print("gain in points:", result["gain_points"])


if __name__ == "__main__":
    main()

"""Collect the runs of all_labels.toml, given_teacher.toml and own_teacher.toml into result.json.

python benchmarks/unlabelled/results.py FOLDER

FOLDER holds the run folders, each named as its configuration; own_teacher_60_epochs is own_teacher.toml with a teacher that was trained for a
shorter time: --set teacher.epochs=60 --set teacher.batch_size=128 --set teacher.lr=0.1. "recovered" is the part of the gap between 5,000 and 50,000 labels that
the student without 45,000 of the labels closes: its accuracy less that of the control with 5,000 labels, over the accuracy of the control with
50,000 labels less the same. A control is the same network, trained without a teacher for as many steps. The intervals are over
the seeds, by Student's t, and do not cover the choice of the 5,000 labels.
"""

import json
import statistics
import sys
from pathlib import Path

from scipy.stats import t

HERE = Path(__file__).resolve().parent


def interval(values):
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    centre = statistics.fmean(values)
    return {"mean": round(centre, 4), "ci95": [round(centre - half, 4), round(centre + half, 4)]}


def result_of(folder):
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    records = {name: stage["record"] for name, stage in stages.items()}
    scores = records["export"]["scores"]
    return {
        **{name: records["data"][name] for name in ("train", "unlabelled", "val", "test")},
        "teacher_val_accuracy": records["teacher"]["val_accuracy"],
        "test_accuracy": {arm: [one[arm] for one in scores] for arm in ("student", "control")},
        "measured": {
            path.stem: json.loads(path.read_text())["accuracy"]["value"]
            for path in sorted((folder / "measurements").glob("*.json"))
        },
        "stage_seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "versions": stages["distill"]["versions"],
    }


def main():
    names = ("all_labels", "given_teacher", "own_teacher", "own_teacher_60_epochs")
    runs = {name: result_of(Path(sys.argv[1]) / name) for name in names}
    whole = runs["all_labels"]["test_accuracy"]["control"]
    for name in names[1:]:
        arms = runs[name]["test_accuracy"]
        rows = zip(arms["student"], arms["control"], whole, strict=True)
        runs[name]["recovered"] = interval([(student - few) / (all_of - few) for student, few, all_of in rows])
        print(name, runs[name]["test_accuracy"], runs[name]["recovered"])
    (HERE / "result.json").write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""What a start is worth: a network that was trained on CIFAR-10-JPEG learns Fashion-MNIST from 10, 50 and 100 labels of each class.

python benchmarks/transfer/run.py [FOLDER] [--sizes ten,fifty,hundred] [--start RUN --json FILE]

Makes the runs in FOLDER, by default runs, and writes their results to result.json; results of sizes that are not made stay. The network has
half its width, and the earlier run is that of cifar.toml. With --start, the earlier run is RUN, whose student is the network at full width,
such as that of benchmarks/unlabelled/given_teacher.toml.

Each run trains four seeds of the student, of the same student without the teacher, and of the same student from scratch, and scores
all of them on 5,000 test pictures. The interval over the seeds is Student's; it does not cover the choice of the labelled pictures,
which is the same for all seeds. No setting was chosen by these figures.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from scipy.stats import t

HERE = Path(__file__).resolve().parent
SIZES = {"ten": (10, 60, 60, 16), "fifty": (50, 40, 30, 32), "hundred": (100, 30, 20, 32)}
"""By function of fashion.py: the labels of each class, the epochs of the teacher and of the students, and the batch size."""


def edgedistill(*arguments):
    subprocess.run([sys.executable, "-m", "edgedistill", *map(str, arguments)], check=True)


def interval(gains):
    centre = statistics.fmean(gains)
    half = t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
    return {"points": round(centre, 2), "ci95_points": [round(centre - half, 2), round(centre + half, 2)]}


def records_of(folder):
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    return stages, {name: stage["record"] for name, stage in stages.items()}


def result_of(folder, each, earlier):
    stages, records = records_of(folder)
    scores = records["export"]["scores"]
    arms = {arm: [score[arm] for score in scores] for arm in ("student", "control", "scratch")}
    return {
        "labels_of_each_class": each,
        "earlier_run_val_accuracy": records_of(earlier)[1]["distill"]["student"]["val_accuracy"],
        "train": records["data"]["train"], "val": records["data"]["val"], "test": records["data"]["test"],
        "teacher_val_accuracy": records["teacher"]["val_accuracy"],
        "test_accuracy": arms,
        "start": interval([100 * (a - b) for a, b in zip(arms["student"], arms["scratch"], strict=True)]),
        "teacher": interval([100 * (a - b) for a, b in zip(arms["student"], arms["control"], strict=True)]),
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "versions": stages["distill"]["versions"],
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"))
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--start", type=Path)
    parser.add_argument("--json", type=Path, default=HERE / "result.json")
    options = parser.parse_args()
    runs, width = options.folder.resolve(), 1.0 if options.start else 0.5
    earlier = options.start.resolve() if options.start else runs / "transfer-cifar"
    if not options.start:
        edgedistill("distill", HERE / "cifar.toml", "--run-dir", earlier)
    known = json.loads(options.json.read_text())["fashion"] if options.json.is_file() else []
    results = {one["labels_of_each_class"]: one for one in known}
    for name in options.sizes.split(","):
        each, teacher_epochs, epochs, batch = SIZES[name]
        folder = runs / f"transfer-{each}"
        changes = {
            "name": f"transfer-{each}", "data.train": f"fashion:{name}", "student.weights": earlier, "student.width": width,
            "teacher.epochs": teacher_epochs, "teacher.batch_size": batch,
            "distill.epochs": epochs, "distill.batch_size": batch,
        }  # fmt: skip
        sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
        edgedistill("run", HERE / "fashion.toml", "--until", "export", "--run-dir", folder, *sets)
        results[each] = result_of(folder, each, earlier)
        options.json.write_text(json.dumps({"fashion": [results[n] for n in sorted(results)]}, indent=2) + "\n")


if __name__ == "__main__":
    main()

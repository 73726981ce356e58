"""What a start is worth: a network that was trained on CIFAR-10-JPEG learns Fashion-MNIST from 10, 50 and 100 labels of each class.

python benchmarks/transfer/run.py [FOLDER [SIZE ...]]

Makes the runs in FOLDER, by default runs, and writes their results to result.json. With SIZE, ten, fifty or hundred labels of each class,
only these runs are made, and the results of others stay.

Each run trains four seeds of the student, of the same student without the teacher, and of the same student from scratch, and scores
all of them on 5,000 test pictures. The interval over the seeds is Student's; it does not cover the choice of the labelled pictures,
which is the same for all seeds. No setting was chosen by these figures.
"""

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


def result_of(folder, each):
    stages = json.loads((folder / "manifest.json").read_text())["stages"]
    records = {name: stage["record"] for name, stage in stages.items()}
    scores = records["export"]["scores"]
    arms = {arm: [score[arm] for score in scores] for arm in ("student", "control", "scratch")}
    return {
        "labels_of_each_class": each,
        "train": records["data"]["train"], "val": records["data"]["val"], "test": records["data"]["test"],
        "teacher_val_accuracy": records["teacher"]["val_accuracy"],
        "test_accuracy": arms,
        "start": interval([100 * (a - b) for a, b in zip(arms["student"], arms["scratch"], strict=True)]),
        "teacher": interval([100 * (a - b) for a, b in zip(arms["student"], arms["control"], strict=True)]),
        "seconds": {name: stage["seconds"] for name, stage in stages.items()},
        "versions": stages["distill"]["versions"],
    }  # fmt: skip


def main():
    runs = Path(sys.argv[1] if len(sys.argv) > 1 else "runs").resolve()
    earlier = runs / "transfer-cifar"
    edgedistill("distill", HERE / "cifar.toml", "--run-dir", earlier)
    table = HERE / "result.json"
    results = {one["labels_of_each_class"]: one for one in json.loads(table.read_text())["fashion"]}
    for name, (each, teacher_epochs, epochs, batch) in SIZES.items():
        if len(sys.argv) > 2 and name not in sys.argv[2:]:
            continue
        folder = runs / f"transfer-{each}"
        changes = {
            "name": f"transfer-{each}", "data.train": f"fashion:{name}", "student.weights": earlier,
            "teacher.epochs": teacher_epochs, "teacher.batch_size": batch,
            "distill.epochs": epochs, "distill.batch_size": batch,
        }  # fmt: skip
        sets = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
        edgedistill("run", HERE / "fashion.toml", "--until", "export", "--run-dir", folder, *sets)
        results[each] = result_of(folder, each)
        student = json.loads((earlier / "manifest.json").read_text())["stages"]["distill"]["record"]["student"]
        content = {
            "earlier_run_val_accuracy": student["val_accuracy"],
            "fashion": [results[n] for n in sorted(results)],
        }
        table.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()

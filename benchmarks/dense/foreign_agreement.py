"""AP of a run's student with its ONNX teacher's detections as labels, on the test photos, before and after training.

python benchmarks/dense/foreign_agreement.py CONFIG RUN [--json FILE]

The labels are the teacher's detections with scores of at least 0.3.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from edgedistill.config.load import load_config
from edgedistill.distill.loading import build_student, load_student, onnx_teacher
from edgedistill.distill.predictors import scorer_of, torch_predictor
from edgedistill.distill.settings import declare_plan
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.stage_names import SOFT_LABELS
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.tasks import coco

LEAST = 0.3


def labels_of(found: np.ndarray) -> np.ndarray:
    """Return detections (N, K, 6) as labels (N, K, 7)."""
    kinds = np.where(found[..., 1] >= LEAST, found[..., 0], -1)
    sides = found[..., 4:] - found[..., 2:4]
    return np.concatenate(
        [kinds[..., None], found[..., 2:], sides.prod(-1, keepdims=True), 0 * kinds[..., None]], -1
    ).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pipeline = run_pipeline(
        load_config(options.config), Run(options.run), find_kits(()), Reporter(quiet=True), Plan(SOFT_LABELS)
    )
    settings = declare_plan(pipeline.sources)
    scorer, teacher = scorer_of(settings, settings.dataset().test), settings.teachers[0].source
    assert teacher.file is not None
    found = scorer.answers(onnx_teacher(teacher, settings.interface, teacher.file.path))
    truth, own, classes = labels_of(found), settings.dataset().test.labels, len(settings.data.classes)
    weights = options.run / "student" / "student.safetensors"
    students = {
        "untrained": build_student(settings.student, settings.interface, settings.seed),
        "trained": load_student(settings.student, settings.interface, settings.seed, weights),
    }
    table = {"photos": len(truth), "boxes of the teacher": int((truth[..., 0] >= 0).sum())}
    table["teacher"] = {"on the labels": _scores(found, own, classes)}
    for name, model in students.items():
        answers = scorer.answers(torch_predictor(model.eval(), "fp32"))
        table[name] = {
            "on the teacher's boxes": _scores(answers, truth, classes),
            "on the labels": _scores(answers, own, classes),
        }
    print(json.dumps(table, indent=1))
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def _scores(found: np.ndarray, labels: np.ndarray, classes: int) -> dict:
    scores = coco.coco_scores(found, labels, classes)
    return {"ap": round(float(scores.ap), 4), "ap50": round(float(scores.ap50), 4)}


if __name__ == "__main__":
    main()

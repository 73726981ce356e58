"""COCO's metrics of each measured detector of a run, on the test set, from what the device detected.

python benchmarks/dense/detections.py RUN [--json FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from edgedistill.compare.load import load_run
from edgedistill.tasks import coco


def scores_of(samples: Path, names: tuple[str, ...], reference: float | None) -> dict:
    """Return the metrics of a measurement's detections; `reference` is the score threshold of another model."""
    with np.load(samples) as archive:
        detections, labels = archive["outputs"], archive["labels"]
    found, resampled = (
        coco.coco_scores(detections, labels, len(names)),
        coco.resampled_ap(detections, labels, len(names)),
    )
    at = coco.operating_point(detections, labels, len(names), reference)
    return {
        "ap": found.ap, "ap_ci95": coco.interval(resampled[:, 0]), "ap50": found.ap50, "ap50_ci95": coco.interval(resampled[:, 1]),
        "recall": found.recall, "class_ap": dict(zip(names, found.class_ap, strict=True)),
        "class_ap50": dict(zip(names, found.class_ap50, strict=True)),
        "best_f1": {"threshold": found.operating_point.threshold, "f1": found.operating_point.f1},
        "at_the_threshold_of_fp32": {"threshold": at.threshold, "f1": at.f1, "recall": dict(zip(names, at.recall, strict=True))},
        "images": len(labels),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    measured, table, reference = load_run(options.run).results, {}, None
    for one in sorted(measured, key=lambda one: one.measurement.precision.requested != "fp32"):
        role, precision = one.measurement.model.name, one.measurement.precision.requested
        is_float = role == "student" and precision == "fp32"
        table[one.file.stem] = found = scores_of(
            one.file.with_suffix(".npz"), one.class_names, None if is_float or role != "student" else reference
        )
        reference = found["best_f1"]["threshold"] if is_float else reference
        print(f"{one.file.stem:32} AP {found['ap']:.1%}  AP50 {found['ap50']:.1%}  best F1 {found['best_f1']['f1']:.1%} "
              f"at {found['best_f1']['threshold']:.3f}")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Accuracy against the number of cached views, at equal epochs: does caching cost anything?

ResNet-56 teaches MLPerf Tiny's ResNet-8 on 4,500 of 5,000 CIFAR-10-JPEG images, 500 choose the epoch, for 16 epochs; so
few, that with 1, 2, 4 or 8 views each comes back 16, 8, 4 or 2 times, and with 16 or the online teacher (0) never. Three
seeds of each: the seed decides the first weights and the order, while cached views are the same for all three. The figure is
the float student's accuracy on the whole test set, with Student's 95 % interval over the seeds; `minus_online` is of the
differences of the same seeds. Seconds are of this run alone: those of soft labels are 0 where they were made before, and too
few where their making was interrupted.

    OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/views/run.py benchmarks/views/result.json --runs runs/views

takes some 25 minutes of one core. It goes on where it was stopped, within a training from its last epoch. A short form:

    ... --views 1 0 --set distill.epochs=1 --set distill.seeds=2
"""

import argparse
import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path

import torch
from scipy.stats import t as student_t

from edgedistill.config.load import load_config
from edgedistill.distill.loading import load_student
from edgedistill.distill.predictors import scorer_of
from edgedistill.distill.settings import declare_distillation
from edgedistill.distill.trial_scores import score_trials
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.stages import StudentRecord
from edgedistill.runtime.files import write_json
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter

HERE = Path(__file__).resolve().parent
ONLINE = 0


def arguments():
    parser = argparse.ArgumentParser(description="Accuracy against the number of cached views.")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/views"), help="where runs and soft labels are kept")
    parser.add_argument(
        "--views", type=int, nargs="+", default=[1, 2, 4, 8, 16, ONLINE], help="0 is the online teacher"
    )
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    return parser.parse_args()


def measure(views, options, known):
    """Train all seeds with this many views, and return what they score; what is known already is taken over."""
    config = load_config(HERE / "edgedistill.toml", (*options.overrides, f"distill.views={views}"))
    run = Run(options.runs / f"views-{views}")
    pipeline = run_pipeline(config, run, find_kits(()), Reporter(), Plan(until=StudentRecord.stage))
    key = run.stages[StudentRecord.stage]["key"]
    if known is not None and known["key"] == key:
        return known
    settings, trials = declare_distillation(pipeline.sources), pipeline.records[StudentRecord].trials
    scores = {score.seed: score.student for score in test_scores(run, settings, trials)}
    return {
        "views": views, "key": key, "engine": settings.soft_labels.engine, "epochs": config.distill.epochs,
        "training_images": settings.data.train, "test_images": settings.data.test,
        "seeds": [
            {
                "seed": trial.seed, "test_accuracy": scores[trial.seed], "val_accuracy": trial.student.val_accuracy,
                "training_s": sum(epoch.seconds for epoch in trial.student.history),
            }
            for trial in trials
        ],
        "test_accuracy": interval(list(scores.values())),
        "soft_labels_s": run.stages["soft_labels"]["seconds"] if views else 0.0,
    }  # fmt: skip


def test_scores(run, settings, trials):
    """Score the float student of each seed on the test images."""

    def load(trained):
        return load_student(settings.student, settings.interface, settings.seed, run.path(trained.file))

    return score_trials(trials, load, scorer_of(settings, settings.dataset().test))


def interval(values):
    """Return the mean of some seeds with Student's 95 % interval."""
    mean = statistics.fmean(values)
    half = float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "ci95": [mean - half, mean + half], "n": len(values)}


def against_online(found):
    """Return the same of each number of views less the online teacher, seed by seed."""
    accuracy = {views: [seed["test_accuracy"] for seed in one["seeds"]] for views, one in found.items()}
    if ONLINE not in accuracy:
        return {}
    return {
        views: interval([a - b for a, b in zip(cached, accuracy[ONLINE], strict=True)])
        for views, cached in accuracy.items()
        if views != ONLINE and len(cached) == len(accuracy[ONLINE])
    }


def main():
    options = arguments()
    torch.set_num_threads(1)
    os.environ["EDGEDISTILL_CACHE"] = str((options.runs / "cache").resolve())
    before = json.loads(options.out.read_text(encoding="utf-8"))["views"] if options.out.exists() else []
    known = {one["views"]: one for one in before}
    found = {}
    for views in options.views:
        found[views] = measure(views, options, known.get(views))
        write_json(options.out, {
            "views": list(found.values()),
            "minus_online": {str(views): points for views, points in against_online(found).items()},
            "versions": {name: version(name) for name in ("torch", "openvino", "numpy")},
            "cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
        })  # fmt: skip
        score = found[views]["test_accuracy"]
        print(f"{views or 'online'}: {score['mean']:.2%}, 95 % from {score['ci95'][0]:.2%} to {score['ci95'][1]:.2%}")


if __name__ == "__main__":
    main()

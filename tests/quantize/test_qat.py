"""Fine-tuning of a student of a run."""

from pathlib import Path

import numpy as np
import torch

from edgedistill.data.views import plain_views
from edgedistill.distill.predictors import scorer_of
from edgedistill.models.build import build_model
from edgedistill.pipeline.checks import dataset_of
from edgedistill.quantize.calibration import calibration_batches, example_input
from edgedistill.quantize.prepare import Prepared, calibrate, prepare
from edgedistill.quantize.qat import finetune
from edgedistill.quantize.settings import QuantizeSettings, declare_quantization
from edgedistill.records.base import FileRef
from edgedistill.records.stages import SoftLabelsRecord, StudentRecord
from edgedistill.records.training import Epoch, TrainedModel
from edgedistill.runtime.progress import QUIET
from edgedistill.stages.stage import Workspace
from tests.support.learning import config_of, sources_of

FILE = FileRef(path="student/model.safetensors", sha256="", bytes=0)


def settings_in(folder: Path) -> QuantizeSettings:
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("test", 10)):
        inputs = rng.normal(size=(count, 6)).astype(np.float32)
        np.savez(folder / f"{name}.npz", inputs=inputs, labels=np.arange(count) % 2)
    (folder / "net.py").write_text(
        "from torch import nn\ndef build():\n"
        "    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))\n"
    )
    config = config_of(
        folder, data={"train": "train.npz", "test": "test.npz", "kind": "features"}, student={"model": "net:build"},
        quantize={"mode": "qat", "epochs": 2}, target=[{"name": "pc", "kit": "ort"}],
    )  # fmt: skip
    labels = SoftLabelsRecord(fingerprint="", views=0, samples=60, classes=2, logits=None, engine=None, parent="")
    student = TrainedModel(spec="net:build", form="torch", file=FILE, parameters=None, val_accuracy=None)
    data = dataset_of(sources_of(config)).record
    return declare_quantization(sources_of(config, data, labels, StudentRecord(student=student, control=None)))


def fine_tuned(settings: QuantizeSettings, folder: Path, skip: tuple[str, ...]) -> tuple[Prepared, tuple[Epoch, ...]]:
    """Fine-tune the student of a run folder, with some layers in float; the file to resume from stays in the folder."""
    assert settings.student.model is not None
    student = build_model(settings.student.model, settings.interface, 0).eval()
    split = settings.dataset().train
    views = plain_views(split, settings.data, settings.views)
    prepared = prepare(student, example_input(views), skip)
    calibrate(prepared, calibration_batches(views, 32, 0))
    workspace = Workspace(folder, "key", QUIET, lambda _: FILE)
    return prepared, finetune(settings, workspace, (student, prepared), "mixed-qat", scorer_of(settings, split))


def test_a_fine_tuning_resumes_only_if_the_same_layers_are_int8(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    first, history = fine_tuned(settings, tmp_path / "run", ("0",))
    again, resumed = fine_tuned(settings, tmp_path / "run", ("0",))
    assert resumed == history, "also the seconds: no epoch has run again"
    assert all(map(torch.equal, again.state_dict().values(), first.state_dict().values()))
    other, _ = fine_tuned(settings, tmp_path / "run", ("2",))
    alone, _ = fine_tuned(settings, tmp_path / "alone", ("2",))
    assert other.layers["2"] == "float: skipped"
    assert all(map(torch.equal, other.state_dict().values(), alone.state_dict().values()))

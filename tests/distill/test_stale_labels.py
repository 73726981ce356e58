"""Soft labels of a teacher that has changed: made anew where the user asks, and where the teacher answers otherwise."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgedistill.distill.cache import describe_caches
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.pipeline.verify import verify_cache
from edgedistill.records.stages import SoftLabelsRecord
from edgedistill.runtime.folder import Run
from tests.support.learning import config_of
from tests.support.listener import Listener

NETS = """
from pathlib import Path
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head, self.scale = nn.Linear(16, classes), float(Path(__file__).with_name("scale.txt").read_text())

    def forward(self, x):
        return self.scale * self.head(x.flatten(1))

def net(classes):
    return Net(classes)
"""
"""A teacher that reads a file, which no key covers."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with signals of three classes, a teacher, and an empty cache."""
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "scale.txt").write_text("1.5")
    rng = np.random.default_rng(0)
    centres, labels = rng.normal(size=(3, 16)), rng.integers(0, 3, 500)
    signals = (rng.normal(size=(500, 16)) + 2 * centres[labels]).astype(np.float32)[..., None]
    for name, rows in (("train", slice(0, 400)), ("test", slice(400, None))):
        np.savez(tmp_path / f"{name}.npz", inputs=signals[rows], labels=labels[rows])
    weight = torch.from_numpy(centres).float()
    save_file({"head.weight": weight, "head.bias": -weight.square().sum(1)}, tmp_path / "teacher.safetensors")
    return tmp_path


def label(folder: Path, run: str, heard: Listener, start: str | None = None, engine: str = "torch") -> Pipeline:
    training = {"epochs": 1, "batch_size": 32, "precision": "fp32"}
    config = config_of(
        folder, data={"train": "train.npz", "test": "test.npz"},
        teacher={"model": "nets:net", "weights": "teacher.safetensors", "engine": engine, "precision": "fp32"},
        student={"model": "zoo:cnn1d", "width": 0.25}, distill={"views": 1} | training,
        target=[{"name": "pc", "kit": "ort"}],
    )  # fmt: skip
    return run_pipeline(config, Run(folder / run), find_kits(()), heard, Plan("distill", start))


def logits(folder: Path, run: str) -> np.ndarray:
    return np.load(folder / run / "soft_labels" / "logits.npy").astype(np.float32)


def test_a_cache_of_other_answers_is_named_and_made_again(folder: Path) -> None:
    heard = Listener()
    label(folder, "a", heard)
    label(folder, "b", heard)
    assert heard.said.count("soft labels: taken from the cache") == 1
    (folder / "scale.txt").write_text("1")
    repaired = label(folder, "c", heard)
    (cache,) = (folder / "cache" / "soft_labels").iterdir()
    said = (
        f"soft labels: the cache {cache} holds other answers than this teacher gives now (the logits); it is removed and made "
        "again"
    )
    assert heard.said.count(said) == 1
    assert heard.said.count("soft labels: taken from the cache") == 1
    np.testing.assert_allclose(logits(folder, "c") * 1.5, logits(folder, "a"), rtol=2e-3)
    assert verify_cache(repaired, 1).holds


@pytest.mark.slow
def test_a_cache_that_openvino_made_is_read_where_openvino_is_not_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Listener()
    label(folder, "a", heard, engine="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)  # Python then finds no such package
    label(folder, "b", heard, engine="openvino")
    assert heard.said.count("teacher: OpenVINO is not installed; torch computes soft labels") == 1
    assert heard.said.count("soft labels: taken from the cache") == 1


def test_from_soft_labels_makes_them_anew_and_replaces_a_good_cache(folder: Path) -> None:
    heard = Listener()
    first = label(folder, "a", heard)
    (cache,) = (folder / "cache" / "soft_labels").iterdir()
    (folder / "scale.txt").write_text("1")
    old, heard.said = logits(folder, "a"), []
    again = label(folder, "a", heard, "soft_labels")
    assert not [line for line in heard.said if "cache" in line]
    np.testing.assert_allclose(logits(folder, "a") * 1.5, old, rtol=2e-3)
    np.testing.assert_array_equal(np.load(cache / "logits.npy"), logits(folder, "a"))
    records = [one.records[SoftLabelsRecord] for one in (first, again)]
    assert records[0].fingerprint == records[1].fingerprint
    label(folder, "b", heard)
    assert "soft labels: taken from the cache" in heard.said
    manifest = cache / "manifest.json"
    manifest.write_text(manifest.read_text().replace("soft_labels/2", "soft_labels/1"))
    assert "of an earlier version (edgedistill.soft_labels/1), which no run uses; delete it" in " ".join(
        describe_caches()
    )


@pytest.mark.slow
def test_what_depends_on_soft_labels_is_stale_if_they_were_made_anew(folder: Path) -> None:
    heard = Listener()
    label(folder, "a", heard)
    config = label(folder, "a", heard).config
    (folder / "scale.txt").write_text("1")
    run_pipeline(config, Run(folder / "a"), find_kits(()), heard, Plan("soft_labels", "soft_labels"))
    heard.said = []
    label(folder, "a", heard)
    assert any(line.startswith("student: 1 epoch") for line in heard.said)

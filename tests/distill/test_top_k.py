"""Soft labels of many classes, held against dense computations in numpy."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from edgedistill.config.load import parse_config
from edgedistill.config.training import DistillConfig
from edgedistill.distill.cache import TEMPERATURES, Cache, describe_caches, entry_type, stored_logits
from edgedistill.distill.soft_labels import SoftLabels, store_soft_labels
from edgedistill.distill.top_k import check_top_k, deviation, pack, unpack
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.losses.batch import Batch, OutputLoss
from edgedistill.losses.logits import CLASS_TERMS, teacher_term
from edgedistill.losses.terms import group, kd
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.pipeline.verify import verify_cache
from edgedistill.records.stages import DataRecord
from edgedistill.runtime.folder import Run
from tests.support.learning import data_of
from tests.support.listener import Listener

RNG = np.random.default_rng(0)
SAMPLES, CLASSES, K = 6, 3000, 32
STUDENT = RNG.normal(0, 2, (SAMPLES, CLASSES))
TEACHER = RNG.normal(0, 3, (SAMPLES, CLASSES)).astype(np.float16).astype(np.float32)
ENTRIES = pack(torch.from_numpy(TEACHER), K)


def grouped(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities (B, K + 1) of the teacher's K likeliest classes, and of all others."""
    p = softmax(logits.astype(np.float64) / temperature, 1)
    kept = np.take_along_axis(p, np.argsort(-TEACHER, 1, kind="stable")[:, :K], 1)
    return np.concatenate([kept, 1 - kept.sum(1, keepdims=True)], 1)


def on_logits(temperature: float) -> OutputLoss:
    return teacher_term(DistillConfig(temperature=temperature), CLASS_TERMS["kd"])


def batch_at(temperature: float, student: torch.Tensor) -> Batch:
    logits, classes = unpack(ENTRIES, temperature)
    return Batch({"input": student}, torch.zeros(SAMPLES, dtype=torch.long), logits.double(), classes)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_kd_is_the_divergence_of_the_grouped_distributions(t: float) -> None:
    student = torch.from_numpy(STUDENT).requires_grad_()
    loss = on_logits(t)(student, batch_at(t, student))
    p, q = grouped(TEACHER, t), grouped(STUDENT, t)
    assert float(loss.detach()) == pytest.approx(t**2 * (p * np.log(p / q)).sum(1).mean(), rel=1e-6)

    loss.backward()
    all_q = softmax(STUDENT / t, 1)
    pulled = all_q * (1 - p[:, -1:] / q[:, -1:])  # of the others: q_j - p_others * q_j / q_others
    order = np.argsort(-TEACHER, 1, kind="stable")[:, :K]
    np.put_along_axis(pulled, order, np.take_along_axis(all_q, order, 1) - p[:, :-1], 1)
    np.testing.assert_allclose(student.grad, t * pulled / SAMPLES, atol=1e-8)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_the_teachers_own_logits_cost_nothing(t: float) -> None:
    teacher = torch.from_numpy(TEACHER).double()
    loss = on_logits(t)(teacher, batch_at(t, teacher))
    assert float(loss) == pytest.approx(0, abs=1e-9)


@given(st.integers(2, 40), st.integers(1, 39), st.sampled_from(TEMPERATURES), st.integers(0, 99))
def test_grouping_all_but_few_or_many_is_kd_of_the_groups(classes: int, k: int, t: float, seed: int) -> None:
    k = min(k, classes - 1)
    student, teacher = (
        torch.randn(2, 4, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    )
    logits, named = unpack(pack(teacher, k), t)
    exact = group(teacher, named, t)
    np.testing.assert_allclose(logits, exact, atol=0.02)
    assert float(kd(group(student, named, t), exact, t)) <= float(kd(student, teacher, t)) + 1e-9  # less is told apart
    np.testing.assert_allclose(exact[:, -1] / t, logsumexp(np.sort(teacher.numpy() / t, 1)[:, : classes - k], 1))


def test_a_teacher_that_is_sure_keeps_the_others_digits() -> None:
    sure = torch.full((1, CLASSES), -60.0)
    sure[0, :K] = torch.arange(K, 0, -1.0)
    logits, _ = unpack(pack(sure, K), 1.0)
    assert float(logits[0, -1]) == pytest.approx(-60 + np.log(CLASSES - K), abs=1e-4)  # 1 - p would be 0


def test_a_file_is_as_small_as_its_entries(tmp_path: Path) -> None:
    assert entry_type(CLASSES, K).itemsize == K * (2 + 2) + 4 * len(TEMPERATURES) == 144
    assert entry_type(65_536, K)["classes"].subdtype[0] == np.uint16
    assert entry_type(65_537, K).itemsize == K * (4 + 2) + 16
    (tmp_path / "engine").write_text("recorded")
    path = store_soft_labels(Cache(tmp_path, "f", (1, SAMPLES, CLASSES), K), TEACHER[None])
    assert 0 < path.stat().st_size - 144 * SAMPLES <= 512  # the header's
    soft = SoftLabels(np.load(path, mmap_mode="r"), 4.0)
    rows = np.array([4, 1])
    answer = soft.take(rows, np.zeros(2, int), {})
    np.testing.assert_array_equal(answer.logits, unpack(ENTRIES, 4.0)[0][rows])
    np.testing.assert_array_equal(answer.classes, np.argsort(-TEACHER, 1, kind="stable")[rows, :K])
    assert answer.logits.dtype == torch.float32


def test_what_was_kept_is_told_from_what_was_not() -> None:
    assert deviation(torch.from_numpy(TEACHER), ENTRIES) < 1e-5
    other = TEACHER.copy()
    other[2, ENTRIES["classes"][2, 5]] += 1
    assert deviation(torch.from_numpy(other), ENTRIES) == pytest.approx(1)
    others = TEACHER.copy()
    others[3] += 2 * (TEACHER[3] < ENTRIES["logits"][3, -1])
    assert deviation(torch.from_numpy(others), ENTRIES) == pytest.approx(2, abs=1e-3)


def data(classes: int, task: str = "classification") -> DataRecord:
    return data_of("image", (4, 4), classes, dtype="uint8", task=task, train=1000)


def test_all_logits_are_kept_of_few_classes_and_of_values() -> None:
    assert stored_logits(data(2000), 8, None) == 0
    assert stored_logits(data(2001), 8, None) == 32
    assert stored_logits(data(10), 8, 5) == 5
    assert stored_logits(data(9999), 8, 0) == 0
    assert stored_logits(data(9999), 0, None) == 0
    assert stored_logits(data(9999, "embedding"), 8, None) == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "dkd"}, r"loss 'dkd' needs every logit, but soft labels keep the 32 largest of 3,000 logits; use kd"),
        ({"loss": "dist"}, r"set distill\.top_k = 0 to keep all, in 48,000,000 bytes, or views = 0"),
        ({"loss": "mse"}, "loss 'mse'"),
        ({"loss": "ls"}, "loss 'ls'"),
        ({"loss": "mine:loss"}, "loss 'mine:loss'"),
        ({"standardize": True}, "standardize needs every logit"),
        ({"temperature": 3.0}, r"distill\.temperature: .* at temperatures 1, 2, 4, 8, not 3; use one of these"),
        ({"top_k": 3000}, "3000 keeps all of the 3000 classes"),
    ],
)
def test_what_needs_every_logit_is_refused_and_told_what_to_do(keys: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_top_k(data(CLASSES), DistillConfig(**keys))
    check_top_k(data(CLASSES), DistillConfig(**keys | {"top_k": 0}))


def test_a_student_learns_from_the_largest_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    heard = Listener()

    def run(temperature: float, epochs: int = 4) -> Pipeline:
        table = {
            "name": "digits", "data": {"train": "edgedistill.data.digits:train", "test": "edgedistill.data.digits:test"},
            "teacher": {"model": "zoo:resnet20", "width": 0.5, "epochs": 3, "batch_size": 32, "engine": "torch"},
            "student": {"model": "zoo:mlperf-resnet8", "width": 0.25},
            "distill": {"epochs": epochs, "batch_size": 32, "views": 1, "lr": 0.05, "hard_weight": 0, "top_k": 3,
                        "temperature": temperature},
            "target": [{"name": "pc", "kit": "ort"}],
        }  # fmt: skip
        config = parse_config(table, tmp_path, "test.toml")
        return run_pipeline(config, Run(tmp_path / "run"), find_kits(()), heard, Plan(until="distill"))

    pipeline = run(2.0)
    stages = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert stages["distill"]["record"]["student"]["val_accuracy"] > 0.5  # by chance: 0.1
    soft = stages["soft_labels"]["record"]
    assert (soft["top_k"], stages["soft_labels"]["config"]["top_k"]) == (3, 3)
    assert soft["logits"]["bytes"] < soft["samples"] * (3 * 4 + 16) + 513
    assert verify_cache(pipeline, 300).holds
    assert "1 views of 1,293 samples, the 3 largest of 10 logits" in " ".join(describe_caches())
    run(4.0, 1)
    after = json.loads((tmp_path / "run" / "manifest.json").read_text())["stages"]
    assert after["soft_labels"] == stages["soft_labels"]  # one cache for all temperatures
    assert after["distill"]["record"] != stages["distill"]["record"]
    with pytest.raises(ConfigError, match="at temperatures 1, 2, 4, 8"):
        run(3.0)

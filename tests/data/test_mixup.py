"""Mixup by hash: what is mixed with what depends on (seed, sample, view) and on nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, chisquare, kstest

from edgedistill.config.load import parse_config
from edgedistill.config.schema import Config
from edgedistill.config.training import TrainingConfig
from edgedistill.data.augment import parse_augment
from edgedistill.data.dataset import Split
from edgedistill.data.preprocess import Preprocess
from edgedistill.data.settings import Normalization
from edgedistill.data.views import Views, training_views
from edgedistill.distill.feed import TrainingFeed
from edgedistill.distill.losses import main_loss
from edgedistill.distill.settings import declare_soft_labels
from edgedistill.distill.soft_labels import load_soft_labels
from edgedistill.distill.training import Resume, TeacherLogits, Training, fit
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, dry_run, run_pipeline
from edgedistill.pipeline.verify import verify_cache
from edgedistill.records.stages import InputRecord, SoftLabelsRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.stages.stage import workspace_of
from edgedistill.tasks.table import find_task
from tests.support.learning import only

QUIET = Reporter(quiet=True)
SAMPLES = 50
RECORD = InputRecord(kind="image", dtype="uint8", shape=(6, 6, 3))


def views_of(alpha: float, samples: int = SAMPLES, seed: int = 7) -> Views:
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 256, (2 * samples, 6, 6, 3), np.uint8)
    rows = np.sort(rng.choice(2 * samples, samples, replace=False))
    preprocess = Preprocess(RECORD, Normalization(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    split = Split({"input": inputs}, rows, rng.integers(0, 3, samples))
    return Views(split, {"input": preprocess}, parse_augment(("flip", "crop:2"), (RECORD,)).ops, seed, alpha)


MIXED, PLAIN = views_of(0.4), views_of(0.0)


@given(st.permutations(range(20)), st.integers(1, 19), st.integers(0, 1000))
def test_a_mixture_is_the_same_in_any_order_and_any_batch(order: list[int], cut: int, view: int) -> None:
    positions, shown = np.arange(20), np.full(20, view)
    together = only(MIXED.batch(positions, shown))
    chosen = np.array(order)
    parts = [only(MIXED.batch(part, shown[: len(part)])) for part in (chosen[:cut], chosen[cut:])]
    assert torch.equal(torch.cat(parts), together[chosen])


def test_a_mixture_is_of_two_views_by_their_shares() -> None:
    positions, shown = np.arange(SAMPLES), np.arange(SAMPLES) % 3
    mix = MIXED.mix(positions, shown)
    own, partner = (only(PLAIN.batch(places, shown)) for places in (positions, mix.partners))
    shares = torch.from_numpy(mix.shares)[:, None, None, None]
    torch.testing.assert_close(only(MIXED.batch(positions, shown)), shares * own + (1 - shares) * partner)
    assert mix.shares.dtype == np.float32
    assert PLAIN.mix(positions, shown) is None


@pytest.mark.parametrize("alpha", [0.4, 1.0, 8.0])  # below, many shares are 1 in float32
def test_shares_are_beta_and_partners_are_any_sample(alpha: float) -> None:
    views = views_of(alpha)
    positions, shown = np.tile(np.arange(SAMPLES), 400), np.repeat(np.arange(400), SAMPLES)
    mix = views.mix(positions, shown)
    assert kstest(mix.shares, beta(alpha, alpha).cdf).pvalue > 0.01
    assert chisquare(np.bincount(mix.partners, minlength=SAMPLES)).pvalue > 0.01
    assert abs(np.corrcoef(mix.shares, mix.partners)[0, 1]) < 0.03
    assert abs(np.corrcoef(positions, mix.partners)[0, 1]) < 0.03


def test_seeds_samples_and_views_are_mixed_otherwise() -> None:
    positions, shown = np.arange(SAMPLES), np.zeros(SAMPLES, int)
    by_view, by_seed = MIXED.mix(positions, shown + 1), views_of(0.4, seed=8).mix(positions, shown)
    for other in (by_view, by_seed):
        assert (other.shares != MIXED.mix(positions, shown).shares).all()
        assert (other.partners != MIXED.mix(positions, shown).partners).mean() > 0.8


class Asked:
    """A teacher that answers with the mean of each channel."""

    def take(self, _: object, __: object, inputs: dict[str, torch.Tensor]) -> TeacherLogits:
        return TeacherLogits(only(inputs).mean((2, 3)))


def test_batches_carry_both_labels_and_the_share_and_teacher_and_control_see_the_same() -> None:
    taught, control = (TrainingFeed(MIXED, 16, teacher, 2, 3) for teacher in (Asked(), None))
    labels = MIXED.split.labels
    for with_teacher, alone in zip(taught.epoch(1), control.epoch(1), strict=True):
        assert torch.equal(only(with_teacher.inputs), only(alone.inputs))
        assert torch.equal(with_teacher.teacher_logits, only(with_teacher.inputs).mean((2, 3)))
        assert alone.teacher_logits is None
        for batch in (with_teacher, alone):
            positions = positions_of(batch.share)
            mix = MIXED.mix(positions, MIXED.view_of(positions, 1, 2))
            np.testing.assert_array_equal(batch.labels, labels[positions])
            np.testing.assert_array_equal(batch.partner_labels, labels[mix.partners])
    assert next(TrainingFeed(PLAIN, 16, None, 2, 3).epoch(0)).share is None


def positions_of(shares: torch.Tensor) -> np.ndarray:
    """Find samples by their shares in the second epoch of two views, which are all different."""
    every = np.arange(SAMPLES)
    known = {float(share): i for i, share in enumerate(MIXED.mix(every, MIXED.view_of(every, 1, 2)).shares)}
    return np.array([known[float(share)] for share in shares])


def test_processes_share_a_batch_of_the_same_mixtures(monkeypatch: pytest.MonkeyPatch) -> None:
    (whole, *_) = TrainingFeed(MIXED, 16, None, 2, 3).epoch(0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        (part, *_) = TrainingFeed(MIXED, 16, None, 2, 3).epoch(0)
        assert torch.equal(only(part.inputs), only(whole.inputs)[rank::2])
        for name in ("labels", "partner_labels", "share"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::2])


@pytest.mark.parametrize(
    ("specs", "kind", "message"),
    [
        (
            ("mixup:0.4",),
            "tokens",
            "'mixup' only applies to features and image and signal data; this is tokens data, whose values cannot be",
        ),
        (("mixup",), "image", r"'mixup' should read 'mixup:ALPHA' with an alpha from 0\.01 to 100"),
        (("mixup:0",), "image", "'mixup:0' should read"),
        (("mixup:-1",), "image", "'mixup:-1' should read"),
        (("mixup:nan",), "image", "'mixup:nan' should read"),
        (("mixup:inf",), "image", "'mixup:inf' should read"),
        (("mixup:a lot",), "signal", "'mixup:a lot' should read"),
        (("mixup:0.4", "flip"), "image", "must come last and only once"),
        (("mixup:0.4", "mixup:0.4"), "image", "must come last and only once"),
        (("mixap:0.4",), "image", "perhaps 'mixup'"),
    ],
)
def test_a_mixup_that_cannot_be_meant_is_refused(specs: tuple[str, ...], kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_augment(specs, (InputRecord(kind=kind, dtype="uint8", shape=(8, 8)),))


@pytest.mark.slow
def test_cached_soft_labels_are_of_the_mixed_inputs_and_another_alpha_has_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))

    def config(alpha: float) -> Config:
        return parse_config({
            "name": "digits", "teacher": {"model": "zoo:resnet20", "width": 0.5, "epochs": 4, "batch_size": 32},
            "data": {"train": "edgedistill.data.digits:train", "test": "edgedistill.data.digits:test",
                     "augment": ["crop:1", f"mixup:{alpha}"]},
            "student": {"model": "zoo:mlperf-resnet8", "width": 0.25}, "target": [{"name": "pc", "kit": "ort"}],
            "distill": {"epochs": 4, "batch_size": 32, "views": 2, "lr": 0.05, "control": True},
        }, tmp_path, "test.toml")  # fmt: skip

    run = Run(tmp_path / "run")
    pipeline = run_pipeline(config(0.4), run, find_kits(()), QUIET, Plan(until="distill"))
    assert verify_cache(pipeline, 600).holds
    record = pipeline.records[SoftLabelsRecord]
    kept = load_soft_labels(workspace_of(run, record.fingerprint, QUIET), record).logits.astype(np.float32)
    assert np.abs(kept[0] - kept[1]).max() > 1
    settings = declare_soft_labels(pipeline.sources)
    assert training_views(settings.dataset().train, settings.data, settings.views).mixup == 0.4
    assert run.stages["distill"]["record"]["student"]["val_accuracy"] > 0.5
    assert run.stages["distill"]["record"]["control"]["val_accuracy"] > 0.3
    again = dry_run(config(0.4), Run(tmp_path / "run"), find_kits(()), QUIET, Plan(until="distill"))
    other = dry_run(config(0.2), Run(tmp_path / "run"), find_kits(()), QUIET, Plan(until="distill"))
    assert [step.cached for step in again] == [True, True, True, True]
    assert [step.cached for step in other] == [True, False, False, False]


def test_a_batch_in_parts_learns_as_the_whole_does(tmp_path: Path) -> None:
    def trained(accumulate: int) -> torch.Tensor:
        plan = TrainingConfig(epochs=3, batch_size=16, precision="fp32", lr=0.05, accumulate=accumulate)
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(108, 3))
        feed = TrainingFeed(MIXED, 16, None, 2, 3)
        resume = Resume(tmp_path / f"{accumulate}.pt", "key")
        fit(
            model,
            Training(
                "test",
                plan,
                feed,
                main_loss(find_task("classification").label_loss(plan), None),
                lambda _: 0.0,
                resume,
                0,
            ),
            QUIET,
        )
        return model[1].weight.detach()

    torch.testing.assert_close(trained(3), trained(1))

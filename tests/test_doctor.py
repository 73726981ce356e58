"""`doctor CONFIG`: all errors in one call, and what each stage will take."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from edgedistill.config.load import load_config
from edgedistill.distill.loading import save_model
from edgedistill.distill.settings import declare_plan, declare_teacher
from edgedistill.distill.teacher import build_teacher
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.checks import with_data
from edgedistill.pipeline.doctor import diagnose
from edgedistill.pipeline.space import Space, missing_space, sizes_of, space_of
from edgedistill.records.stage_names import BENCH, DISTILL, QUANTIZE, SOFT_LABELS, STAGE_NAMES, TEACHER
from edgedistill.runtime.memory import peak_bytes, reset_peak, resident_bytes
from edgedistill.runtime.progress import Reporter
from tests.support.command import edgedistill
from tests.support.learning import config_of, sources_of

CONFIG = """
name = "signals"
[data]
train = "train.npz"
test = "test.npz"
augment = ["noise:0.1"]
[teacher]
model = "zoo:cnn1d"
epochs = 3
optimizer = "adamw"
[student]
model = "zoo:cnn1d"
width = 0.5
[distill]
epochs = 2
views = 2
[[target]]
name = "pc"
kit = "ort"
[bench]
processes = 2
seconds = 5
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("test", 40)):
        labels = np.arange(count) % 2
        signals = rng.normal(size=(count, 32, 1)) + labels[:, None, None]
        np.savez(tmp_path / f"{name}.npz", inputs=signals.astype(np.float32), labels=labels)
    (tmp_path / "config.toml").write_text(CONFIG)
    return tmp_path


def test_each_stage_has_figures_or_a_reason_and_only_hashes_are_written(folder: Path) -> None:
    before = set(folder.rglob("*"))
    found = diagnose(folder / "config.toml", (), folder / "run", find_kits(()), Reporter(quiet=True))
    assert found.errors == 0
    written = [path for path in set(folder.rglob("*")) - before if path.is_file()]
    assert [path.parent for path in written] == [folder / "cache" / "hashes"]
    kept = json.loads(written[0].read_text())
    assert {Path(name).name for name in kept} >= {"train.npz", "test.npz"}
    stages = {one.stage: one for one in found.stages}
    assert tuple(stages) == STAGE_NAMES
    for one in found.stages:
        unknown = {name for name in ("seconds", "disk_bytes", "memory_bytes") if getattr(one, name) is None}
        assert unknown == set(one.reasons), one
        assert not one.cached
    assert all(stages[name].seconds > 0 for name in (TEACHER, SOFT_LABELS, DISTILL, QUANTIZE))
    assert stages[SOFT_LABELS].disk_bytes == 2 * 108 * 2 * 2  # views, samples, classes, float16
    assert stages[TEACHER].basis == "3 epochs of 1 steps of 108"
    assert stages[BENCH].seconds == pytest.approx(
        3 * (2 * (1.25 * 5 + 0.4) + 7)
    )  # the teacher, and the student in two precisions


def test_errors_end_with_exit_2_and_are_all_told(folder: Path) -> None:
    faults = ("--set", "teacher.weights=[none].pt", "--set", "data.mean=[1, 2]", "--set", "target.pc.kit=orrt")
    result = edgedistill("doctor", "config.toml", *faults, cwd=folder)
    assert result.returncode == 2
    told = " ".join(result.stdout.split())
    for part in (
        "error target 'pc': unknown kit 'orrt'",
        "error teacher.weights: [none].pt: no such file",
        "error data.mean: 2 values",
    ):
        assert part in told
    assert "no estimates: correct the errors first" in told
    assert result.stderr.strip().endswith("config.toml: 3 errors, at which 'edgedistill run' would stop")
    misspelt = edgedistill("doctor", "config.toml", "--set", "distill.epochs=0", "--json", cwd=folder)
    assert misspelt.returncode == 2
    table = json.loads(misspelt.stdout)
    assert table["schema"] == "edgedistill.doctor/1"
    assert [(one["severity"], one["subject"]) for one in table["findings"]] == [("error", "config.toml")]
    assert table["stages"] == []


def test_a_loaded_teacher_at_chance_is_an_error(folder: Path) -> None:
    config = load_config(folder / "config.toml")
    teacher = build_teacher(declare_teacher(with_data(sources_of(config))), 0)
    save_model(teacher, folder / "untrained.safetensors")
    with np.load(folder / "test.npz") as test:
        np.savez(folder / "val.npz", inputs=np.tile(test["inputs"], (4, 1, 1)), labels=np.tile(test["labels"], 4))
    given = ("data.val=val.npz", "teacher.weights=untrained.safetensors")
    found = diagnose(folder / "config.toml", given, folder / "run", find_kits(()), Reporter(quiet=True))
    (error,) = (one for one in found.findings if one.severity == "error")
    assert error.subject.startswith("teacher (zoo:cnn1d)")
    assert "is no better than chance" in str(error)
    assert all(one.seconds is not None for one in found.stages if one.stage in (TEACHER, DISTILL))


def test_options_of_the_two_forms_do_not_mix(folder: Path) -> None:
    for arguments, message in (
        (("config.toml", "--device", "adb://x"), "--device only applies without CONFIG"),
        (("--json",), "--json only applies with CONFIG"),
    ):
        result = edgedistill("doctor", *arguments, cwd=folder)
        assert result.returncode == 2
        assert message in result.stderr


def test_a_finished_run_is_cached_and_its_durations_are_shown(finished: Path) -> None:
    result = edgedistill("doctor", "edgedistill.toml", cwd=finished)
    assert result.returncode == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if re.search(r" cached ", line)]
    assert [row[0] for row in rows] == list(STAGE_NAMES)
    assert "in all" not in result.stdout


def test_the_space_of_stages_is_that_of_their_files(finished: Path) -> None:
    config = load_config(finished / "edgedistill.toml")
    plan = declare_plan(with_data(sources_of(config)))
    spaces = space_of(config, sizes_of(plan), plan.distill.views)
    run = finished / "runs" / "digits"
    for stage, name in ((TEACHER, "teacher"), (DISTILL, "student"), ("export", "onnx"), ("compile", "artifacts")):
        actual = sum(path.stat().st_size for path in (run / name).rglob("*") if path.is_file())
        assert 0.4 < spaces[stage].run_bytes / actual < 2.5, (stage, spaces[stage], actual)
    assert spaces[SOFT_LABELS].cache_bytes == (run / "soft_labels" / "logits.npy").stat().st_size - 128


def test_a_disk_that_is_too_small_is_named(tmp_path: Path) -> None:
    run, cache = tmp_path / "runs" / "new", tmp_path / "cache"
    small = {TEACHER: Space(1000, 0, 1000), SOFT_LABELS: Space(0, 1000)}
    assert list(missing_space(small, run, cache)) == []
    (found,) = missing_space(small | {SOFT_LABELS: Space(0, 10**18)}, run, cache)
    assert found.severity == "error"
    assert "need about 1000000000 GB, most of it for soft_labels" in found.text
    assert "EDGEDISTILL_CACHE" in found.text
    (found,) = missing_space({DISTILL: Space(1, 0, 10**18)}, run, cache)
    assert "--run-dir" in found.text


def test_soft_labels_of_many_classes_take_the_space_of_their_top_entries(folder: Path) -> None:
    wide = np.load(folder / "train.npz")
    inputs, labels = np.repeat(wide["inputs"], 25, 0)[:2600], np.arange(2600) % 2500
    for name in ("train", "test", "val"):
        np.savez(folder / f"{name}.npz", inputs=inputs + np.arange(2600)[:, None, None], labels=labels)
    data = {"train": "train.npz", "test": "test.npz", "val": "val.npz", "augment": ["noise:0.1"]}
    model = {"model": "zoo:cnn1d", "width": 0.25}
    config = config_of(folder, data=data, teacher=model, student=model)
    plan = declare_plan(with_data(sources_of(config)))
    entry = (
        32 * 2 + 32 * 2 + 4 * 4
    )  # 32 class numbers and logits of 2 bytes, and the other classes' sum at 4 temperatures
    assert space_of(config, sizes_of(plan), plan.distill.views)[SOFT_LABELS].cache_bytes == 8 * 2600 * entry


@pytest.mark.skipif(resident_bytes() is None, reason="/proc/self/status is only on Linux")
def test_the_peak_of_memory_is_counted_from_the_last_reset() -> None:
    reset_peak()
    before = peak_bytes()
    np.ones(8_000_000)
    assert peak_bytes() > before + 50_000_000
    reset_peak()
    assert peak_bytes() < before + 50_000_000

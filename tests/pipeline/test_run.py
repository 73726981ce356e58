"""The whole pipeline on real digits, as a user runs it."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgedistill.data import digits
from edgedistill.runtime.files import sha256_of
from tests.support.command import TWO_PROCESSES, edgedistill, environment, fresh, start
from tests.support.runs import CONFIG, as_written, stages


def test_a_run_leaves_what_the_contract_says(finished: Path) -> None:
    run = finished / "runs" / "digits"
    assert list(stages(run)) == [
        "data", "teacher", "soft_labels", "distill", "quantize", "export", "compile", "bench", "report",
    ]  # fmt: skip
    for name in ("teacher/model.safetensors", "student/model.safetensors", "student/control.safetensors",
                 "quantized/model.safetensors", "onnx/student-fp32.onnx", "onnx/io.npz", "report.html",
                 "artifacts/ort/int8", "artifacts/ort/fp32", "measurements/local-ort-teacher-fp32.json",
                 "measurements/local-ort-fp32.json", "measurements/local-ort-int8.json"):  # fmt: skip
        assert (run / name).exists(), name
    assert not list(run.rglob("*resume*"))
    with np.load(run / "onnx" / "io.npz") as recorded:
        assert recorded["input.input"].shape == (360, 1, 1, 8, 8)
        assert set(recorded.files) >= {"labels", "expected.student-fp32.logits", "expected.student-int8.logits"}
    measured = json.loads((run / "measurements" / "local-ort-int8.json").read_text())
    assert measured["schema"] == "edgedistill.measurement/2"
    assert measured["accuracy"]["n"] == 360
    assert measured["precision"]["executed"]["int8"] >= 9
    assert measured["parity"]["agreement"] > 0.97
    assert measured["energy_uj"] is None
    assert measured["reasons"]["energy_uj"]
    student = stages(run)["distill"]["record"]["student"]
    assert measured["model"]["lineage"]["student"] == student["file"]["sha256"]


def test_figures_trace_back_to_files_that_are_there(finished: Path) -> None:
    import hashlib

    run = finished / "runs" / "digits"
    seen = 0
    todo: list[object] = [entry["record"] for entry in stages(run).values()]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
            if {"path", "sha256", "bytes"} == set(value):
                seen += 1
                content = (run / value["path"]).read_bytes()
                assert hashlib.sha256(content).hexdigest() == value["sha256"]
                assert len(content) == value["bytes"]
        elif isinstance(value, list):
            todo += value
    assert seen > 10


def test_the_same_command_again_only_prints(finished: Path) -> None:
    before = times_of(finished)
    result = edgedistill("run", "edgedistill.toml", cwd=finished)
    assert result.returncode == 0
    assert re.search(r"student\S* +int8 ", result.stdout), "a mark of a footnote may follow the name"
    assert "report.html" in result.stdout
    assert re.search(
        r"Measured 20\S+ \d\d:\d\d UTC, not now. To measure again: edgedistill run edgedistill.toml --from bench$",
        result.stdout.strip(),
    )
    assert result.stderr == ""
    assert times_of(finished) == before


def times_of(folder: Path) -> dict[Path, int]:
    """Return when each file was written, but for the remembered hashes: printing may hash a file for the first time."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.parent.name != "hashes"}


def test_a_finished_run_is_printed_without_torch(finished: Path) -> None:
    code = (
        "import sys; from edgedistill.cli.main import cli\n"
        "cli(['run', 'edgedistill.toml'], standalone_mode=False)\n"
        "heavy = {'torch', 'onnxruntime', 'openvino', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=finished,
        env=environment(finished),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_distillation_key_reruns_from_distillation_on(copied: Path) -> None:
    run = copied / "runs" / "digits"
    before = stages(run)
    plan = edgedistill("run", "edgedistill.toml", "--set", "distill.temperature=2", "--dry-run", cwd=copied)
    lines = plan.stdout.splitlines()
    assert [line.split()[1] for line in lines[:9]] == ["done"] * 3 + ["to"] * 6
    assert lines[3].endswith("distill.temperature 4.0 \u2192 2.0")
    assert re.match(r"distill +to run  [\d.]+ s last time ", lines[3])
    assert lines[4].endswith("because distill is to run")
    assert re.fullmatch(r"the stages to run took about \d+ s last time", lines[9])
    labels = run / "soft_labels" / "logits.npy"
    stamp = labels.stat().st_mtime_ns
    result = edgedistill("run", "edgedistill.toml", "--set", "distill.temperature=2", "--until", "distill", cwd=copied)
    assert result.returncode == 0, result.stderr
    after = stages(run)
    for name in ("data", "teacher", "soft_labels"):
        assert after[name] == before[name]
    assert after["distill"]["record"] != before["distill"]["record"]
    assert labels.stat().st_mtime_ns == stamp


def test_from_runs_a_stage_afresh_and_ends_the_same(copied: Path) -> None:
    before = stages(copied / "runs" / "digits")["distill"]["record"]["student"]["file"]["sha256"]
    result = edgedistill("distill", "edgedistill.toml", "--from", "distill", cwd=copied)
    assert result.returncode == 0
    assert "epoch 4" in result.stderr
    assert stages(copied / "runs" / "digits")["distill"]["record"]["student"]["file"]["sha256"] == before


def test_a_damaged_control_in_the_cache_is_trained_again(copied: Path) -> None:
    (kept,) = (copied / "cache").glob("controls/*/model.safetensors")
    content = kept.read_bytes()
    kept.unlink()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = edgedistill("distill", "edgedistill.toml", "--set", "distill.temperature=2", cwd=copied)
    assert result.returncode == 0, result.stderr
    assert "control: epoch 4" in result.stderr
    assert kept.read_bytes() == content


def test_a_damaged_file_is_made_again(copied: Path) -> None:
    run = copied / "runs" / "digits"
    model = run / "student" / "model.safetensors"
    good = model.read_bytes()
    model.write_bytes(good[:-1] + b"x")
    result = edgedistill("distill", "edgedistill.toml", cwd=copied)
    assert result.returncode == 0
    assert model.read_bytes() == good


def test_a_second_process_is_kept_out(copied: Path) -> None:
    import fcntl

    with (copied / "runs" / "digits" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = edgedistill("distill", "edgedistill.toml", "--from", "distill", cwd=copied)
    assert result.returncode == 2
    assert "another edgedistill" in result.stderr


def test_a_killed_run_goes_on_and_ends_bit_for_bit(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    run = tmp_path / "runs" / "digits"
    for trace in (
        "teacher/resume.pt",
        "../../cache/soft_labels/*/done.npy",
        "student/student-resume.pt",
        "student/control-resume.pt",
    ):
        killed = start("distill", "edgedistill.toml", cwd=tmp_path)
        while killed.is_running() and not list(run.glob(trace)):
            time.sleep(0.005)
        killed.kill()
    result = edgedistill("distill", "edgedistill.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in ("teacher", "distill"):
        assert stages(run)[name]["key"] == stages(finished / "runs" / "digits")[name]["key"]
    for name in ("teacher/model", "student/model", "student/control"):
        path = f"{name}.safetensors"
        assert (run / path).read_bytes() == (finished / "runs" / "digits" / path).read_bytes(), name
    logits = [(folder / "soft_labels" / "logits.npy").read_bytes() for folder in (run, finished / "runs" / "digits")]
    assert logits[0] == logits[1]


def test_runs_share_soft_labels_and_verify_them(copied: Path) -> None:
    shutil.rmtree(copied / "runs" / "digits" / "soft_labels")
    other = ("edgedistill.toml", "--run-dir", "runs/other")
    result = edgedistill("distill", *other, "--set", "distill.temperature=2", cwd=copied)
    assert result.returncode == 0, result.stderr
    assert "soft labels: taken from the cache" in result.stderr
    assert "control, seed 0: taken from the cache" in result.stderr  # no temperature is in it
    assert "control: epoch" not in result.stderr
    controls = [stages(copied / "runs" / name)["distill"]["record"]["control"] for name in ("digits", "other")]
    assert controls[0] == controls[1]
    verified = edgedistill("cache", "verify", *other, cwd=copied)
    assert verified.returncode == 0, verified.stderr
    assert "2,586 of 2,586 soft labels recomputed (100.0%)" in verified.stdout
    assert "the cache is correct" in verified.stdout
    listed = edgedistill("cache", "list", cwd=copied).stdout
    assert "1 caches" in listed
    assert "1 controls" in listed

    (kept,) = (copied / "cache").rglob("logits.npy")
    seal = kept.with_name("logits.sha256")
    logits = np.load(kept, mmap_mode="r+")
    logits[:] = logits[::-1].copy()  # the labels of other views
    logits.flush()
    seal.write_text(sha256_of(kept))  # the cache agrees with itself, as if the teacher had been another one
    as_written(copied / "runs/other")
    broken = edgedistill("cache", "verify", *other, cwd=copied)
    assert broken.returncode == 4, broken.stderr
    words = " ".join(broken.stderr.split())
    assert "the logits: too large; the cache is removed; to make it again, run: edgedistill run" in words
    assert words.endswith("--from soft_labels")
    advised = shlex.split(words.rpartition("run: edgedistill ")[2])
    again = edgedistill(*advised, "--until", "distill", cwd=copied)
    assert again.returncode == 0, again.stderr
    assert "the cache is correct" in edgedistill("cache", "verify", *other, cwd=copied).stdout


def test_compare_report_and_json(copied: Path) -> None:
    run = copied / "runs" / "digits"
    result = edgedistill("compare", run, "--json", cwd=copied)
    assert result.returncode == 0, result.stderr
    comparison = json.loads(result.stdout)
    assert comparison["schema"] == "edgedistill.comparison/1"
    assert edgedistill("report", run, cwd=copied).returncode == 0
    both = edgedistill("compare", run, run, cwd=copied)
    assert both.returncode == 0, both.stderr
    assert edgedistill("compare", copied, cwd=copied).returncode == 2
    assert edgedistill("report", copied, cwd=copied).returncode == 2


@pytest.mark.parametrize(
    ("gate", "processes", "code", "words"),
    [
        ("size_bytes > +0%", 3, 0, "gate PASS size_bytes > +0%: student int8 on pc: \u2212"),
        ("size_bytes > 1000", 3, 3, "gate FAIL size_bytes > 1000: student fp32 on pc: "),
        pytest.param(
            "p95_ms > +5%", 1, 6, "an interval needs 3 processes, and 1 were measured", marks=pytest.mark.slow
        ),
    ],
)
def test_the_gates_of_a_configuration_are_held_against_the_teacher(copied: Path, gate, processes, code, words) -> None:
    settings = ("--set", f'gate.fail_if=["{gate}"]', "--set", f"bench.processes={processes}")
    result = edgedistill("run", "edgedistill.toml", *settings, cwd=copied)
    assert result.returncode == code, result.stderr
    assert words in result.stdout
    assert "Report: " in result.stdout


CHECKS = """
import re
assert re.search(r"student\\S* +int8", repr(result)) and max(map(len, repr(result).splitlines())) <= 80
assert "<td>student" in result._repr_html_()
assert result.teacher.file.path == "teacher/model.safetensors"
assert student == result.student
assert {model.name for model in models} == {"teacher", "student"}
partly = edgedistill.run("edgedistill.toml", until="distill", quiet=True)
assert partly.comparison is None and partly.bench is None and repr(partly).endswith("soft_labels, distill")
assert api.bench("edgedistill.toml") == result.bench
import pathlib, tomllib
from edgedistill.config.load import load_config
table = tomllib.loads(pathlib.Path("edgedistill.toml").read_text())
assert api.load_data(table) == api.load_data(load_config(pathlib.Path("edgedistill.toml"))) == result.data
try:
    edgedistill.run(table | {"nmae": "x"})
except edgedistill.errors.ConfigError as error:
    assert "perhaps 'name'" in str(error), error
else:
    raise AssertionError
try:
    edgedistill.runn
except AttributeError as error:
    assert "runn" in str(error)
"""


def test_the_examples_of_the_python_api_run(finished: Path) -> None:
    from edgedistill import api

    example = "\n".join(line[4:] for line in api.__doc__.splitlines() if line.startswith("    "))
    assert "edgedistill.run(" in example
    result = subprocess.run(
        [sys.executable, "-c", f"{example}\n{CHECKS}"], cwd=finished, env=environment(finished),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_a_foreign_onnx_teacher_and_saved_logits(finished: Path, tmp_path: Path) -> None:
    run = finished / "runs" / "digits"
    shutil.copy(run / "onnx" / "teacher-fp32.onnx", tmp_path / "teacher.onnx")
    teacher = '"zoo:mlperf-resnet8"\nwidth = 0.5\nepochs = 3\nbatch_size = 32\nengine = "torch"'
    assert teacher in CONFIG
    text = (
        CONFIG.replace(teacher, '"teacher.onnx"')
        .replace("epochs = 4", "epochs = 1")
        .replace("processes = 3", "processes = 1")
    )
    (tmp_path / "onnx.toml").write_text(text)
    result = edgedistill("run", "onnx.toml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"^teacher\S* +fp32", result.stdout, re.MULTILINE)  # a footnote may mark the name
    by_onnx, by_torch = (
        np.load(folder / "soft_labels" / "logits.npy") for folder in (tmp_path / "runs" / "digits", run)
    )
    assert (by_onnx.argmax(2) == by_torch.argmax(2)).mean() > 0.99

    np.save(tmp_path / "logits.npy", np.eye(10, dtype=np.float32)[digits.train()[1]])
    text = text.replace('"teacher.onnx"', '"logits.npy"').replace('name = "digits"', 'name = "logits"')
    (tmp_path / "logits.toml").write_text(text)
    refused = edgedistill("distill", "logits.toml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "saved logits belong to inputs without augmentation" in refused.stderr
    settings = ("--set", "data.augment=[]", "--set", "distill.views=1")
    result = edgedistill("run", "logits.toml", *settings, "--until", "export", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "runs" / "logits" / "onnx" / "teacher-fp32.onnx").exists()


@pytest.mark.slow
def test_two_processes_of_torchrun_train_teacher_student_and_control_and_one_of_them_writes(tmp_path: Path) -> None:
    (tmp_path / "edgedistill.toml").write_text(CONFIG)
    settings = ("--set", "teacher.epochs=1", "--set", "distill.epochs=2")
    command = ("run", "edgedistill.toml", "--until", "export", *settings)
    uneven = fresh(*command, "--set", "teacher.batch_size=31", cwd=tmp_path, launcher=TWO_PROCESSES)
    assert "31 samples cannot be shared evenly by 2 processes" in uneven.stderr
    result = fresh(*command, cwd=tmp_path, launcher=TWO_PROCESSES)
    assert result.returncode == 0, result.stderr
    for epoch in ("teacher: epoch 1 of 1", "student: epoch 2 of 2", "control: epoch 2 of 2"):
        assert result.stderr.count(epoch) == 1, result.stderr  # one process speaks
    run = tmp_path / "runs" / "digits"
    assert list(stages(run)) == ["data", "teacher", "soft_labels", "distill", "quantize", "export"]
    for record in (stages(run)["teacher"]["record"], stages(run)["distill"]["record"]["student"]):
        assert sha256_of(run / record["file"]["path"]) == record["file"]["sha256"]
    assert list((run / "onnx").glob("student-int8*.onnx"))


@pytest.mark.slow
def test_two_processes_make_the_same_soft_labels_and_nearly_the_same_student(finished: Path, tmp_path: Path) -> None:
    text = CONFIG.replace("epochs = 4", "epochs = 6\naccumulate = 2").replace("control = true", "control = false")
    (tmp_path / "edgedistill.toml").write_text(text)
    teacher = tmp_path / "teacher.safetensors"
    shutil.copy(finished / "runs" / "digits" / "teacher" / "model.safetensors", teacher)
    settings = ("--set", "teacher.weights=teacher.safetensors")
    command = ("distill", "edgedistill.toml", "--run-dir", "two", *settings)
    together = fresh(*command, cwd=tmp_path, launcher=TWO_PROCESSES)
    shutil.rmtree(tmp_path / "cache")
    assert together.returncode == 0, together.stderr
    assert together.stderr.count("student: epoch 6") == 1  # one process speaks
    assert edgedistill("distill", "edgedistill.toml", "--run-dir", "one", *settings, cwd=tmp_path).returncode == 0
    one, two = (np.load(tmp_path / run / "soft_labels" / "logits.npy") for run in ("one", "two"))
    np.testing.assert_array_equal(one, two)
    accuracies = [stages(tmp_path / run)["distill"]["record"]["student"]["val_accuracy"] for run in ("one", "two")]
    assert abs(accuracies[0] - accuracies[1]) < 0.08, accuracies
    assert min(accuracies) > 0.4

"""What is read back from a run folder is checked: one changed value or byte is named by every command that reads it, with the next step."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgedistill.data.digits import test as digits
from tests.support.command import edgedistill

RUN = "runs/digits"
READERS = ("compare", "report", "card", "gate")
"""The commands that read all stages of a run; a gate is that of a comparison."""


def change_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def change_stage(stage: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest["stages"][stage])
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))

    return edit


def change_latency(folder: Path) -> None:
    halve(folder / "measurements" / "local-ort-int8.json")


def halve(path: Path) -> None:
    table = json.loads(path.read_text())
    table["latency_ns"]["p50"] /= 2
    path.write_text(json.dumps(table, indent=2))


def change_samples(folder: Path) -> None:
    path = folder / "measurements" / "local-ort-int8.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["latency_ns"][0] += 1
    np.savez_compressed(path, **arrays)


def ask(command: str, cwd: Path) -> tuple[int, str]:
    Image.fromarray(digits()[0][0]).save(cwd / "digit.png")
    arguments = {
        "compare": ("compare", RUN), "gate": ("compare", RUN, "--fail-if", "accuracy < 1%"), "report": ("report", RUN),
        "card": ("card", RUN, "-o", "published"), "check": ("check", RUN, "digit.png"),
        "serve": ("serve", RUN, "--http", "--host", "localhost"),
        "bundle": ("bundle", RUN, "--target", "ort", "-o", "student.pyz"),
        "mobile": ("mobile", RUN, "-o", "app"),
    }  # fmt: skip
    done = edgedistill(*arguments[command], cwd=cwd)
    return done.returncode, " ".join(done.stderr.split())


STAGES = {
    "history": change_stage("distill", lambda entry: entry["record"]["student"]["history"][0].update(loss=0.01)),
    "teacher": change_stage("teacher", lambda entry: entry["record"].update(val_accuracy=0.999)),
    "limit": change_stage("quantize", lambda entry: entry["record"].update(max_drop=9.0)),
    "scores": change_stage("export", lambda entry: entry["record"]["scores"][0].update(control=0.1)),
    "budget": change_stage("report", lambda entry: entry["config"].update(budgets={"pc": {"p95_ms": 900.0}})),
    "seconds": change_stage("bench", lambda entry: entry.update(seconds=1.0)),
}  # fmt: skip
CHANGED_STAGE = {"history": "distill", "limit": "quantize", "scores": "export", "budget": "report", "seconds": "bench"}


@pytest.mark.slow
@pytest.mark.parametrize("edit", STAGES)
def test_a_value_of_the_manifest_that_was_edited_is_not_believed(copied: Path, edit: str) -> None:
    STAGES[edit](copied / RUN)
    stage = CHANGED_STAGE.get(edit, edit)
    named = f"{RUN}/manifest.json: the entry of stage '{stage}' was changed after the stage ended; make it again: "
    for command in READERS if edit == "history" else ("report",):
        code, words = ask(command, copied)
        assert (command, code) == (command, 2), words
        assert f"{named}edgedistill run CONFIG --from {stage}" in words, (command, words)


def test_a_configuration_that_was_edited_is_not_shown(copied: Path) -> None:
    path = copied / RUN / "manifest.json"
    path.write_text(path.read_text().replace("batch_size = 32", "batch_size = 33"))
    code, words = ask("report", copied)
    assert (code, "'configuration' was changed after the run" in words) == (2, True), words


@pytest.mark.parametrize(
    ("change", "file"),
    [(change_latency, "local-ort-int8.json"), (change_samples, "local-ort-int8.npz")],
)
def test_a_measurement_that_was_edited_is_not_believed(copied: Path, change: Callable[[Path], None], file: str) -> None:
    change(copied / RUN)
    for command in READERS:
        code, words = ask(command, copied)
        assert (command, code) == (command, 2), words
        assert f"{RUN}/measurements/{file}: was changed after it was measured; make it again" in words, (command, words)
        assert "edgedistill run CONFIG --from bench" in words
    alone = edgedistill("compare", f"{RUN}/measurements/local-ort-int8.json", cwd=copied)
    assert (alone.returncode, f"{file}: was changed after it was measured" in alone.stderr) == (2, True), alone.stderr


def test_a_measurement_outside_a_run_and_one_of_a_page_have_their_own_next_step(copied: Path) -> None:
    loose = copied / "loose"
    shutil.copytree(copied / RUN / "measurements", loose)
    assert edgedistill("compare", "loose", cwd=copied).returncode == 0
    for file in loose.glob("local-ort-int8.*"):
        shutil.copy(file, copied / RUN / "measurements" / f"browser-phone{file.suffix}")
    halve(loose / "local-ort-int8.json")
    halve(copied / RUN / "measurements" / "browser-phone.json")
    words = " ".join(edgedistill("compare", "loose", cwd=copied).stderr.split())
    assert "local-ort-int8.json: was changed after it was measured; measure again, or take the file from" in words
    code, words = ask("compare", copied)
    assert (code, "browser-phone.json: was changed after it was measured; measure on this device again" in words) == (
        2,
        True,
    )


FILES = {
    "onnx/student-fp32.onnx": ("export", ("card", "serve", "bundle", "mobile")),
    "onnx/io.npz": ("export", ("report", "card", "serve", "bundle")),
    "student/model.safetensors": ("distill", ("check",)),
    "artifacts/ort/int8/model.ort": ("compile", ("check",)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_a_file_with_another_byte_is_not_read(copied: Path, file: str) -> None:
    change_byte(copied / RUN / file)
    stage, commands = FILES[file]
    for command in commands:
        code, words = ask(command, copied)
        assert (command, code) == (command, 2), words
        assert f"{RUN}/{file}: missing, or changed since stage '{stage}' made it; make it again: edgedistill" in words
        assert f"run CONFIG --from {stage}" in words


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["teacher/model.safetensors", "onnx/io.npz", "artifacts/ort/int8/model.ort", "report.html"]
)
def test_run_makes_a_changed_stage_again_and_says_why(copied: Path, file: str) -> None:
    before = (copied / RUN / file).read_bytes()
    change_byte(copied / RUN / file)
    stage = {"teacher": "teacher", "onnx": "export", "artifacts": "compile", "report.html": "report"}[
        Path(file).parts[0]
    ]
    until = "report" if stage == "report" else "compile"
    done = edgedistill("run", "edgedistill.toml", "--until", until, "--from", until, cwd=copied)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stderr.split())
    if stage != until:
        assert f"{stage}: is made again, because {RUN}/{file} is missing or was changed" in words
    if file.endswith((".safetensors", ".npz")):
        assert (copied / RUN / file).read_bytes() == before


@pytest.mark.slow
def test_run_repairs_an_edited_manifest(copied: Path) -> None:
    STAGES["history"](copied / RUN)
    done = edgedistill("run", "edgedistill.toml", "--until", "export", cwd=copied)
    words = " ".join(done.stderr.split())
    assert done.returncode == 0, words
    assert f"distill: is made again, because its entry in {RUN}/manifest.json was changed" in words
    assert ask("compare", copied)[0] == 0


def test_a_run_of_an_earlier_version_without_hashes_is_read(copied: Path) -> None:
    path = copied / RUN / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest.pop("configuration_sha256")
    for entry in manifest["stages"].values():
        entry.pop("sha256")
    for file in (copied / RUN / "measurements").glob("*.json"):
        table = json.loads(file.read_text())
        table.pop("sha256"), table.pop("samples_sha256")
        file.write_text(json.dumps(table))
    manifest["stages"].pop("bench")
    path.write_text(json.dumps(manifest))
    for command in ("compare", "report"):
        code, words = ask(command, copied)
        assert (command, code) == (command, 0), words


def test_a_large_file_that_did_not_change_is_not_hashed_again(copied: Path) -> None:
    """The hash of a file of 4 TiB, which is a hole, is taken from the memo: hashing it would take hours."""
    from edgedistill.runtime.folder import Run

    run = Run(copied / RUN)
    large = copied / RUN / "large"
    with large.open("wb") as file:
        file.truncate(4 << 40)
    status = large.stat()
    run._hashes[str(large.absolute())] = [status.st_size, status.st_mtime_ns, status.st_ino, "0" * 64]
    assert run.ref(large).sha256 == "0" * 64
    assert run.is_intact(run.ref(large))

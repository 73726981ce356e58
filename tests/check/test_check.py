"""`edgedistill check RUN SAMPLE...`: raw files through torch and every artifact, and what a changed contract shows."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgedistill.data.digits import test as digits
from edgedistill.records.contract import KEY, Contract
from tests.support.command import edgedistill
from tests.support.runs import as_written, finished_run


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Return three digits as grey PNG files of 8 x 8 pixels."""
    images, _ = digits()
    files = [tmp_path / f"digit-{i}.png" for i in range(3)]
    for file, image in zip(files, images, strict=False):
        Image.fromarray(image).save(file)
    return files


def test_the_artifacts_of_a_run_answer_files_as_torch_does(shared_folder: Path, pictures: list[Path]) -> None:
    run = finished_run(shared_folder) / "runs" / "digits"
    done = edgedistill("check", run, *pictures, "--json", cwd=run.parent)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["schema"] == "edgedistill.check/1"
    by_precision = {one["precision"]: one for one in result["artifacts"]}
    assert set(by_precision) == {"fp32", "int8"}
    for one in by_precision["fp32"]["differences"]:
        assert one["parts"] is None
        assert one["input"] < 1e-6
        assert one["outputs"] < 1e-4
    assert all(one["input"] < 1e-6 for one in by_precision["int8"]["differences"])
    assert all(value >= 0 for value in by_precision["fp32"]["timing"].values())


def test_the_contract_travels_in_the_onnx_file(shared_folder: Path) -> None:
    model = onnx.load(finished_run(shared_folder) / "runs" / "digits" / "onnx" / "student-fp32.onnx")
    contract = Contract.model_validate_json({one.key: one.value for one in model.metadata_props}[KEY])
    assert contract.picture is not None
    assert (contract.task, contract.picture.width, contract.picture.colour) == ("classification", 8, "grey")
    assert contract.picture.mean == (0.3,)
    assert contract.classes == tuple("0123456789")


def test_an_artifact_with_another_contract_parts_at_its_input(
    shared_folder: Path, pictures: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run(shared_folder) / "runs" / "digits", run)

    def darken(manifest: dict) -> None:
        for model in manifest["stages"]["export"]["record"]["models"]:
            if model["precision"] == "fp32" and model["name"] == "student":
                model["contract"]["picture"]["mean"] = [0.5]

    as_written(run, darken)
    done = edgedistill("check", run, pictures[0], cwd=tmp_path)
    assert done.returncode == 4
    assert "pc: ort fp32 on local: differs from torch at digit-0.png: the input of the model differs" in done.stdout
    assert "pc: ort int8 on local: same input" in done.stdout
    assert "1 of 2 artifacts give other answers than torch: pc fp32" in done.stderr


def test_what_an_app_does_differently_is_named(shared_folder: Path, pictures: list[Path], tmp_path: Path) -> None:
    run = finished_run(shared_folder) / "runs" / "digits"
    pixels = np.asarray(Image.open(pictures[0])) / 255.0
    np.savez(tmp_path / "app.npz", **{"digit-0.png/input": ((pixels / 255.0 - 0.3) / 0.4)[None, None]})
    done = edgedistill("check", run, pictures[0], "--app", "app.npz", cwd=tmp_path)
    assert done.returncode == 4
    assert "app, digit-0.png, input: the values are divided by 255 twice" in done.stdout
    np.savez(tmp_path / "app.npz", **{"digit-0.png/input": ((pixels - 0.3) / 0.4).astype(np.float32)[None, None]})
    done = edgedistill("check", run, pictures[0], "--app", "app.npz", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "app, digit-0.png, input: as in training" in done.stdout


def test_files_that_cannot_be_checked_are_mistakes_with_a_next_step(
    shared_folder: Path, pictures: list[Path], tmp_path: Path
) -> None:
    run = finished_run(shared_folder) / "runs" / "digits"
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    (tmp_path / "text.png").write_text("no picture")
    np.savez(tmp_path / "app.npz", **{"other.png/input": np.zeros(3)})
    for arguments, words in (
        (["wide.png"], "is 9x8, the model takes 8x8, and the run has no data.size"),
        (["missing.png"], "missing.png: no such file; name picture files"),
        (["text.png"], "text.png: is not a readable picture"),
        ([pictures[0], "--app", "app.npz"], "holds 'other.png/input', which is no array of a picture"),
        ([pictures[0], "--app", "text.png"], "text.png is not a readable .npz file"),
    ):
        done = edgedistill("check", run, *arguments, cwd=tmp_path)
        assert done.returncode == 2, (arguments, done.stderr)
        assert words in done.stderr
        assert "Traceback" not in done.stderr

"""The folder for app developers, from a real run, and the log of ONNX Runtime's checker."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pair_sums
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.mobile.readme import readme
from edgedistill.mobile.usability import Usability, parse_usability


def edgedistill(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def run(elsewhere):
    return elsewhere / "runs" / "digits"


@pytest.fixture(scope="module")
def folder(elsewhere, tmp_path_factory):
    app = tmp_path_factory.mktemp("mobile") / "app"
    done = edgedistill("mobile", elsewhere / "runs" / "digits", "-o", app)
    assert done.exit_code == 0, done.output + str(done.exception)
    return app


def test_the_models_answer_the_examples(folder):
    manifest = json.loads((folder / "mobile.json").read_text())
    assert manifest["schema"] == "edgedistill.mobile/1"
    assert [(model["precision"], model["encoding"]) for model in manifest["models"]] == [
        ("fp32", None), ("int8", "u8-i32")]  # fmt: skip
    given = manifest["inputs"][0]
    inputs = np.fromfile(folder / "examples" / "input.raw", given["dtype"]).reshape(-1, *given["shape"])
    answers = json.loads((folder / "examples" / "answers.json").read_text())["outputs"]["logits"]
    assert len(inputs) == len(answers) == 8
    for model in manifest["models"]:
        content = (folder / model["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == model["sha256"]
        assert content[4:8] == b"ORTM"
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        got = [session.run(None, {given["name"]: one})[0].ravel() for one in inputs]
        if model["precision"] == "int8":
            # The file is for a device that is not known: only x86 without VNNI, which no phone has, adds products in 16 bits.
            assert np.abs(np.array(got) - answers).max() < (1.0 if pair_sums.overflows() else 1e-3)
        if model["max_abs_diff"] is None:
            assert model["precision"] == "int8"
            assert pair_sums.overflows()
            assert model["reason"].startswith("not measured: this processor has no VNNI")
        else:
            assert model["max_abs_diff"] < 1e-3


def test_nothing_says_where_it_was_made(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(folder.parent).encode() not in content, path
            assert b"/tmp/" not in content, path
    operators = (folder / "required_operators_and_types.config").read_text()
    assert operators.startswith("# Generated from model/s:\n# - student-fp32.ort\n# - student-int8.ort\n")
    assert "QLinearConv" in operators


def test_the_readme_spells_out_what_goes_in(folder):
    text = (folder / "README.md").read_text()
    assert "Input `input`: uint8, 1 x 8 x 8 (batch, height, width)." in text
    assert "the model contains the division, the mean and the deviation" in text
    assert "OnnxTensor.createTensor(env, input, longArrayOf(1, 8, 8), OnnxJavaType.UINT8)" in text
    assert "elementType: .uInt8, shape: [1, 8, 8]" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in text
    assert "| int8 | NNAPI |" in text


def test_preprocessing_that_is_not_in_the_model_is_listed_in_order(folder):
    manifest = json.loads((folder / "mobile.json").read_text())
    manifest["preprocessing"] |= {
        "baked": False, "sample_shape": (32, 32, 3), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1), "log_mel": None,
    }  # fmt: skip
    manifest["inputs"] = [{"name": "input", "dtype": "float32", "shape": (1, 3, 32, 32)}]
    text = readme(manifest, 8)
    steps = [line for line in text.splitlines() if line[:1].isdigit() and line[1:3] == ". "]
    assert steps == [
        "1. Take the raw values as 32-bit floats; a sample is uint8, 32 x 32 x 3, as in the training data, channels last.",
        "2. Move the channels to the front.",
        "3. Divide by 255.",
        "4. Subtract [0.5, 0.4, 0.3], by channel.",
        "5. Divide by [0.2, 0.2, 0.1], by channel.",
    ]
    assert "1 x 3 x 32 x 32 (batch, channel, height, width)" in text
    assert "allocateDirect(12288).order(ByteOrder.nativeOrder()).asFloatBuffer()" in text


def test_a_folder_of_something_else_is_left_alone(run, folder, tmp_path):
    (tmp_path / "mine").write_text("")
    done = edgedistill("mobile", run, "-o", tmp_path)
    assert "is not empty and was not written by this command" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    done = edgedistill("mobile", tmp_path, "-o", tmp_path / "x")
    assert "not a run folder" in str(done.exception)


def test_a_command_that_ended_early_is_given_again(run, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "digits"))
    requests = next(folder.rglob("io.npz"))
    away = requests.rename(tmp_path / "io.npz")
    assert edgedistill("mobile", folder, "-o", tmp_path / "app").exit_code != 0
    away.rename(requests)
    done = edgedistill("mobile", folder, "-o", tmp_path / "app")
    assert done.exit_code == 0, done.output + str(done.exception)


LOG = Path(__file__).parent / "recorded" / "mobile-usability-1.32.txt"


def test_the_checkers_log_is_read():
    assert parse_usability(LOG.read_text(encoding="utf-8")) == (
        Usability(provider="NNAPI", partitions=1, supported=76, nodes=76, unsupported=(), verdict="YES"),
        Usability(
            provider="CoreML NeuralNetwork", partitions=19, supported=24, nodes=76, verdict="NO",
            unsupported=("ai.onnx:DequantizeLinear", "ai.onnx:QuantizeLinear", "ai.onnx:ReduceMean"),
        ),
        Usability(
            provider="CoreML MLProgram", partitions=20, supported=25, nodes=76, verdict="NO",
            unsupported=("ai.onnx:DequantizeLinear", "ai.onnx:QuantizeLinear"),
        ),
    )  # fmt: skip
    assert parse_usability("INFO:  Checking NNAPI\nINFO:  something else\n") == ()

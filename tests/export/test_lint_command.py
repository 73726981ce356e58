"""`edgedistill lint` as a user has it: exit codes, lines, tables, JSON, repaired files, and files that lie."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import helper
from rich.console import Console

from edgedistill.cli.main import cli
from edgedistill.errors import ConfigError, LintError
from edgedistill.export.lint.command import LintOptions, run_lint
from edgedistill.export.lint.table import print_result
from edgedistill.export.trt_check import MODULE
from tests.support.lint_models import Plant, clean
from tests.support.plants import activation_axis, computed_scale, float_weight, scale, scale_pair, weight_axis


def write(folder: Path, *plants, name: str = "net.onnx") -> Path:
    model = clean()
    for plant in plants:
        plant(Plant(model))
    path = folder / name
    onnx.save(model, str(path))
    return path


def run(*arguments) -> Result:
    return CliRunner().invoke(cli, ["lint", *(str(argument) for argument in arguments)])


def test_a_clean_model_has_exit_code_0(tmp_path):
    result = run(write(tmp_path), "--target", "openvino")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"net.onnx: clean for openvino, {usual()}"]


def usual() -> str:
    import platform

    return platform.machine()


def test_warnings_are_allowed(tmp_path):
    result = run(write(tmp_path, scale_pair), "--target", "openvino")
    assert result.exit_code == 0
    assert "warning scale-pair at node_quantize_dequantize" in result.stdout


def test_an_error_has_exit_code_4_and_names_rule_and_node(tmp_path):
    result = run(write(tmp_path, weight_axis("Conv", 1)), "--target", "openvino")
    assert isinstance(result.exception, LintError)
    assert result.exception.exit_code == 4
    lines = result.stdout.splitlines()
    assert lines[0].startswith("net.onnx: error weight-axis at node_conv2d: the weight of this Conv")
    assert lines[1].startswith("net.onnx: weight-axis: fix: give each output channel a scale")
    assert "https://docs.nvidia.com" in lines[1]


def test_without_a_target_the_errors_for_every_kit_are_shown_and_decide(tmp_path):
    result = run(write(tmp_path))  # int8 activations and float biases, as ONNX Runtime does not want them
    lines = result.stdout.splitlines()
    assert lines[0] == "net.onnx: passes the rules that all engines share"
    assert any(line.startswith("net.onnx: 9 errors") and "for ort" in line for line in lines)
    assert any(line.startswith("net.onnx: error ") and " more: " in line for line in lines)
    assert result.exception.exit_code == 4
    assert "do not deploy this file on ort before its errors are gone" in str(result.exception)
    assert run(write(tmp_path), "--target", "openvino").exit_code == 0
    assert run(write(tmp_path, activation_axis)).exception.exit_code == 4


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x07"])
def test_a_file_that_is_no_model_has_exit_code_2(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    assert run(path).exception.exit_code == 2
    assert run(tmp_path / "missing.onnx").exception.exit_code == 2


def test_external_data_cannot_leave_its_folder(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(4096))
    (tmp_path / "in").mkdir()
    model = clean()
    tensor = next(t for t in model.graph.initializer if t.name == "stem.0.weight_int8")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    onnx.save(model, str(tmp_path / "in" / "net.onnx"))
    result = run(tmp_path / "in" / "net.onnx", "--fix")
    assert isinstance(result.exception, ConfigError)
    assert "outside the folder of the model" in str(result.exception)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["net.onnx"]


def test_external_data_beside_the_model_is_read_and_the_repaired_file_is_whole(tmp_path):
    model = clean()
    float_weight(Plant(model))
    onnx.save(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.data", size_threshold=0)
    assert run(tmp_path / "net.onnx", "--fix").exit_code == 0
    (tmp_path / "net.data").unlink()
    onnx.checker.check_model(onnx.load(str(tmp_path / "net-fixed.onnx")), full_check=True)


def test_json_is_versioned_and_complete(tmp_path):
    result = run(write(tmp_path, weight_axis("Conv", 1)), "--target", "openvino", "--target", "ort", "--json")
    record = json.loads(result.stdout)
    assert record["schema"] == "edgedistill.lint/1"
    assert len(record["sha256"]) == 64
    assert [report["kit"] for report in record["reports"]] == ["openvino", "ort"]
    (finding,) = record["reports"][0]["findings"]
    assert finding.keys() == {"rule", "severity", "node", "message", "source", "fix"}
    assert record["compiler"] is record["repair"] is None


def test_fix_writes_a_file_beside_and_looks_again(tmp_path):
    path = write(tmp_path, float_weight, scale(0.0))
    before = path.read_bytes()
    result = run(path, "--target", "openvino", "--fix")
    assert result.exit_code == 0
    assert "net-fixed.onnx: clean for openvino" in result.stdout
    assert result.stdout.count("repaired: ") == 2
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net-fixed.onnx", "net.onnx"]


def test_fix_writes_where_it_is_told_to_and_never_over_the_model(tmp_path):
    path = write(tmp_path, float_weight)
    assert run(path, "--fix", "-o", tmp_path / "new" / "out.onnx").exit_code == 0
    assert (tmp_path / "new" / "out.onnx").is_file()
    assert run(path, "--fix", "-o", path).exception.exit_code == 2


def test_fix_with_nothing_to_repair_writes_nothing(tmp_path):
    result = run(write(tmp_path, weight_axis("Conv", 1)), "--fix")
    assert result.exception.exit_code == 4
    assert "nothing could be repaired exactly" in result.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_fix_is_for_one_kit(tmp_path):
    result = run(write(tmp_path, float_weight), "--fix", "--target", "openvino", "--target", "ort")
    assert "one --target" in str(result.exception)


def test_an_unknown_kit_gets_the_nearest_name(tmp_path):
    assert "perhaps 'openvino'" in str(run(write(tmp_path), "--target", "openvno").exception)


def test_the_architecture_can_be_named(tmp_path):
    other = run(write(tmp_path), "--target", "ort", "--arch", "aarch64")
    assert "activation-type" not in other.stdout
    assert run(write(tmp_path), "--target", "ort", "--arch", "riscv64").exception.exit_code == 2


def test_asking_for_a_compiler_that_is_not_there_has_exit_code_2(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE, None)
    result = run(write(tmp_path), "--compile")
    assert result.exception.exit_code == 2
    assert "pip install 'edgedistill[trt-check]'" in str(result.exception)


def test_the_compiler_reports_the_precision_of_each_layer(tmp_path):
    pytest.importorskip(MODULE, reason="the extra trt-check is not installed")
    result = run(write(tmp_path, activation_axis), "--target", "openvino", "--compile")
    assert "net.onnx: Conv node_conv2d: int8 in the file, fp32 compiled" in result.stdout
    assert "net.onnx: Gemm node_linear_1: int8 in the file, int8 compiled" in result.stdout
    assert "error tensorrt-compiler at node_conv2d" in result.stdout
    record = json.loads(run(tmp_path / "net.onnx", "--compile", "--json").stdout)
    assert {layer["precision"] for layer in record["compiler"]["layers"]} >= {"int8", "fp32"}


def test_a_crash_of_the_compiler_is_an_error_like_any_other(tmp_path):
    pytest.importorskip(MODULE, reason="the extra trt-check is not installed")
    result = run(write(tmp_path, computed_scale), "--compile")
    assert result.exception.exit_code == 4
    assert "SIGSEGV" in result.stdout


def test_the_table_fits_80_columns_and_shows_each_rule_once(tmp_path):
    model = clean()
    for node in model.graph.node:  # names as long as real ones
        node.name = f"/model/backbone/stage_{node.name}/very_long_block_name/conv/Conv"
    helper.set_model_props(model, {})
    path = tmp_path / "net.onnx"
    onnx.save(model, str(path))
    from edgedistill.kits.kits import find_kits

    result = run_lint(LintOptions(model=path, kits=(find_kits()["ort"],), arch="x86_64"))
    console = Console(force_terminal=True, width=80, record=True, file=open_nothing(), highlight=False)
    print_result(result, console)
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("bias-type") == 1
    assert "9 errors, 8 warnings for ort" in text


def open_nothing():
    import io

    return io.StringIO()


def test_a_repaired_model_keeps_its_answers_in_the_file(tmp_path):
    from edgedistill.graphs.run import run_onnx

    path = write(tmp_path, float_weight)
    run(path, "--fix")
    requests = {"input": np.random.default_rng(0).standard_normal((4, 1, 3, 8, 8)).astype(np.float32)}
    before, after = (run_onnx(file, requests)["logits"] for file in (path, tmp_path / "net-fixed.onnx"))
    np.testing.assert_array_equal(before, after)

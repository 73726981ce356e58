"""The export stage on real digits, for a kit whose engine takes another form from some version on."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgedistill.config.load import load_config
from edgedistill.deploy.bundle import write_bundle
from edgedistill.errors import ConfigError
from edgedistill.export.forms import answers_of
from edgedistill.export.parity import compare_outputs
from edgedistill.graphs.opset import opset_of
from edgedistill.kits.kits import find_kits
from edgedistill.mobile.folder import write_mobile
from edgedistill.pipeline.checks import check_config
from edgedistill.pipeline.pipeline import Pipeline, Plan, run_pipeline
from edgedistill.records.stages import ExportRecord, QuantizedRecord
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from tests.support import runs
from tests.support.kits import STRONG, write_kit

CONFIG = runs.CONFIG.replace(
    runs.TARGET,
    """[export]
bake = {bake}
[[target]]
name = "board"
kit = "strong"
precisions = {precisions}
[[target]]
name = "pc"
kit = "ort"
precisions = ["int8"]
""",
)


def exported(folder: Path, bake: tuple[str, ...], precisions: tuple[str, ...], *overrides: str) -> Pipeline:
    kits = find_kits((write_kit(folder / "kits", STRONG),))
    text = CONFIG.format(bake=json.dumps(bake), precisions=json.dumps(precisions))
    (folder / "edgedistill.toml").write_text(text)
    config = load_config(folder / "edgedistill.toml", overrides)
    return run_pipeline(config, Run(folder / "run"), kits, Reporter(quiet=True), Plan("export"))


@pytest.fixture(scope="module")
def job(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = tmp_path_factory.mktemp("export")
    shutil.copytree(finished / "runs" / "digits", folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDISTILL_CACHE", str(folder / "cache"))
        # As on a processor with VNNI: narrow weights leave this short-trained student near ties, which float16 decides.
        return exported(folder, ("normalize", "scores"), ("fp32", "fp16", "int8"), "quantize.weights=full")


def model_of(job: Pipeline, name: str) -> onnx.ModelProto:
    return onnx.load(str(job.run.folder / "onnx" / f"{name}.onnx"))


FORMS = {
    "teacher-fp32": 17, "teacher-fp16": 17, "student-fp32": 17, "student-fp16": 17,
    "student-int8": 17, "student-int8-s8-f16": 19, "student-int8-s8-i32": 20, "student-int8-u8-i32": 20,
}  # fmt: skip


@pytest.mark.slow
def test_every_form_that_a_kit_lists_is_written_in_an_opset_that_all_its_readers_take(job: Pipeline) -> None:
    written = {path.stem: opset_of(onnx.load(str(path))) for path in (job.run.folder / "onnx").glob("*.onnx")}
    assert written == FORMS
    record = job.records[ExportRecord]
    assert {model.opset for model in record.models if model.encoding == "s8-f16"} == {19}
    assert all(model.parity is not None and model.parity.agreement >= 0.98 for model in record.models)
    half = {model.file.path: model.file.bytes for model in record.models if model.name == "student"}
    assert half["onnx/student-fp16.onnx"] < 0.7 * half["onnx/student-fp32.onnx"]


@pytest.mark.slow
def test_what_the_linter_warns_of_is_recorded_for_the_kits_that_take_the_file(job: Pipeline) -> None:
    records = job.records[ExportRecord].models
    warned = {f"{m.precision}-{m.encoding}" for m in records if m.warnings}
    assert warned == {"fp32-None", "fp16-None", "int8-s8-f32", "int8-s8-f16"}
    for text in (text for model in records for text in model.warnings):
        assert text.startswith("rule unsupported of kit 'strong' at 'node_")
        assert text.endswith(": the engine refuses the file")


@pytest.mark.slow
def test_a_raw_input_is_cast_first_as_tensorrt_wants_it(job: Pipeline) -> None:
    model = model_of(job, "student-int8")
    readers = [node.op_type for node in model.graph.node if "input" in node.input]
    assert readers == ["Cast"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_raw_images_go_in_and_scores_come_out(job: Pipeline, name: str) -> None:
    model = model_of(job, name)
    (entry,), (result,) = model.graph.input, model.graph.output
    assert (entry.name, entry.type.tensor_type.elem_type) == ("input", TensorProto.UINT8)
    assert (result.name, result.type.tensor_type.elem_type) == ("scores", TensorProto.FLOAT)
    with np.load(job.run.folder / "onnx" / "io.npz") as io:
        inputs, labels = io["input.input"], io["labels"]
        expected = io[f"expected.{name.partition('-')[0]}-{'int8' if 'int8' in name else 'fp32'}.scores"]
    assert inputs.dtype == np.uint8
    got = answers_of(model, {"input": inputs})["scores"]
    np.testing.assert_allclose(got.sum(-1), 1, atol=5e-3)
    assert compare_outputs(expected[:, 0], got[:, 0]).agreement >= 0.96  # a student of four epochs has many close calls
    assert (got[:, 0].argmax(-1) == labels).mean() > 0.5
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(about["edgedistill.labels"]) == [str(digit) for digit in range(10)]
    assert about["edgedistill.output"] == "scores"
    assert json.loads(about["edgedistill.preprocessing"])["layout"] == "as the data"


@pytest.mark.slow
def test_only_the_float16_form_has_float16_scales(job: Pipeline) -> None:
    for name, kind in (("student-int8", TensorProto.FLOAT), ("student-int8-s8-f16", TensorProto.FLOAT16)):
        model = model_of(job, name)
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert {stored[node.input[1]].data_type for node in rounding} == {kind}
        weights = [
            stored[n.input[0]] for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored
        ]
        assert {tensor.data_type for tensor in weights} == {TensorProto.INT8}


@pytest.mark.slow
def test_weights_are_the_same_integers_in_every_form(job: Pipeline) -> None:
    integers = []
    for name in ("student-int8", "student-int8-s8-f16", "student-int8-u8-i32"):
        stored = [numpy_helper.to_array(tensor) for tensor in model_of(job, name).graph.initializer]
        integers.append([value for value in stored if value.dtype == np.int8 and value.ndim > 1])
    assert len(integers[0]) == 10
    for other in integers[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(integers[0], other, strict=True))


@pytest.mark.slow
def test_unsigned_activations_are_exported_for_the_kits_that_take_them(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    unsigned = "quantize.activations=unsigned"
    with pytest.raises(ConfigError, match=r"kit 'strong' takes no unsigned activations, only s8-f32"):
        exported(tmp_path / "refused", (), ("fp32", "int8"), unsigned)
    assert not (tmp_path / "refused" / "run").exists()
    shutil.copytree(finished / "runs" / "digits", tmp_path / "made" / "run")
    job = exported(tmp_path / "made", (), ("fp32", "fp16"), unsigned)
    assert job.records[QuantizedRecord].activations == "unsigned"
    models = job.records[ExportRecord].models
    assert [model.encoding for model in models if model.precision == "int8"] == ["u8-i32"]
    assert all(model.parity is not None and model.parity.agreement >= 0.98 for model in models)
    mobile = write_mobile(job.run, find_kits()["ort"], tmp_path / "app")
    assert [model.encoding for model in mobile.models] == [None, "u8-i32"]
    bundle, _ = write_bundle(job.run, find_kits()["ort"], (), tmp_path / "student.pyz")
    assert {(form.arch, form.encoding) for form in bundle.forms} == {("x86_64", "u8-i32"), ("aarch64", "u8-i32")}
    assert {model.encoding for model in bundle.models} == {None, "u8-i32"}
    with pytest.raises(ConfigError, match=r"kit 'tensorrt' takes no unsigned activations"):
        write_bundle(job.run, find_kits()["tensorrt"], ("int8",), tmp_path / "other.pyz")
    floats, _ = write_bundle(job.run, find_kits()["tensorrt"], (), tmp_path / "floats.pyz")
    assert {model.precision for model in floats.models} == {"fp32", "fp16"}
    written = {path.name for path in (job.run.folder / "onnx").glob("*.onnx")}
    (job.run.folder / "onnx" / "student-int8.onnx").write_bytes(b"of an earlier student")
    job.execute(Plan("export", "export"))
    assert {path.name for path in (job.run.folder / "onnx").glob("*.onnx")} == written


def test_scores_are_refused_where_there_are_no_classes(tmp_path: Path) -> None:
    text = CONFIG.format(bake='["scores"]', precisions='["fp32"]').replace("[data]", '[data]\ntask = "regression"')
    (tmp_path / "edgedistill.toml").write_text(text.replace("views = 2", 'views = 2\nloss = "mse"'))
    with pytest.raises(ConfigError, match=r"export.bake: data.task 'regression' has no scores; remove 'scores'"):
        check_config(load_config(tmp_path / "edgedistill.toml"), find_kits((write_kit(tmp_path, STRONG),)))


def test_one_opset_for_all_is_refused_where_a_kits_forms_have_none_in_common(tmp_path: Path) -> None:
    kits = find_kits((write_kit(tmp_path, STRONG),))
    text = CONFIG.format(bake="[]\nopset = 17", precisions='["fp32", "int8"]')
    (tmp_path / "edgedistill.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"from version 11 on it takes int8 with float16 scales, which need opset 19"):
        check_config(load_config(tmp_path / "edgedistill.toml"), kits)

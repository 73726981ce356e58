"""The kits with their real engines, on a tiny real model."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgedistill.records.measurement import Measurement
from tests.support.jobs import ALL_PASSES, TARGETS, arm, harness, write_job
from tests.support.tiny_onnx import build, build_pair, record

KITS = {"openvino": "u8-f32", "ort": "u8-i32"}  # and the encoding that each runs best on x86


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {"fp32": build(folder / "fp32.onnx")}
    made |= {
        encoding: build(folder / f"{encoding}.onnx", encoding) for encoding in ("s8-f32", "u8-f32", "u8-i32", "s8-i32")
    }
    record(folder / "io.npz", made)
    return made


def compile_with(kit, model, out, precision="fp32", env=None):
    arguments = ("--model", model, "--precision", precision, "--threads", 1, "--out", out)
    return harness("compile", "--kit", TARGETS / kit, *arguments, env=env)


@pytest.fixture(scope="module")
def measured(models):
    """Each kit's fp32 and int8 forms, and a float model that passes for int8, benched in one interleaved job."""
    folder = models["fp32"].parent
    arms = []
    for kit, encoding in KITS.items():
        for name, precision, model in (("fp32", "fp32", "fp32"), ("int8", "int8", encoding), ("fake", "int8", "fp32")):
            code, made, _ = compile_with(kit, models[model], folder / f"{kit}-{name}", precision)
            assert code == 0, made
            entry = folder / f"{kit}-{name}" / made["entry"]
            changes = {"precision": precision, "expected": model, "metric": "top1", "kit_dir": str(TARGETS / kit)}
            arms.append(arm(f"{kit}-{name}", TARGETS / kit, entry) | changes)
    code, results, _ = harness("bench", write_job(folder, arms, passes=ALL_PASSES))
    assert code == 5
    return {result["name"]: result for result in results}


@pytest.mark.parametrize("kit", KITS)
def test_a_float_model_runs_in_float_and_answers_alike(measured, kit):
    figures = Measurement.model_validate(measured[f"{kit}-fp32"]["measurement"])
    assert figures.precision.executed == {"fp32": 3}
    assert figures.parity.max_abs_diff < 1e-5
    assert figures.accuracy.value == 1.0
    assert figures.processes[0].threads == 1
    assert figures.latency_ns.p50 > 0
    assert figures.throughput.per_s >= figures.throughput.levels["1"] > 0
    memory = figures.memory_bytes
    assert memory is None or 0 < memory.null_increment == memory.increment - memory.net


def test_openvinos_own_clock_is_within_the_call(measured):
    figures = Measurement.model_validate(measured["openvino-fp32"]["measurement"])
    assert 0 < figures.engine_latency_ns.p50 < figures.latency_ns.p50
    assert Measurement.model_validate(measured["ort-fp32"]["measurement"]).engine_latency_ns is None


@pytest.mark.parametrize("kit", KITS)
def test_a_quantized_model_really_runs_in_int8(measured, kit):
    figures = Measurement.model_validate(measured[f"{kit}-int8"]["measurement"])
    assert figures.precision.executed == {"int8": 3}
    assert figures.parity.agreement >= 0.9
    assert figures.accuracy.value >= 0.6


@pytest.mark.parametrize("kit", KITS)
def test_each_layers_time_and_precision_come_from_the_engines_profiler(measured, kit):
    for precision in ("fp32", "int8"):
        profile = Measurement.model_validate(measured[f"{kit}-{precision}"]["measurement"]).layers
        weighted = [one for one in profile.layers if one.type in WEIGHTED]
        assert [one.precision for one in weighted] == [precision] * 3
        assert len({one.name for one in profile.layers}) == len(profile.layers)
        assert all(one.ns >= 0 for one in profile.layers)  # whole microseconds: those of a tiny model may all be none
        assert min(profile.profiled_ns, profile.plain_ns) > 0


WEIGHTED = {
    "Convolution", "FullyConnected", "FullyConnectedQuantizedLegacy", "MatMul", "Conv", "FusedConv", "NhwcFusedConv", "Gemm",
    "QLinearConv", "NhwcQLinearConv", "QGemm",
}  # fmt: skip


@pytest.mark.parametrize("kit", KITS)
def test_a_float_model_does_not_pass_for_int8(measured, kit):
    assert measured[f"{kit}-fake"]["error"].startswith(f"{kit}: int8 was requested, but no layer runs in int8")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Models of two inputs and two outputs, in float and in each kit's encoding, with what they answer."""
    folder = tmp_path_factory.mktemp("pairs")
    made = {"fp32": build_pair(folder / "fp32.onnx")}
    made |= {encoding: build_pair(folder / f"{encoding}.onnx", encoding) for encoding in KITS.values()}
    record(folder / "io.npz", made)
    return made


@pytest.mark.parametrize("kit", KITS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_every_output_of_a_model_with_two_inputs_is_judged(pairs, kit, precision):
    model = "fp32" if precision == "fp32" else KITS[kit]
    folder = pairs["fp32"].parent
    code, made, _ = compile_with(kit, pairs[model], folder / f"{kit}-{precision}", precision)
    assert code == 0, made
    entry = folder / f"{kit}-{precision}" / made["entry"]
    changes = {"precision": precision, "expected": model, "metric": "top1", "output": "logits"}
    one = arm("pair", TARGETS / kit, entry) | changes
    code, results, _ = harness("bench", write_job(folder, [one], seconds=0.1, out=f"out-{kit}-{precision}", passes=[]))
    assert code == 0, results
    figures = Measurement.model_validate(results[0]["measurement"])
    assert set(figures.parity.outputs) == {"map", "logits"}
    assert figures.parity.agreement == min(one.agreement for one in figures.parity.outputs.values()) >= 0.9
    assert figures.parity.max_abs_diff == max(one.max_abs_diff for one in figures.parity.outputs.values())
    assert figures.accuracy.value >= (1.0 if precision == "fp32" else 0.6)
    with np.load(folder / f"out-{kit}-{precision}" / figures.samples) as raw:
        assert raw["outputs"].shape == (40, 1, 5)


@pytest.mark.parametrize("kit", KITS)
def test_a_wrong_output_shows_though_the_metrics_output_is_right(pairs, kit, tmp_path):
    with np.load(pairs["fp32"].parent / "io.npz") as recorded:
        arrays = {name: recorded[name] for name in recorded.files}
    arrays["expected.fp32.map"] = arrays["expected.fp32.map"][:, :, ::-1]
    np.savez(tmp_path / "io.npz", **arrays)
    _, made, _ = compile_with(kit, pairs["fp32"], tmp_path / "out")
    one = arm("pair", TARGETS / kit, tmp_path / "out" / made["entry"], expected="fp32", metric="top1", output="logits")
    _, results, _ = harness("check", write_job(tmp_path, [one]))
    parity = results[0]["check"]["parity"]
    assert parity["outputs"]["logits"]["agreement"] == 1.0
    assert parity["outputs"]["map"]["agreement"] == parity["agreement"] < 0.5
    assert parity["outputs"]["map"]["max_abs_diff"] == parity["max_abs_diff"] > 0.1


@pytest.mark.parametrize("kit", KITS)
def test_inputs_and_outputs_keep_their_names_beside_nodes_that_change_nothing(kit, tmp_path):
    nodes = [
        helper.make_node("Identity", ["picture"], ["i"]), helper.make_node("Relu", ["i"], ["r"]),
        helper.make_node("Flatten", ["r"], ["flat"]), helper.make_node("Neg", ["r"], ["n"]),
        helper.make_node("Reshape", ["n", "shape"], ["logits"]),
    ]  # fmt: skip
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])
        for name in ("picture", "r", "flat", "logits")
    }
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 4])
    graph = helper.make_graph(
        nodes, "names", [values["picture"]], [values[name] for name in ("flat", "r", "logits")], [shape]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx"
    )
    record(tmp_path / "io.npz", {"fp32": tmp_path / "model.onnx"})
    code, made, _ = compile_with(kit, tmp_path / "model.onnx", tmp_path / "out")
    assert code == 0, made
    one = arm("names", TARGETS / kit, tmp_path / "out" / made["entry"], expected="fp32")
    _, (result,), _ = harness("check", write_job(tmp_path, [one]))
    assert "error" not in result, result
    assert set(result["check"]["parity"]["outputs"]) == {"flat", "r", "logits"}
    assert result["check"]["parity"]["max_abs_diff"] < 1e-6


@pytest.mark.parametrize("kit", KITS)
def test_garbage_is_refused_in_one_line_that_names_the_engine(kit, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    code, answer, _ = compile_with(kit, tmp_path / "bad.onnx", tmp_path / "out")
    assert code == 5
    assert answer["error"].startswith(f"{kit}: ")
    assert "\n" not in answer["error"]


@pytest.mark.parametrize("kit", KITS)
def test_an_unknown_precision_is_refused(kit, models, tmp_path):
    code, answer, _ = compile_with(kit, models["fp32"], tmp_path, "fp8")
    assert code == 5
    assert "precision 'fp8' is not one of: fp32, int8" in answer["error"]


@pytest.mark.parametrize("kit", KITS)
def test_an_engine_sends_nothing_home(kit, models, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code, _, _ = compile_with(kit, models["fp32"], tmp_path / "out", env=os.environ | {"HOME": str(home)})
    assert code == 0
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kit", KITS)
def test_a_kit_needs_neither_the_host_half_nor_torch(kit, models, tmp_path):
    """A device has numpy and the engine: importing anything else must fail there, and so it does here."""
    for name in ("torch", "edgedistill", "onnx", "scipy", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported on the device')\n")
    code, answer, _ = compile_with(
        kit, models["fp32"], tmp_path / "out", env=os.environ | {"PYTHONPATH": str(tmp_path)}
    )
    assert code == 0, answer


@pytest.mark.parametrize("kit", KITS)
def test_a_kit_runs_its_own_files_though_others_in_pythonpath_have_their_names(kit, models, tmp_path):
    for path in (TARGETS / kit).glob("*.py"):
        (tmp_path / path.name).write_text("raise SystemExit('a file of the user')\n")
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    code, answer, _ = compile_with(kit, models["fp32"], tmp_path / "out", env=env)
    assert code == 0, answer


@pytest.fixture(scope="module")
def ort_engine():
    spec = importlib.util.spec_from_file_location("ort_engine", TARGETS / "ort" / "engine.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the converter leaves files open
@pytest.mark.parametrize("form", ["fp32", "s8-i32", "u8-i32"])
def test_the_phone_form_is_what_the_official_converter_makes(models, ort_engine, form, tmp_path):
    from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

    precision = "fp32" if form == "fp32" else "int8"
    made = ort_engine.compile(models[form], tmp_path, precision, 1)
    ours = tmp_path / made["extras"][0]
    convert_onnx_models_to_ort(models[form], tmp_path / "official", [OptimizationStyle.Fixed], target_platform="arm")
    official = tmp_path / "official" / f"{form}.ort"
    assert operators(ours) == operators(official)
    assert not any(name.startswith("com.microsoft.nchwc") for name in operators(ours))
    x = np.random.default_rng(2).uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for path in (ours, official)
    ]
    np.testing.assert_array_equal(*answers)


def operators(path: Path) -> list[str]:
    """Return the operators of a graph in ORT format, in its order."""
    import onnxruntime.tools.ort_format_model  # noqa: F401 - makes the reader below importable
    from ort_flatbuffers_py.fbs.InferenceSession import InferenceSession

    graph = InferenceSession.GetRootAsInferenceSession(path.read_bytes(), 0).Model().Graph()
    nodes = [graph.Nodes(i) for i in range(graph.NodesLength())]
    return [f"{node.Domain().decode()}.{node.OpType().decode()}" for node in nodes]


def test_signed_activations_leave_ort_partly_in_float_on_x86(models, ort_engine, tmp_path):
    """The reason for the encodings in target.toml, and that the count tells."""
    ort_engine.compile(models["s8-f32"], tmp_path, "int8", 1)
    counts = ort_engine.count_layers((tmp_path / "model.ort").read_bytes())
    assert counts.get("fp32", 0) >= 1

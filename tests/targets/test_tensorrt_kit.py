"""The TensorRT kit from end to end on stand-ins, as there is no GPU here: its own code runs, in the harness's own processes.

standins/cuda.c stands in for libcuda and libcudart, standins/nvidia/tensorrt.py for TensorRT's module in the version asked for.
"""

import json
import os
import shutil

import numpy as np
import pytest
import trt_session

from edgedistill.records.measurement import Measurement
from tests.support.jobs import arm, harness, write_job
from tests.support.tensorrt_devices import KIT, STANDINS, build_cuda, build_models, compiled

VERSIONS = (
    pytest.param("8.5.2.2", marks=pytest.mark.slow),
    "11.4.0.106",
)  # JetPack 5.1's and the newest; the other tests are of JetPack 6.2's


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return build_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return build_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def device(cuda, tmp_path):
    """Return the environment of a device by the version of its TensorRT; caches are kept in the test's own folder."""

    def of(version, **more):
        return os.environ | {
            "LD_LIBRARY_PATH": str(cuda),
            "PYTHONPATH": str(STANDINS / "nvidia"),
            "STANDIN_TENSORRT": version,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        } | more  # fmt: skip

    return of


def arms(models, folder, env):
    """Compile both precisions into a folder, and return their arms."""
    found = []
    for precision, model in models.items():
        code, made, _ = compiled(model, folder / precision, precision, env)
        assert code == 0, made
        entry = folder / precision / made["entry"]
        found.append(arm(precision, KIT, entry) | {"precision": precision, "expected": precision, "metric": "top1"})
    shutil.copy(models["fp32"].parent / "io.npz", folder / "io.npz")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_version_is_measured_from_its_own_plan(version, device, models, tmp_path):
    env = device(version)
    job = write_job(tmp_path, arms(models, tmp_path, env), passes=["layers"])
    code, results, said = harness("bench", job, env=env)
    assert code == 0, said
    for result, precision in zip(results, models, strict=True):
        figures = Measurement.model_validate(result["measurement"])
        assert figures.device.engine.version == version
        assert figures.precision.executed == {precision: 3}
        assert figures.parity.max_abs_diff < 1e-5
        assert figures.accuracy.value >= 0.6  # the labels are the float model's answers
        assert 0 < figures.engine_latency_ns.p50 < figures.latency_ns.p50
        assert figures.threads == 1
        assert figures.processes[0].threads is None
        assert figures.settings["cuda_graph"] == "on"
        assert figures.settings["gpu"] == "Orin, compute capability 8.7, 16 multiprocessors"
        assert figures.settings["engine_ns_without_graph"] > 0
        assert figures.settings["activation_bytes"] == (4096 if version == "8.5.2.2" else 8192)
        assert figures.memory_bytes is None or figures.memory_bytes.device > 0
        assert [one.precision for one in figures.layers.layers] == [precision] * 3
        assert {one.ns for one in figures.layers.layers} == {0.25e6}


@pytest.mark.slow
def test_graphs_can_be_turned_off_and_what_no_graph_can_hold_runs_without(device, models, tmp_path):
    for more, said in (
        ({"EDGEDISTILL_CUDA_GRAPH": "off"}, "off, by EDGEDISTILL_CUDA_GRAPH"),
        ({"STANDIN_CAPTURE": "refused"}, "off, it cannot be captured: cudaStreamEndCapture: operation not permitted"),
    ):
        folder = tmp_path / next(iter(more))
        folder.mkdir()
        env = device("10.3.0", **more)
        job = write_job(folder, arms({"fp32": models["fp32"]}, folder, env), passes=[])
        code, results, words = harness("bench", job, env=env)
        assert code == 0, words
        figures = Measurement.model_validate(results[0]["measurement"])
        assert figures.settings["cuda_graph"].startswith(said)
        assert figures.parity.max_abs_diff < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"STANDIN_TENSORRT": "11.4.0.106"}, "it was built for TensorRT 10.3.0 on Orin (compute capability 8.7, 16"),
        ({"STANDIN_GPU": "Xavier"}, "but this device has TensorRT 10.3.0 on Xavier"),
    ],
)
def test_a_plan_of_another_place_is_built_again_or_refused_and_never_tried(change, why, device, models, tmp_path):
    """The stand-in for the runtime fails an assertion when it is given such a plan."""
    job = write_job(tmp_path, arms({"fp32": models["fp32"]}, tmp_path, device("10.3.0")))
    plan = tmp_path / "fp32" / "model.plan"
    before = plan.read_bytes()
    moved = device("10.3.0") | change
    (tmp_path / "fp32" / "model.onnx").rename(tmp_path / "model.onnx")
    code, results, _ = harness("check", job, env=moved)
    assert code == 5
    assert "tensorrt: model.plan was not loaded: it was built for TensorRT 10.3.0 on Orin" in results[0]["error"]
    assert why in results[0]["error"]
    assert "compile the model again on this device" in results[0]["error"]
    (tmp_path / "model.onnx").rename(tmp_path / "fp32" / "model.onnx")
    code, results, said = harness("check", job, env=moved)
    assert code == 0, said
    assert plan.read_bytes() != before
    assert harness("check", job, env=moved)[0] == 0


@pytest.mark.slow
def test_a_plan_that_was_exchanged_is_not_loaded(device, models, tmp_path):
    env = device("10.3.0")
    job = write_job(tmp_path, arms({"fp32": models["fp32"]}, tmp_path, env))
    (tmp_path / "fp32" / "model.onnx").unlink()
    plan = tmp_path / "fp32" / "model.plan"
    for spoil, why in (
        (lambda: plan.write_bytes(plan.read_bytes() + b"more"), "is not the file that model.plan.json describes"),
        ((tmp_path / "fp32" / "model.plan.json").unlink, "no record beside model.plan says"),
    ):
        spoil()
        code, results, _ = harness("check", job, env=env)
        assert code == 5
        assert why in results[0]["error"]


@pytest.mark.slow
def test_the_next_build_has_the_timings_of_the_last(device, models, tmp_path):
    env = device("10.3.0")
    for number in (1, 2):
        assert compiled(models["fp32"], tmp_path / "out", "fp32", env)[0] == 0
        (cache,) = (tmp_path / "cache" / "edgedistill-device").glob("tensorrt-*.timing")
        assert cache.read_bytes() == b"timed;" * number
    cache.write_bytes(b"spoilt")
    assert compiled(models["fp32"], tmp_path / "out", "fp32", env)[0] == 0
    assert cache.read_bytes() == b"timed;"


def test_a_build_needs_no_folder_for_its_timings(device, models, tmp_path):
    (tmp_path / "file").touch()
    code, made, _ = compiled(
        models["fp32"], tmp_path / "out", "fp32", device("10.3.0", XDG_CACHE_HOME=str(tmp_path / "file"))
    )
    assert code == 0, made


def test_tensorrts_own_words_are_passed_on(device, models, tmp_path):
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    code, answer, _ = compiled(bad, tmp_path / "out", "fp32", device("8.5.2.2"))
    assert code == 5
    assert answer["error"].startswith("tensorrt: TensorRT 8.5.2.2 cannot read the model: Failed to parse the model")
    code, answer, _ = compiled(models["fp32"], tmp_path / "out", "fp8", device("8.5.2.2"))
    assert "precision 'fp8' is not one of: fp32, fp16, int8" in answer["error"]


def test_a_float_model_does_not_pass_for_int8_or_fp16(device, models, tmp_path):
    env = device("10.3.0")
    for precision in ("int8", "fp16"):
        folder = tmp_path / precision
        folder.mkdir()
        (made,) = arms({"fp32": models["fp32"]}, folder, env)
        code, answer, _ = compiled(models["fp32"], folder / "fake", precision, env)
        assert code == 0, answer
        fake = made | {"precision": precision, "entry": str(folder / "fake" / "model.plan")}
        code, results, _ = harness("check", write_job(folder, [fake]), env=env)
        assert code == 5
        assert f"{precision} was requested, but no layer runs in {precision}" in results[0]["error"]


def probed(env):
    return harness("probe", "--kit", KIT, env=env)[1]["engine"]


def test_what_is_missing_is_named_with_the_next_step(device, cuda, tmp_path):
    bare = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(cuda)}
    assert probed(device("10.3.0")) == {"name": "tensorrt", "version": "10.3.0"}
    nothing = probed(os.environ | bare)["error"]
    assert nothing.startswith("tensorrt: No module named 'tensorrt'")
    assert "trtexec is neither in PATH nor at /usr/src/tensorrt/bin/trtexec" in nothing
    no_driver = probed(device("10.3.0") | {"LD_LIBRARY_PATH": str(tmp_path)})["error"]
    assert "no NVIDIA driver was found (libcuda.so.1)" in no_driver or "libcudart.so" in no_driver
    assert "cuInit returned 100" in probed(device("10.3.0", STANDIN_NO_GPU="1"))["error"]


def test_int64_becomes_int32_only_where_nothing_is_lost():
    fits = np.array([[2**31 - 1, -(2**31)]])
    assert trt_session.as_int32(fits, "tokens").dtype == np.int32
    np.testing.assert_array_equal(trt_session.as_int32(fits, "tokens"), fits)
    with pytest.raises(ValueError, match="input 'tokens' has values outside int32's range"):
        trt_session.as_int32(np.array([2**31]), "tokens")


def test_the_record_of_a_plan_is_readable_by_others(device, models, tmp_path):
    code, made, _ = compiled(models["int8"], tmp_path, "int8", device("10.3.0"))
    assert code == 0
    assert made["files"] == ["model.plan", "model.plan.json"]
    kept = json.loads((tmp_path / "model.plan.json").read_text(encoding="utf-8"))
    assert kept["schema"] == "edgedistill.trt_plan/1"
    assert (kept["gpu"], kept["compute_capability"], kept["multiprocessors"]) == ("Orin", "8.7", 16)
    assert (kept["tensorrt"], kept["precision"]) == ("10.3.0", "int8")

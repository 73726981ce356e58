"""trtexec's outputs as they were recorded, and the kit by trtexec from end to end, which a stand-in replays."""

import json
import os
import stat
import sys

import numpy as np
import pytest
import trt_exec
import trt_layers
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.records.measurement import Measurement
from tests.support.jobs import arm, harness, write_job
from tests.support.recordings import RECORDED, recorded
from tests.support.tensorrt_devices import KIT, STANDINS, build_cuda, build_models, compiled


@pytest.mark.parametrize(
    ("log", "version", "gpu", "inputs"),
    [
        ("tensorrt-trtexec-8.5.log", (8, 5, 2), ("Xavier", "7.2", 6), {"image_input": (1, 3, 48, 96)}),
        (
            "tensorrt-trtexec-10.9.log", (10, 9, 0), ("NVIDIA GeForce RTX 3070", "8.6", 46),
            {"gpu_0/data_0": (1, 3, 224, 224)},
        ),
    ],
)  # fmt: skip
def test_a_recorded_log_tells_version_gpu_inputs_and_conditions(log, version, gpu, inputs):
    text = recorded(log)
    assert trt_exec.read_version(text) == version
    assert tuple(trt_exec.read_gpu(text)) == gpu
    assert trt_exec.read_inputs(text) == inputs
    by_default = {"Data transfers": "Enabled", "Spin-wait": "Disabled", "CUDA Graph": "Disabled"}
    assert trt_exec.read_back(text, by_default) == by_default
    with pytest.raises(
        trt_exec.TrtexecError, match="'CUDA Graph: Enabled' was requested, but trtexec's log says Disabled"
    ):
        trt_exec.read_back(text, by_default | {"CUDA Graph": "Enabled"})
    with pytest.raises(trt_exec.TrtexecError, match="'Fans: Enabled' was requested, but trtexec's log does not say"):
        trt_exec.read_back(text, {"Fans": "Enabled"})


def test_a_refusal_is_told_in_trtexecs_own_words():
    text = recorded("tensorrt-trtexec-11.2-failed.log")
    assert trt_exec.read_version(text) == (11, 2, 1)
    assert trt_exec.errors(text).startswith("[TRT] ITensor::getDimensions: Error Code 4: API Usage Error (/Sub: Elem")
    assert trt_exec.errors("no such thing\n\n") == "no such thing"
    assert trt_exec.errors("") == "nothing"


def test_recorded_times_become_nanoseconds():
    with_copies, alone = trt_exec.read_times(recorded("tensorrt-times.json"))
    assert alone.tolist() == [484512, 470400, 474944, 474944, 474464, 475136]
    np.testing.assert_array_equal(with_copies, alone)  # recorded without copies
    with pytest.raises(trt_exec.TrtexecError, match="no times"):
        trt_exec.read_times("[]")


def test_recorded_layers_have_the_precision_that_they_ran_in():
    layers = trt_layers.read_layers(recorded("tensorrt-layers.json"))
    assert trt_layers.count(layers) == ({"int8": 3}, None)
    assert [layer.precision for layer in layers] == ["fp32", "int8", "int8", "int8", "int8", "fp32"]
    timed = trt_layers.timed(layers, trt_exec.read_profile(recorded("tensorrt-profile.json")))
    assert [(one["type"], one["precision"], round(one["ns"])) for one in timed] == [
        ("Reformat", "fp32", 95232), ("ConvActPool", "int8", 71680), ("CaskConvolution", "int8", 31744),
        ("CaskConvolution", "int8", 34816), ("CudaPooling", "int8", 15360), ("NoOp", "fp32", 0),
    ]  # fmt: skip


def layers_of(*layers):
    return trt_layers.read_layers(json.dumps({"Layers": list(layers)}))


def tensors(*kinds, key="Format/Datatype"):
    return [{"Name": "t", key: kind} for kind in kinds]


@pytest.mark.parametrize(
    ("layer", "counted"),
    [
        # Written down in public tests of layer JSON by TensorRT 10; 11 splits `Format/Datatype`, as NVIDIA's guide says.
        ({"LayerType": "gemm", "Name": "qk", "Inputs": tensors("Half", "Half")}, {"fp16": 1}),
        ({"LayerType": "CaskConvolution", "Name": "c", "Inputs": tensors("BFloat16", key="Datatype")}, {"bf16": 1}),
        (
            {"LayerType": "fusion", "Name": "__myl_FcCastAddErf", "TacticName": "sm80_xmma_gemm_i8i8_i8i32_f32_tn",
             "Inputs": tensors("Int8")},
            {"int8": 1},
        ),
        ({"LayerType": "fusion", "Name": "__myl_AddRelu", "TacticName": "pointwise_vectorized", "Inputs": []}, {}),
        ({"LayerType": "kgen", "Name": "__myl_CastCastAddMaxCast_fused", "Inputs": tensors("Half", "Half")}, {}),
        ({"LayerType": "Reformat", "Name": "cast_in", "Inputs": tensors("Float")}, {}),
        # What a generated kernel multiplies, as TensorRT-RTX names it: rounded data and int8 weights, or cast back to floats.
        (
            {"LayerType": "kgen", "Name": "__myl_MulRounCastCorrAdd", "Inputs": tensors("Float", key="Datatype"),
             "Constants": tensors("Int8", key="Datatype")},
            {"int8": 1},
        ),
        (
            {"LayerType": "kgen", "Name": "__myl_CastMulCorr", "Inputs": tensors("Int8", "Half", key="Datatype"),
             "Constants": tensors("Int8", key="Datatype")},
            {"fp16": 1},
        ),
    ],
)  # fmt: skip
def test_layers_of_newer_versions_are_told_apart(layer, counted):
    assert trt_layers.count(layers_of(layer)) == (counted, None)


def test_names_parted_by_control_characters_are_read():
    text = '{"Layers": [{"Name": "c", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]"}]}'
    assert [layer.name for layer in trt_layers.read_layers(text)] == ["c"]


def test_what_hides_its_products_makes_the_precision_unknown():
    known = {"LayerType": "CaskConvolution", "Name": "c", "Weights": {"Type": "Half", "Count": 9}, "Inputs": []}
    hidden = {"LayerType": "Myelin", "Name": "{ForeignNode[lstm_W...Max_reduce_min]}", "Inputs": tensors("FP16")}
    counts, reason = trt_layers.count(layers_of(known, hidden))
    assert counts is None
    assert reason == "TensorRT does not report the precision inside {ForeignNode[lstm_W...Max_reduce_min]}"
    with pytest.raises(ValueError, match="lists its layers by name only"):
        trt_layers.read_layers('{"Layers": ["conv1 + PWN(re_lu_clip)"], "Bindings": ["x"]}')


@given(st.lists(st.sampled_from(["nan", "-nan", "inf", "-inf", "0.5", "nan(ind)"]), min_size=1))
def test_numbers_that_json_has_no_word_for_are_read(words):
    read = trt_exec.parse("[ " + ", ".join(words) + " ]")
    for word, value in zip(words, read, strict=True):
        if "nan" in word:
            assert np.isnan(value)
        else:
            assert value == float(word)


def test_a_name_with_nan_in_it_stays():
    assert trt_exec.parse('[{"name" : "inf, nan ]", "timeMs" : nan }]')[0]["name"] == "inf, nan ]"


@pytest.mark.parametrize(
    ("version", "precision", "flags"),
    [
        ((8, 5, 2), "fp16", ["--noTF32", "--profilingVerbosity=detailed", "--buildOnly", "--fp16"]),
        ((8, 6, 2), "int8", ["--noTF32", "--profilingVerbosity=detailed", "--skipInference", "--int8", "--fp16"]),
        ((10, 3, 0), "fp32", ["--noTF32", "--profilingVerbosity=detailed", "--skipInference", "--stronglyTyped"]),
        ((10, 3, 0), "int8", ["--noTF32", "--profilingVerbosity=detailed", "--skipInference", "--int8", "--fp16"]),
        ((11, 0, 0), "int8", ["--noTF32", "--profilingVerbosity=detailed", "--skipInference"]),
    ],
)
def test_a_version_is_told_what_it_knows(version, precision, flags):
    assert trt_exec.build_flags(version, precision) == flags


def test_files_whose_names_trtexec_would_take_apart_are_refused():
    assert trt_exec.quoted("loadInputs", {"x": "/a", "y": "/b"}) == "--loadInputs=x:/a,y:/b"
    with pytest.raises(trt_exec.TrtexecError, match="accepts no input or folder with a ':'"):
        trt_exec.quoted("loadInputs", {"serving:0": "/a"})


@pytest.fixture(scope="module")
def cuda(tmp_path_factory):
    return build_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return build_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def device(cuda, tmp_path):
    """Return the environment of a device that has trtexec and the driver, but neither Python's module nor libcudart."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "trtexec"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{STANDINS / 'trtexec.py'}' \"$@\"\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcuda.so.1").symlink_to(cuda / "libcuda.so.1")

    def of(version, **more):
        return os.environ | {
            "LD_LIBRARY_PATH": str(tmp_path / "lib"), "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "STANDIN_TENSORRT": version, "XDG_CACHE_HOME": str(tmp_path / "cache"),
        } | more  # fmt: skip

    return of


def test_a_build_needs_no_folder_for_its_timings(device, models, tmp_path):
    (tmp_path / "file").touch()
    code, made, _ = compiled(
        models["fp32"], tmp_path / "out", "fp32", device("10.3.0", XDG_CACHE_HOME=str(tmp_path / "file"))
    )
    assert code == 0, made


@pytest.mark.slow
@pytest.mark.parametrize("version", ["8.5.2", "11.0.0"])
def test_a_session_is_replayed_from_end_to_end(version, device, models, tmp_path):
    env = device(version)
    assert harness("probe", "--kit", KIT, env=env)[1]["engine"] == {"name": "tensorrt by trtexec", "version": version}
    code, made, _ = compiled(models["int8"], tmp_path / "int8", "int8", env)
    assert code == 0, made
    io = dict(np.load(models["int8"].parent / "io.npz"))
    np.savez(tmp_path / "io.npz", **{name: array[:3] for name, array in io.items()})
    one = arm("int8", KIT, tmp_path / "int8" / made["entry"])
    job = write_job(tmp_path, [one | {"precision": "int8", "expected": "int8", "metric": "top1"}],
                    passes=["throughput", "layers"])  # fmt: skip
    code, results, said = harness("bench", job, env=env)
    assert code == 0, said
    figures = Measurement.model_validate(results[0]["measurement"])
    assert figures.precision.executed == {"int8": 3}
    assert figures.parity.max_abs_diff < 1e-5  # six digits of values around 1
    assert figures.latency_ns.p50 == 474944
    assert figures.engine_latency_ns.p50 == 474944
    assert figures.latency_ns.n == 120
    assert figures.settings["CUDA Graph"] == "Enabled"
    assert figures.settings["Data transfers"] == "Enabled"
    assert figures.settings["timed_by"] == f"trtexec {version}"
    assert figures.memory_bytes is None
    assert figures.throughput is None
    assert "separate program" in figures.reasons["throughput"]
    assert [one.precision for one in figures.layers.layers] == ["fp32", "int8", "int8", "int8", "int8", "fp32"]


def test_a_condition_that_trtexec_did_not_keep_ends_the_run(device, models, tmp_path):
    env = device("10.3.0")
    code, made, _ = compiled(models["fp32"], tmp_path / "out", "fp32", env)
    assert code == 0, made
    (tmp_path / "io.npz").write_bytes((models["fp32"].parent / "io.npz").read_bytes())
    job = write_job(tmp_path, [arm("fp32", KIT, tmp_path / "out" / made["entry"])])
    code, results, _ = harness("check", job, env=env | {"STANDIN_TRTEXEC": "ignores graphs"})
    assert code == 5
    assert "'CUDA Graph: Enabled' was requested, but trtexec's log says Disabled" in results[0]["error"]


def test_every_recording_says_where_it_is_from():
    found = sorted(RECORDED.glob("tensorrt-*"))
    assert len(found) >= 6
    for path in found:
        if path.name != "tensorrt-names.json":  # by tensorrt_names.py
            assert path.read_text(encoding="utf-8").startswith("# ")

"""The TensorRT kit on a real GPU, where this machine has one; no machine that this has run on so far had.

What stands in for it elsewhere is in test_tensorrt_kit.py, test_tensorrt_trtexec.py and test_tensorrt_rtx.py.
"""

import json

import numpy as np
import onnx
import pytest

from edgedistill.graphs.encodings import encode
from edgedistill.graphs.float16 import to_float16
from edgedistill.graphs.opset import to_opset
from edgedistill.records.measurement import Measurement
from tests.support.jobs import arm, harness, write_job
from tests.support.tensorrt_devices import KIT, build_models, compiled


@pytest.fixture(scope="module")
def version():
    engine = harness("probe", "--kit", KIT)[1]["engine"]
    if "error" in engine:
        pytest.skip(engine["error"])
    return tuple(int(part) for part in engine["version"].split(".")[:2])


@pytest.fixture(scope="module")
def arms(version, tmp_path_factory):
    """Return an arm for each precision, in the form that this version takes, built here."""
    folder = tmp_path_factory.mktemp("gpu")
    models = build_models(folder)
    models["fp16"] = folder / "fp16.onnx"
    onnx.save(to_float16(onnx.load(str(models["fp32"]))), str(models["fp16"]))
    if version >= (11, 0):
        requests = {"x": np.load(folder / "io.npz")["input.x"][:2]}
        onnx.save(encode(to_opset(onnx.load(str(models["int8"])), 19, requests), "s8-f16"), str(models["int8"]))
    found = []
    for precision, model in models.items():
        code, made, _ = compiled(model, folder / precision, precision, None)
        assert code == 0, made
        expected = "int8" if precision == "int8" else "fp32"
        entry = folder / precision / made["entry"]
        found.append(arm(precision, KIT, entry) | {"precision": precision, "expected": expected, "metric": "top1"})
    return folder, found


def test_each_precision_is_built_checked_and_measured(arms):
    folder, made = arms
    code, results, said = harness(
        "bench", write_job(folder, made, processes=2, seconds=1.0, passes=["throughput", "layers"])
    )
    assert code == 0, said
    for result in results:
        figures = Measurement.model_validate(result["measurement"])
        wanted = figures.precision.requested
        assert figures.precision.executed is None or figures.precision.executed.get(wanted)
        assert figures.parity.max_abs_diff < {"fp32": 1e-3, "fp16": 0.05, "int8": 0.3}[wanted]
        assert figures.parity.agreement >= 0.9
        assert 0 < figures.engine_latency_ns.p50 < figures.latency_ns.p50
        assert figures.throughput.per_s >= figures.throughput.levels["1"]
        assert len(figures.layers.layers) >= 3


def test_a_plan_that_claims_another_gpu_is_built_again(arms):
    folder, made = arms
    record = folder / "fp32" / "model.plan.json"
    kept = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps(kept | {"gpu": "another"}), encoding="utf-8")
    code, _, said = harness("check", write_job(folder, made[:1]))
    assert code == 0, said
    assert json.loads(record.read_text(encoding="utf-8"))["gpu"] == kept["gpu"]

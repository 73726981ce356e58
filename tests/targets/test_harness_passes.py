"""The passes beside latency: the null model, throughput, the sustained run, the device examined."""

import json
import os
import sys

import null_model
import numpy as np
import onnx
import onnxruntime
import picture_pass
import pytest
import soak
import throughput
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.records.measurement import Measurement
from tests.support.jobs import ALL_PASSES, SCRIPTED, harness, scripted_arm, write_job

S = 1_000_000_000


def measure(folder, script=None, job=None, **changes):
    arm = scripted_arm(folder, "one", script, **changes)
    code, results, stderr = harness("bench", write_job(folder, [arm], **({"passes": ALL_PASSES} | (job or {}))))
    assert code == 0, results
    return Measurement.model_validate(results[0]["measurement"]), stderr


# --- the null model ----------------------------------------------------------------------------------------------------


def test_the_null_model_is_a_model_of_one_operator_that_onnx_and_an_engine_take(tmp_path):
    path = tmp_path / "null.onnx"
    path.write_bytes(null_model.null_onnx())
    onnx.checker.check_model(onnx.load(str(path)), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    request = null_model.requests()["input.x"][0] - 1
    assert np.array_equal(session.run(None, {"x": request})[0], np.zeros(null_model.SHAPE, np.float32))


@given(st.integers(0, 2**63 - 1))
def test_numbers_are_encoded_as_protobuf_does(value):
    encoded = null_model._varint(value)
    decoded = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(encoded))
    assert decoded == value
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80


def test_an_engine_that_takes_no_null_model_leaves_the_increment_and_a_reason(tmp_path):
    measured, _ = measure(tmp_path)  # the scripted engine's models are JSON
    assert measured.memory_bytes.net is None
    assert measured.memory_bytes.increment >= 0
    assert measured.memory_bytes.load_peak <= measured.memory_bytes.peak
    assert measured.reasons["memory_bytes.net"].startswith("the null model failed: scripted: ")
    assert measured.pictures is None
    assert measured.reasons["pictures"] == "not measured: the job has no pictures with a contract"


# --- throughput --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "threads", "expected"), [(1, 1, [1]), (2, 1, [1, 2]), (6, 1, [1, 2, 4, 6]), (8, 2, [1, 2, 4]), (4, 3, [1])]
)
def test_concurrency_is_doubled_up_to_what_the_cpus_have_room_for(cpus, threads, expected):
    assert throughput.levels(threads, "cpu", cpus) == expected


def test_a_gpu_has_no_such_bound():
    assert throughput.levels(8, "gpu", 2) == [1, 2, 4, 8, 16]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two streams need two CPUs")
def test_throughput_is_of_the_best_number_of_inferences_at_once(tmp_path):
    together = tmp_path / "together"
    measured, stderr = measure(
        tmp_path, {"seconds": 0.01, "together": str(together)}, job={"seconds": 0.4, "passes": ["throughput"]}
    )
    levels = measured.throughput.levels
    assert list(levels) == ["1", "2"]
    assert together.read_text() == "2"
    assert measured.throughput.per_s == max(levels.values()) == levels[str(measured.throughput.concurrency)]
    assert "bench one throughput" in stderr


def test_a_throughput_that_fails_costs_the_arm_nothing_else(tmp_path):
    measured, _ = measure(tmp_path, {"raises_in_threads": True})
    assert measured.throughput is None
    assert measured.reasons["throughput"] == "scripted: not in a thread"
    assert measured.latency_ns.p50 > 0


def test_passes_that_are_not_asked_for_are_not_taken(tmp_path):
    measured, stderr = measure(tmp_path, job={"passes": []})
    assert measured.throughput is None
    assert measured.reasons["memory_bytes.net"] == "not measured: the job does not request the null model"
    assert "throughput" not in stderr


# --- the sustained run -------------------------------------------------------------------------------------------------


def bins_of(p50_us):
    p50 = np.asarray(p50_us, np.float64) * 1000
    times = np.arange(len(p50)) * S + 7 * S
    return soak.Bins(times, np.full(len(p50), 100), np.full(len(p50), 99), p50, p50 * 1.2)


def sensors_of(**series):
    length = len(next(iter(series.values())))
    found = {name.replace("__", "."): np.asarray(values, np.float64) for name, values in series.items()}
    return found | {"time_ns": np.arange(length) * S + 7 * S}


def test_a_device_that_throttles_is_told_by_its_latency_and_its_clock():
    rng = np.random.default_rng(0)
    p50 = np.concatenate([rng.normal(100, 1, 120), rng.normal(140, 2, 180)])
    seen = sensors_of(
        clock_khz__cpu0=[1_900_000] * 118 + [1_200_000] * 182,
        temperature_c__cpu=np.linspace(45, 95, 300),
        throttle_count__oc3_event_cnt=[5] * 200 + [9] * 100,
    )
    found = soak.summary(bins_of(p50), seen)
    assert found["slowed_after_s"] == pytest.approx(120, abs=3)
    assert found["throttling"] == "oc3_event_cnt rose by 4; cpu0 fell from 1900 to 1200 MHz"
    assert found["p50_end_ns"] / found["p50_start_ns"] == pytest.approx(1.4, rel=0.02)
    assert found["sensors"]["temperature_c.cpu"] == {"start": 45.0, "end": 95.0, "max": 95.0}


def test_a_device_that_other_work_slowed_is_not_said_to_throttle():
    p50 = [100.0] * 60 + [130.0] * 60
    found = soak.summary(bins_of(p50), sensors_of(clock_khz__cpu0=[1_900_000] * 120))
    assert found["slowed_after_s"] == pytest.approx(60, abs=2)
    assert found["throttling"] is None


@pytest.mark.parametrize(
    "p50",
    [
        [100.0] * 120,
        [100.0] * 50 + [150.0] * 20 + [100.0] * 50,  # it recovered
        [100.0, 140.0] * 60,  # one bin in two: no onset
        [100.0] * 118 + [150.0] * 2,  # too short to be told
        [150.0] * 60 + [100.0] * 60,  # faster
        [100.0],
    ],
)
def test_what_is_no_lasting_slowdown_has_no_onset(p50):
    assert soak.summary(bins_of(p50), sensors_of(clock_khz__cpu0=[1.0] * len(p50)))["slowed_after_s"] is None


def test_a_throttle_alarm_is_told_without_a_slowdown():
    found = soak.summary(bins_of([100.0] * 30), sensors_of(throttle_alarms=[0] * 20 + [1] * 10))
    assert found["throttling"] == "a throttle alarm was on"


def test_sensors_that_go_silent_do_not_disturb_the_summary():
    seen = sensors_of(temperature_c__gpu=[50, np.nan, np.nan], throttle_count__oc1_event_cnt=[np.nan] * 3)
    found = soak.summary(bins_of([100.0] * 3), seen)
    assert found["sensors"]["temperature_c.gpu"] == {"start": 50.0, "end": 50.0, "max": 50.0}
    assert found["sensors"]["throttle_count.oc1_event_cnt"] == {"start": None, "end": None, "max": None}


@pytest.mark.slow
def test_a_sustained_run_keeps_its_series(tmp_path):
    script = {"seconds": 0.001}
    measured, stderr = measure(tmp_path, script, job={"soak_seconds": 12, "passes": [], "seconds": 0.05})
    run = measured.soak
    assert run.seconds >= 12
    assert run.p50_end_ns > 1_000_000
    assert run.power_source is None
    assert run.power_reason.startswith("no energy counter: ")
    assert "bench one soak p50" in stderr
    with np.load(tmp_path / "measurements" / measured.samples) as raw:
        assert len(raw["soak.time_ns"]) == len(raw["soak.p50_ns"]) == len(raw["soak.p95_ns"]) >= 8
        assert raw["soak.n"].sum() == run.n
        assert np.all(raw["soak.n_clean"] <= raw["soak.n"])
        assert len(raw["soak.sensor_time_ns"]) >= 8


# --- the rest ----------------------------------------------------------------------------------------------------------


def test_an_engine_with_a_clock_of_its_own_has_both_latencies(tmp_path):
    measured, _ = measure(
        tmp_path, {"seconds": 0.001, "engine_ns": 900_000, "device_bytes": 4096}, kit_dir=clocked(tmp_path)
    )
    assert measured.engine_latency_ns.p50 == 900_000
    assert measured.latency_ns.p50 > 1_000_000
    assert measured.memory_bytes.device == 4096
    with np.load(tmp_path / "measurements" / measured.samples) as raw:
        assert set(raw["engine_ns"]) == {900_000}


def clocked(folder):
    """Return a kit whose sessions have the two methods that an engine may add."""
    kit = folder / "clocked"
    kit.mkdir()
    text = (SCRIPTED / "engine.py").read_text(encoding="utf-8")
    more = "    def engine_ns(self):\n        return self.script['engine_ns']\n\n    def device_bytes(self):\n        return self.script['device_bytes']\n"
    (kit / "engine.py").write_text(f"{text}\n{more}", encoding="utf-8")
    return str(kit)


def test_an_engine_with_other_threads_than_asked_for_is_refused(tmp_path):
    arm = scripted_arm(tmp_path, "one", {"threads": 4})
    code, results, _ = harness("bench", write_job(tmp_path, [arm]))
    assert code == 5
    assert results[0]["error"] == "scripted: 1 threads were requested, but the engine has 4"


def test_every_process_has_its_percentiles_intervals_and_company(tmp_path):
    measured, _ = measure(tmp_path, job={"seconds": 0.3, "passes": []})
    (process,) = measured.processes
    low, high = process.ci95_ns["p50"]
    assert low <= process.percentiles_ns["p50"] == process.p50_ns <= high
    assert process.percentiles_ns["p99"] is not None
    assert process.drift > 0
    if sys.platform == "linux":
        assert 0 <= process.others <= 1
        assert process.wait_ns >= 0
        assert process.steady_bytes <= process.peak_bytes


def test_a_measurement_has_the_device_before_and_after(tmp_path):
    measured, _ = measure(tmp_path, job={"passes": []})
    assert measured.environment.before.load_average is not None
    assert measured.environment.after.throttle_counts == measured.environment.before.throttle_counts


def test_examine_tells_what_would_disturb():
    code, found, _ = harness("examine")
    assert code == 0
    assert set(found) == {
        "snapshot", "drivers", "power_modes", "cpus_busy", "timed_cpus", "siblings", "energy",
    }  # fmt: skip
    assert set(found["energy"]) == {"cpu", "gpu"}
    assert json.dumps(found, allow_nan=False)


# --- whole pictures ----------------------------------------------------------------------------------------------------

CONTRACT = {
    "task": "classification", "classes": ["a", "b", "c"], "input": "x", "output": "y", "probabilities": False,
    "reason": None, "threshold": None, "detection": None,
    "picture": {
        "width": 3, "height": 1, "rule": "stretch", "padding": 0, "colour": "grey", "dtype": "float32", "layout": "NHW",
        "divide_by": 255.0, "mean": None, "std": None,
    },
}  # fmt: skip


def test_whole_pictures_are_timed_in_steps(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "pictures.npz", a=rng.integers(0, 255, (20, 30), np.uint8), b=np.zeros((8, 9), np.uint8))
    job = {"passes": ["pictures"]}
    measured, _ = measure(tmp_path, job=job, contract=CONTRACT, pictures="pictures.npz")
    took = measured.pictures
    assert took.sizes == ((30, 20), (9, 8))
    assert took.n >= picture_pass.FEWEST
    assert min(took.preprocess_ns, took.network_ns, took.postprocess_ns) > 0
    assert took.total_ns >= max(took.preprocess_ns, took.network_ns, took.postprocess_ns)


def test_the_times_of_pictures_are_medians():
    found = picture_pass.summary(np.array([[1, 20, 3], [2, 10, 4], [9, 30, 5]]), [[4, 3]])
    assert found == {
        "preprocess_ns": 2,
        "network_ns": 20,
        "postprocess_ns": 4,
        "total_ns": 24,
        "n": 3,
        "sizes": [[4, 3]],
    }

import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sampling

from edgedistill.records.measurement import Measurement
from tests.support.jobs import ALL_PASSES, SCRIPTED, TARGETS, arm, harness, scripted_arm, write_job


def run_one(folder, script=None, program=TARGETS / "harness", job=None, **changes):
    """Run a job of one scripted arm and return its result and the harness's stderr."""
    path = write_job(folder, [scripted_arm(folder, "one", script, **changes)], **(job or {}))
    _, results, stderr = harness("bench", path, program=program)
    assert isinstance(results, list), results
    return results[0], stderr


def test_a_measurement_has_the_schema_and_its_raw_samples(tmp_path):
    result, stderr = run_one(tmp_path, expected="same", metric="top1", job={"processes": 3})
    measured = Measurement.model_validate(result["measurement"])
    assert Measurement.model_validate_json((tmp_path / "measurements" / "one.json").read_text()) == measured
    assert measured.accuracy.value == 1.0
    assert measured.accuracy.n == 40
    assert measured.parity.max_abs_diff == 0.0
    assert measured.model.lineage == {"teacher": "1" * 64}
    assert measured.device.engine.name == "scripted"
    assert measured.throughput_per_s > 0
    with np.load(tmp_path / "measurements" / measured.samples) as raw:
        assert len(raw["latency_ns"]) == len(raw["preempted"]) == len(raw["process"])
        assert set(raw["process"]) == set(raw["warmup_process"]) == {0, 1, 2}
        assert raw["outputs"].shape == (40, 1, 3)
        assert np.count_nonzero(~raw["preempted"]) == measured.latency_ns.n
        assert len(raw["warmup_ns"]) == sum(process.warmup_n for process in measured.processes)
    assert "bench one check top1 1.0000" in stderr
    assert "bench one process 3/3 p50" in stderr


@pytest.mark.parametrize(("inference_s", "process_s"), [(0.0003, 1.3), (0.1, 16.2), (3.0, 58.0)])
def test_slow_models_are_timed_until_there_are_enough_samples(inference_s, process_s):
    # Warm-ups of 0.25, 5 and 10 s; 93, 28 and 4 bursts of 0.0112, 0.4 and 12 s, three of them rehearsals: 368 samples would take longer.
    assert sampling.process_s(1.0, inference_s) == pytest.approx(process_s, rel=0.01)


def test_a_bench_says_how_long_the_timing_takes(tmp_path):
    _, stderr = run_one(tmp_path, {"seconds": 0.04}, job={"processes": 2})
    announced = re.search(r"bench: timing 1 model takes at least (\d+) s", stderr)
    assert int(announced[1]) >= 3, "warm-up, rehearsals and samples: 0.5 s each, in two processes"


def test_nothing_but_the_results_is_left_behind(tmp_path):
    run_one(tmp_path)
    assert sorted(path.name for path in (tmp_path / "measurements").iterdir()) == ["one.json", "one.npz"]


def test_what_is_not_measured_is_null_with_a_reason(tmp_path):
    measured = run_one(
        tmp_path,
        {"executed": None, "unknown": "a closed format"},
        reasons={"accuracy": "random inputs"},
        job={"passes": ALL_PASSES},
    )
    measured = measured[0]["measurement"]
    assert measured["accuracy"] is None
    assert measured["parity"] is None
    assert measured["precision"]["executed"] is None
    assert measured["reasons"]["accuracy"] == "random inputs"
    assert measured["reasons"]["parity"] == "no expected outputs were recorded"
    assert measured["reasons"]["precision.executed"] == "a closed format"
    if measured["energy_uj"] is None:
        assert measured["reasons"]["energy_uj"].startswith("no energy counter: ")


def test_parity_reports_the_largest_difference(tmp_path):
    parity = run_one(tmp_path, expected="more")[0]["measurement"]["parity"]
    assert parity == {"max_abs_diff": 0.5, "agreement": 1.0}


def test_disagreeing_answers_lower_the_agreement(tmp_path):
    parity = run_one(tmp_path, {"factor": -1.0}, expected="same")[0]["measurement"]["parity"]
    assert parity["agreement"] == 0.0


def check_one(folder, script=None, **changes):
    _, results, _ = harness("check", write_job(folder, [scripted_arm(folder, "one", script, **changes)]))
    return results[0]


def test_the_metric_reads_the_output_that_the_arm_names(tmp_path):
    script = {"factor": -1.0, "outputs": {"z": 1.0}}
    assert check_one(tmp_path, script, metric="top1")["check"]["accuracy"]["value"] == 0.0
    assert check_one(tmp_path, script, metric="top1", output="z")["check"]["accuracy"]["value"] == 1.0


def test_an_output_that_does_not_exist_is_refused(tmp_path):
    text = check_one(tmp_path, output="boxes")["error"]
    assert text == "scripted: the job names output 'boxes', but the model's outputs are: y"


def test_an_output_that_changes_its_shape_is_refused_in_words(tmp_path):
    text = check_one(tmp_path, {"grows": True}, expected="same")["error"]
    assert text.startswith("scripted: the shape of output 'y' changes from request to request ([1, 1], [1, 2], [1, 3])")


def test_the_threshold_of_an_arm_reaches_the_agreement(tmp_path):
    inputs = np.array([[[0.7, 0.2]], [[0.1, 0.6]]], np.float32)
    np.savez(tmp_path / "io.npz", **{"input.x": inputs, "expected.half.y": inputs / 2, "labels": inputs[:, 0] > 0.5})
    found = {
        threshold: check_one(tmp_path, metric="mean_ap", expected="half", threshold=threshold)["check"]
        for threshold in (0.0, 0.5)
    }
    assert found[0.0]["parity"]["agreement"] == 1.0
    assert found[0.5]["parity"]["agreement"] == 0.5
    assert found[0.5]["accuracy"]["value"] == 1.0


def test_infinite_answers_where_numbers_are_expected_fail_the_arm(tmp_path):
    result, _ = run_one(tmp_path, {"factor": 1e39}, expected="same")
    assert "infinite or undefined" in result["error"]


def test_a_failing_arm_does_not_stop_the_others(tmp_path):
    scripts = {
        "good": {},
        "killed": {"dies_at": 3, "signal": "SIGSEGV"},
        "late": {"dies_at": 45, "signal": "SIGABRT"},
        "raising": {"raises_at": 2},
    }
    arms = [scripted_arm(tmp_path, name, script) for name, script in scripts.items()]
    arms.append(arm("absent", tmp_path / "nowhere", tmp_path / "good.json"))
    code, results, _ = harness("bench", write_job(tmp_path, arms))
    assert code == 5
    errors = {result["name"]: result.get("error") for result in results}
    assert errors == {
        "good": None,
        "killed": "scripted: the process was killed by SIGSEGV",
        "late": "scripted: the process was killed by SIGABRT",
        "raising": "scripted: first line second line",
        "absent": "nowhere: No module named 'engine'",
    }
    assert sorted(path.name for path in (tmp_path / "measurements").iterdir()) == ["good.json", "good.npz"]


@pytest.mark.parametrize(
    ("precision", "executed", "words"),
    [
        ("int8", {"fp32": 4}, "int8 was requested, but no layer runs in int8"),
        ("fp32", {"fp32": 1, "bf16": 3}, "fp32 was requested, but layers run in bf16"),
    ],
)
def test_another_precision_than_asked_for_is_refused(tmp_path, precision, executed, words):
    result, _ = run_one(tmp_path, {"executed": executed}, precision=precision)
    assert words in result["error"]


def test_more_threads_than_the_device_has_are_refused(tmp_path):
    result, _ = run_one(tmp_path, threads=1000)
    assert "1000 threads were requested" in result["error"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not bind processes to CPUs")
def test_a_process_is_bound_to_the_last_cpus_and_says_so(tmp_path):
    measured = run_one(tmp_path)[0]["measurement"]
    assert measured["processes"][0]["affinity"] == sorted(os.sched_getaffinity(0))[-1:]
    assert measured["processes"][0]["threads"] == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two threads need two CPUs")
def test_two_threads_get_two_cpus(tmp_path):
    process = run_one(tmp_path, threads=2)[0]["measurement"]["processes"][0]
    assert len(process["affinity"]) == process["threads"] == 2


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_is_the_models_own(tmp_path):
    small = run_one(tmp_path)[0]["measurement"]["memory_bytes"]
    large = run_one(tmp_path, {"hold_bytes": 50_000_000})[0]["measurement"]["memory_bytes"]
    assert 49_500_000 <= large["increment"] - small["increment"] < 52_000_000  # the kernel counts in batches of pages
    assert small["increment"] < 4_000_000


def test_warm_up_goes_on_until_latency_is_steady(tmp_path):
    result, _ = run_one(tmp_path, {"cold_inferences": 120, "seconds": 0.001}, job={"seconds": 0.5})
    assert result["measurement"]["processes"][0]["warmup_n"] >= 100  # the last cold ones are as fast as warm ones


@pytest.mark.slow
def test_a_slow_model_is_sampled_past_the_time_but_not_for_ever(tmp_path):
    result, _ = run_one(tmp_path, {"seconds": 0.03}, job={"seconds": 0.1})
    process = result["measurement"]["processes"][0]
    assert 20 <= process["n"] <= 34  # 10 times 0.1 s at 30 ms, not 50 samples
    assert not process["steady"]
    assert "steady" in result["measurement"]["reasons"]["processes"]


def test_the_harness_runs_from_inside_a_zip(tmp_path):
    program = tmp_path / "harness.pyz"
    with zipfile.ZipFile(program, "w") as archive:
        for path in sorted((TARGETS / "harness").rglob("*.*")):
            archive.write(path, path.relative_to(TARGETS / "harness"))
        archive.write(SCRIPTED / "engine.py", "kits/scripted/engine.py")
    result, _ = run_one(tmp_path, program=program, expected="same", kit_dir=str(program / "kits" / "scripted"))
    assert result["measurement"]["parity"]["agreement"] == 1.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": "edgedistill.job/2"}, "this harness reads edgedistill.job/1"),
        ({"processes": 0}, "both must be above 0"),
        ({"arms": []}, "a job needs at least one arm"),
        ({"arms": [{"name": "a", "speed": 1}]}, "arm 'a' has unknown keys: speed"),
        ({"arms": [{"name": "a"}]}, "arm 'a' lacks the keys: address"),
    ],
)
def test_a_wrong_job_is_refused_before_anything_runs(tmp_path, changes, words):
    code, answer, _ = harness("bench", write_job(tmp_path, **{"arms": [], **changes}))
    assert code == 2
    assert words in answer["error"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "mAP"}, "the unknown metric 'mAP'; the metrics are: top1"),
        ({"name": "../a"}, "must not contain '/'"),
        ({"output": 1}, "arm 'a' has output 1; it must be the name of an output, or null"),
        ({"threshold": "half"}, "arm 'a' has threshold 'half'; it must be a number"),
    ],
)
def test_an_arm_with_a_wrong_key_is_refused(tmp_path, change, words):
    code, answer, _ = harness("bench", write_job(tmp_path, [scripted_arm(tmp_path, "a") | change]))
    assert code == 2
    assert words in answer["error"]


def test_a_kit_without_one_of_its_functions_is_refused(tmp_path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "engine.py").write_text("def describe():\n    return {}\n", encoding="utf-8")
    code, facts, _ = harness("probe", "--kit", tmp_path / "half")
    assert code == 0
    assert facts["engine"] == {"error": "half: engine.py has no function 'compile'"}


def test_a_job_that_is_no_json_or_absent_is_refused(tmp_path):
    (tmp_path / "job.json").write_text("{", encoding="utf-8")
    assert "not JSON" in harness("bench", tmp_path / "job.json")[1]["error"]
    assert "No such file" in harness("bench", tmp_path / "other.json")[1]["error"]


def test_probe_describes_the_device_with_and_without_a_kit(tmp_path):
    code, facts, _ = harness("probe")
    assert code == 0
    assert "engine" not in facts
    assert len(facts["id"]) == 16
    assert harness("probe", "--kit", SCRIPTED)[1]["engine"]["name"] == "scripted"
    assert "No module named" in harness("probe", "--kit", tmp_path)[1]["engine"]["error"]


def test_a_refused_model_is_one_line_that_names_the_engine(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"refuse": "Exception from src/a.cpp:1:\nno such operator: Foo\n"}))
    arguments = ("--kit", SCRIPTED, "--model", tmp_path / "m.json", "--precision", "fp32", "--out", tmp_path / "out")
    code, answer, stderr = harness("compile", *arguments)
    assert (code, answer) == (5, {"error": "scripted: no such operator: Foo"})
    assert stderr == ""

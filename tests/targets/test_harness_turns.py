"""Turns of the harness: the order of bursts, the arms that share a set, and what a set of real processes returns."""

import signal
import subprocess
import sys
import threading
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import stats
from process import Waiting
from turns import Need, schedule, sets

from edgedistill.records.measurement import Measurement
from tests.support.jobs import TARGETS, harness, scripted_arm, write_job
from tests.support.sshd import wait_until

MIB = 1 << 20


def rounds_of(bursts, seed="0/0"):
    return [[index for _, index in turn] for _, turn in groupby(schedule(bursts, seed), lambda one: one[0])]


def test_each_odd_round_is_the_reverse_of_the_round_before():
    rounds = rounds_of([40, 40, 40])
    assert len(rounds) == 40
    assert all(rounds[i + 1] == rounds[i][::-1] for i in range(0, 40, 2))
    assert len({tuple(one) for one in rounds}) == 6, "all orders occur"
    assert rounds == rounds_of([40, 40, 40])
    assert rounds != rounds_of([40, 40, 40], "0/1")


def test_a_process_with_long_bursts_takes_part_in_rounds_at_even_distances():
    turns = list(schedule([100, 7, 0], "1"))
    assert [index for _, index in turns].count(0) == 100
    slow = [turn for turn, index in turns if index == 1]
    assert len(slow) == 7
    assert set(np.diff(slow)) <= {14, 15}
    assert not [turn for turn, index in turns if index == 2], "an engine that is a separate program has no burst"


def test_processes_with_few_bursts_share_their_rounds():
    rounds = [{turn for turn, index in schedule([50, 9, 10], "1") if index == i} for i in range(3)]
    assert [len(one) for one in rounds] == [50, 9, 10]
    assert rounds[1] < rounds[2] < rounds[0]


@pytest.mark.parametrize(
    ("available", "division"),
    [(None, [[0, 1, 2]]), (1000 * MIB, [[0, 1, 2]]), (300 * MIB, [[0, 2], [1]]), (150 * MIB, [[0], [1], [2]])],
)
def test_arms_share_a_set_as_far_as_memory_allows(available, division):
    ort, other = ("ort", 1), ("openvino", 1)
    needs = [Need(ort, 100 * MIB), Need(other, 100 * MIB), Need(ort, 100 * MIB)]
    assert sets(needs, available) == division
    assert sets([Need(ort, None)] * 2, 1) == [[0, 1]], "what is not known is tried"


def test_models_on_a_gpu_share_a_set_if_the_gpu_has_room_for_all():
    def division(room):
        return sets([Need(("tensorrt", 1), 100 * MIB, 400 * MIB, room)] * 2, 1 << 40)

    assert division(2000 * MIB) == [[0, 1]]
    assert division(1000 * MIB) == [[0], [1]], "a second context and model take 1100 MiB"


def samples(*bursts):
    """Return samples of bursts (round, latencies in ns)."""
    latency = np.concatenate([np.array(values) for _, values in bursts])
    burst = np.concatenate([[turn] * len(values) for turn, values in bursts])
    return stats.Samples(latency, np.zeros(len(latency), bool), burst)


def test_the_ratio_is_the_median_over_shared_rounds():
    one = samples((0, [110, 110]), (1, [220, 221, 219]), (2, [999, 999]), (4, [300]))
    other = samples((0, [100]), (1, [200]), (2, [100]), (3, [1]), (4, [200]))
    assert stats.ratio(one, other) == pytest.approx((1.1 + 1.5) / 2)  # of 1.1, 1.1, 9.99 and 1.5
    assert stats.ratio(samples((0, [1])), samples((1, [1]))) is None


def test_the_ratio_of_bursts_that_were_preempted_throughout_leaves_out_the_time_without_a_cpu():
    burst, preempted = np.array([0, 0, 1, 1, 2, 2]), np.array([True, True, False, True, True, True])
    latency, waited = np.array([120, 160, 100, 180, 140, 200]), np.array([20, 60, 0, 80, 40, 300])
    one = stats.Samples(latency, preempted, burst, waited)
    assert one.running_medians() == {0: 100, 1: 100, 2: 150}, (
        "a waiting that is longer than the latency is not believed"
    )
    assert one.burst_medians() == {0: 140, 1: 100, 2: 170}
    other = samples((0, [100]), (1, [100]), (2, [100]))
    assert stats.ratio(one, other) == pytest.approx(1)
    assert stats.ratio(one._replace(waited_ns=np.zeros(0)), other) == pytest.approx(1.4)


def test_waiting_is_the_sum_over_the_threads_and_0_where_the_kernel_does_not_report_it(tmp_path):
    for task, waited in ("10", 300), ("11", 50):
        (tmp_path / task).mkdir()
        (tmp_path / task / "schedstat").write_text(f"1000 {waited} 7\n")
    waiting = Waiting(tmp_path)
    assert waiting.so_far_ns() == 350
    (tmp_path / "10" / "schedstat").write_text("1500 400 9\n")
    assert waiting.so_far_ns() == 450
    assert Waiting(tmp_path / "absent").so_far_ns() == 0


def test_a_thread_that_ends_keeps_its_waiting():
    ends = threading.Event()
    thread = threading.Thread(target=ends.wait)
    thread.start()
    waiting = Waiting()
    before = waiting.so_far_ns()
    ends.set()
    thread.join()
    assert waiting.so_far_ns() >= before >= 0


def test_how_long_threads_waited_for_a_cpu_is_kept_beside_each_latency(tmp_path):
    arms = [scripted_arm(tmp_path, name, {"seconds": seconds}) for name, seconds in (("a", 0.004), ("b", 0.0001))]
    code, results, _ = harness("bench", write_job(tmp_path, arms, processes=2, seconds=0.1))
    assert code == 0
    for one in results:
        with np.load(tmp_path / "measurements" / one["measurement"]["samples"]) as raw:
            assert raw["waited_ns"].shape == raw["latency_ns"].shape
            assert (raw["waited_ns"] >= 0).all()


def test_the_undisturbed_mode_and_its_share():
    fast, slow = [(turn, [205, 206, 204]) for turn in range(64)], [(turn, [275, 276, 274]) for turn in range(64, 100)]
    assert stats.undisturbed([samples(*fast, *slow)]) == {"p50": 205, "share": 0.64}
    assert stats.undisturbed([samples(*fast, *slow[:3])]) is None, "a few slow bursts are no mode"
    assert stats.undisturbed([stats.Samples(np.array([1.0]), np.array([False]))]) is None


def test_the_processes_of_a_set_take_turns(tmp_path):
    dying = {"seconds": 0.001, "dies_at": 60, "signal": "SIGSEGV"}  # after the check of 40 requests
    arms = [
        scripted_arm(tmp_path, name, script) for name, script in {"a": {}, "b": {"seconds": 0.004}, "c": dying}.items()
    ]
    code, results, _ = harness("bench", write_job(tmp_path, arms, processes=2, seconds=0.1))
    assert code == 5
    a, b = (Measurement.model_validate(one["measurement"]) for one in results[:2])
    assert "killed by SIGSEGV" in results[2]["error"]
    assert a.duet.id == b.duet.id
    assert (a.duet.arm, a.duet.caches) == ("a", "warm")
    assert list(a.duet.ratios) == ["b"], "the arm that failed is not there"
    assert len(a.duet.ratios["b"]) == 2
    for ratio, inverse in zip(a.duet.ratios["b"], b.duet.ratios["a"], strict=True):
        assert ratio * inverse == pytest.approx(1, rel=0.2)
    with np.load(tmp_path / "measurements" / a.samples) as raw:
        first = raw["process"] == 0
        assert a.processes[0].bursts == len(set(raw["burst"][first])) > 2
        assert a.processes[0].lead_n == (raw["lead_process"] == 0).sum() >= a.processes[0].bursts
        assert set(raw["lead_burst"]) == set(raw["burst"])
        counts = np.bincount(raw["burst"][first])
        assert counts[counts > 0].min() >= 3


def test_cold_caches_leave_no_inference_out(tmp_path):
    path = write_job(tmp_path, [scripted_arm(tmp_path, "a")], seconds=0.02, caches="cold")
    _, (result,), _ = harness("bench", path)
    assert result["measurement"]["duet"]["caches"] == "cold"
    assert result["measurement"]["processes"][0]["lead_n"] == 0
    code, answer, _ = harness("bench", write_job(tmp_path, [], caches="tepid"))
    assert code == 2
    assert "caches = 'tepid'; it must be one of: warm, cold" in answer["error"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are listed by Linux's /proc only")
def test_a_killed_harness_leaves_no_process_of_a_set(tmp_path):
    arms = [scripted_arm(tmp_path, name) for name in "ab"]
    command = [sys.executable, str(TARGETS / "harness"), "bench", str(write_job(tmp_path, arms, seconds=60))]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as bench:
        workers = wait_until(lambda: len(found := children(bench.pid)) == 2 and found)
        bench.send_signal(signal.SIGKILL)
    wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").is_dir()])


def children(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()

"""From readings and marks to energy per inference, and the pass that takes them."""

import json
import threading
import time
from contextlib import closing

import child
import energy_pass
import numpy as np
import pytest
from energy import Marks, Series, figures, meter, rapl, used_uj
from energy.figures import subtract_idle
from energy.source import NoSourceError
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from edgedistill.records.measurement import Energy, Measurement
from tests.support.jobs import TARGETS, harness, scripted_arm, write_job
from tests.support.recordings import plant, recorded

S = 1_000_000_000


def power(times_s, milliwatts):
    return Series(np.array(times_s) * S, np.array(milliwatts, np.float64), counts=False)


def test_power_is_integrated_between_readings_too():
    series = power(np.arange(0, 21), [1000 + 100 * t for t in range(21)])
    assert used_uj(series, 0, 20 * S) == pytest.approx(trapezoid(series.value, dx=1) * 1e3)
    # From 2.5 s to 17.5 s the power rises from 1250 to 2750 mW.
    assert used_uj(series, 5 * S // 2, 35 * S // 2) == pytest.approx(15 * 2000 * 1e3)


@given(st.lists(st.floats(0, 1e5), min_size=100, max_size=150), st.data())
def test_parts_of_a_time_add_up_to_the_whole(milliwatts, data):
    series = power(np.arange(len(milliwatts)) / 10, milliwatts)
    end = int(series.time_ns[-1])
    cut = data.draw(st.integers(end // 3, 2 * end // 3))
    whole = used_uj(series, 0, end)
    assert used_uj(series, 0, cut) + used_uj(series, cut, end) == pytest.approx(whole, rel=1e-6, abs=1e-3)


def test_readings_that_do_not_cover_the_time_are_refused():
    series = power(np.arange(2, 30), np.ones(28))
    for span in ((0, 20 * S), (5 * S, 31 * S)):
        with pytest.raises(NoSourceError, match="do not cover the whole"):
            used_uj(series, *span)
    with pytest.raises(NoSourceError, match="do not cover"):
        used_uj(power([], []), 0, S)


def test_a_gap_in_power_is_refused_and_one_in_a_counter_is_not():
    times = np.delete(np.arange(0, 21), [8, 9, 10])
    with pytest.raises(NoSourceError, match=r"no reading for 4\.00 s within a window of 20\.00 s"):
        used_uj(power(times, np.ones(18)), 0, 20 * S)
    counter = Series(times * S, times * 5000.0, counts=True)
    assert used_uj(counter, 0, 20 * S) == 100_000


def test_a_counter_that_was_not_read_about_the_ends_is_refused():
    counter = Series(np.array([0, 10 * S]), np.array([0.0, 1000.0]), counts=True)
    with pytest.raises(NoSourceError, match="no reading for 10"):
        used_uj(counter, 2 * S, 10 * S)


MARKS = Marks(
    before=(0, 10 * S), windows=[(12 * S, 22 * S), (22 * S, 32 * S)], after=(34 * S, 44 * S), counts=[100, 200]
)


def steps(idle_before, busy, idle_after):
    """Power at 10 readings a second that changes at 11 and 33 seconds, between the marks."""
    times = np.arange(0, 44.1, 0.1)
    return power(times, np.where(times < 11, idle_before, np.where(times < 33, busy, idle_after)))


def test_energy_of_an_inference_is_the_median_window_of_all_and_above_idle():
    found = figures(steps(2000, 5000, 2040), MARKS)
    assert found["windows"] == pytest.approx([5000 * 10 / 100 * 1000, 5000 * 10 / 200 * 1000])
    assert found["per_inference"] == pytest.approx(375_000)
    assert found["idle_subtracted"] == pytest.approx((2980 * 10 / 100 + 2980 * 10 / 200) / 2 * 1000)
    assert found["idle_mw"] == pytest.approx([2000, 2040])
    assert found["mean_mw"] == pytest.approx(5000)
    assert found["window_s"] == 10
    assert found["readings"] == 441
    assert found["reason"] is None


def test_idle_that_changed_or_is_no_less_is_not_subtracted():
    found = figures(steps(2000, 5000, 2200), MARKS)
    assert found["idle_subtracted"] is None
    assert found["reason"] == "idle power was 2000 mW before and 2200 mW after, more than 5 % apart"
    assert "no more power than when idle" in figures(steps(2000, 1990, 2000), MARKS)["reason"]


def test_a_source_that_sees_nothing_has_no_energy():
    with pytest.raises(NoSourceError, match="does not cover the processor that ran it"):
        figures(steps(0, 0, 0), MARKS)


@given(st.floats(0, 1e4), st.floats(0.1, 1e4))
def test_what_is_above_idle_and_idle_are_the_whole(idle, above):
    used, seconds = np.array([(idle + above) * 1e4]), np.array([10.0])
    found, reason = subtract_idle(used, seconds, idle, idle)
    assert reason is not None or found[0] + idle * 1e4 == pytest.approx(used[0])


def test_what_rounding_leaves_is_no_power():
    used = np.array([5e7, 5e7 + 1e-3])
    assert subtract_idle(used, np.array([10.0, 10.0]), 5000, 5000 - 1e-4) == (
        None,
        "the device drew no more power than when idle",
    )


# --- the pass ----------------------------------------------------------------------------------------------------------


def spec_of(arm, **changes):
    child.ENTRY = str(TARGETS / "harness")  # as __main__ sets it
    spec = {key: arm[key] for key in ("kit", "kit_dir", "entry", "precision", "threads")}
    return spec | {"head": str(arm["entry"]).rsplit("/", 1)[0] + "/io.npz", "seconds": 0.2, "window": 1.0} | changes


@pytest.mark.slow
def test_a_pass_finds_what_each_inference_adds_to_a_counter(tmp_path):
    """The scripted engine turns the recorded counter on by 100 microjoules an inference."""
    plant("laptop-rapl.tree", tmp_path)
    counter = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    counter.write_text("262143328000")  # it wraps around after 8 inferences
    script = {"counter": str(counter), "seconds": 0.003}
    found = energy_pass.metered(rapl.find(tmp_path), spec_of(scripted_arm(tmp_path, "one", script)), tmp_path, 60)
    assert found["per_inference"] == pytest.approx(100, rel=0.05)
    assert found["idle_mw"] == [0, 0]
    assert found["idle_subtracted"] == pytest.approx(found["per_inference"])
    assert len(found["windows"]) == 3
    assert found["source"] == "rapl package-0"
    assert Energy.model_validate({key: found[key] for key in found if key != "reason"}).provenance == "measured"


class Bench:
    """A meter on a bench: a thread that writes what a device draws, 50 times a second, in bursts as files are flushed.

    A burst has all rows since the last one, however late it is.
    """

    def __init__(self, path, watts):
        self.path, self.watts, self.ended = path, watts, threading.Event()
        path.write_text("time_s,power_w\n", encoding="utf-8")
        self.thread = threading.Thread(target=self.write)

    def write(self):
        written = time.time()
        while not self.ended.wait(0.1):
            count = int((time.time() - written) * 50)
            rows = "".join(f"{written + i / 50:.6f},{self.watts()}\n" for i in range(1, count + 1))
            written += count / 50
            with self.path.open("a", encoding="utf-8") as file:
                file.write(rows)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()


@pytest.mark.slow
def test_a_pass_is_metered_by_a_file_that_grows(tmp_path):
    arm = scripted_arm(tmp_path, "one", {"seconds": 0.002})
    with Bench(tmp_path / "meter.csv", lambda: 5.0), closing(meter.Meter(tmp_path / "meter.csv")) as source:
        found = energy_pass.metered(source, spec_of(arm), tmp_path, 60)
    assert found["mean_mw"] == pytest.approx(5000)
    assert found["per_inference"] > 5000 * 2  # 5 W for what an inference takes: 2 ms and what Python adds
    assert "no more power than when idle" in found["reason"]
    assert found["source"] == "meter meter.csv"


def test_a_meter_that_stops_is_a_reason_and_ends_the_pass(tmp_path):
    arm = scripted_arm(tmp_path, "one", {"seconds": 0.002})
    with (
        Bench(tmp_path / "meter.csv", lambda: "overflow"),
        closing(meter.Meter(tmp_path / "meter.csv")) as source,
        pytest.raises(NoSourceError, match="could not convert string to float: 'overflow'"),
    ):
        energy_pass.metered(source, spec_of(arm), tmp_path, 60)


@pytest.mark.slow
def test_a_job_measures_energy_by_its_meter(tmp_path):
    job = {"meter": "meter.csv", "passes": ["energy"], "seconds": 0.1}
    with Bench(tmp_path / "meter.csv", lambda: 5.0):
        code, results, stderr = harness("bench", write_job(tmp_path, [scripted_arm(tmp_path, "one")], **job))
    assert code == 0
    measured = Measurement.model_validate(results[0]["measurement"])
    assert measured.energy_uj.mean_mw == pytest.approx(5000)
    assert measured.energy_uj.window_s >= 10
    assert measured.energy_uj.provenance == "measured"
    assert "bench one energy" in stderr


def test_a_meter_that_is_not_there_is_the_reason(tmp_path):
    arm = scripted_arm(tmp_path, "one", watts=15.0)
    _, results, _ = harness("bench", write_job(tmp_path, [arm], meter="none.csv", passes=["energy"]))
    measured = Measurement.model_validate(results[0]["measurement"])
    assert measured.reasons["energy_uj"].endswith("none.csv: No such file or directory")
    assert measured.energy_uj.provenance == "estimated"


def test_watts_of_the_users_make_an_estimate_and_nothing_else(tmp_path):
    arm = scripted_arm(tmp_path, "one", watts=15.0)
    _, results, _ = harness("bench", write_job(tmp_path, [arm], passes=[]))
    measured = Measurement.model_validate(results[0]["measurement"])
    assert measured.energy_uj == Energy(
        per_inference=15 * measured.latency_ns.mean / 1000,
        idle_subtracted=None,
        source="estimated from 15 W, the user's figure",
        provenance="estimated",
    )
    assert measured.reasons["energy_uj"] == "not measured: the job does not request energy"


# --- recorded logs -----------------------------------------------------------------------------------------------------


def test_the_energy_verb_reads_a_recorded_log(tmp_path):
    log = tmp_path / "tegrastats.log"
    log.write_text(
        "".join(line + "\n" for line in recorded("tegrastats-orin-nano.log").splitlines() for _ in range(20))
    )
    marks = {
        "before": [0, 20 * S],
        "windows": [[62 * S, 82 * S], [90 * S, 110 * S]],
        "counts": [100, 100],
        "after": [30 * S, 50 * S],
    }
    (tmp_path / "marks.json").write_text(json.dumps(marks), encoding="utf-8")
    arguments = (
        "energy",
        "--source",
        "tegrastats",
        "--log",
        log,
        "--marks",
        tmp_path / "marks.json",
        "--interval-ms",
        1000,
    )
    code, found, _ = harness(*arguments)
    assert code == 0
    assert found["per_inference"] == pytest.approx(6.626 * 20 / 100 * 1e6)
    assert found["idle_subtracted"] == pytest.approx((6.626 - 4.761) * 20 / 100 * 1e6)


def test_the_energy_verb_says_what_a_log_lacks(tmp_path):
    (tmp_path / "log").write_text("nothing", encoding="utf-8")
    (tmp_path / "marks.json").write_text("{}", encoding="utf-8")
    arguments = ("energy", "--source", "tegrastats", "--log", tmp_path / "log", "--marks", tmp_path / "marks.json")
    code, found, _ = harness(*arguments)
    assert (code, found) == (0, {"reason": "no line of the log has a power rail of tegrastats"})
    code, found, _ = harness(
        "energy", "--source", "meter", "--log", tmp_path / "absent", "--marks", tmp_path / "marks.json"
    )
    assert code == 2
    assert "No such file" in found["error"]

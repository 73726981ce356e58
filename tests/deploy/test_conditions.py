"""What doctor warns of, from recorded trees that the harness reads."""

import environment
import pytest

from edgedistill.deploy.conditions import Examined, conditions, energy_line
from tests.support.jobs import harness
from tests.support.recordings import plant, write

NO_ENERGY = {
    "cpu": {"reason": "no energy counter: the device has no RAPL"},
    "gpu": {"reason": "NVML is installed but failed"},
}


def examined(root, **changes):
    """Return what `examine` would say on a quiet device with these files."""
    found = {
        "snapshot": environment.snapshot(root), "drivers": environment.drivers(root), "siblings": [], "timed_cpus": [3],
        "power_modes": [str(mode) for mode in environment.power_modes(root)], "energy": NO_ENERGY,
        "cpus_busy": {"0": 0.0, "1": 0.01, "2": 0.0, "3": 0.02},
    }  # fmt: skip
    return Examined.model_validate(found | changes)


def warnings(root, **changes):
    return list(conditions(examined(root, **changes)))


def test_a_quiet_device_that_tells_nothing_is_not_warned_of(tmp_path):
    assert warnings(tmp_path) == []


def test_a_laptop_on_battery_with_moving_clocks(tmp_path):
    found = warnings(plant("pc-state.tree", tmp_path))
    assert found == [
        (
            "other processes: CPU 3, on which models are timed, is 2% busy, load average 3.1 on 4 cores; find and stop them: "
            "ps -eo pcpu,pid,args --sort=-pcpu | head"
        ),
        "clock frequencies vary: the CPU governor is powersave; run: sudo cpupower frequency-set -g performance",
        "the device runs on battery and may lower its clocks; plug it in, unless you measure the battery's energy",
        (
            "the device has throttled since it started (core_throttle_count 17, package_throttle_count 40); if a "
            "measurement reports throttling, cool the device or use a stronger power supply"
        ),
    ]


def test_a_jetson_in_a_slow_mode_that_throttles(tmp_path):
    found = warnings(plant("orin-nano-state.tree", tmp_path))
    assert found[0] == "clock frequencies vary: the CPU governor is schedutil; run: sudo jetson_clocks"
    assert found[1].startswith(
        "the power mode is 25W (1), so measurements are valid for that mode only; to use MAXN_SUPER (2), run: "
    )
    assert found[1].endswith("sudo nvpmodel -m 2")
    assert found[2] == "the device is throttling now (gpu-throttle-alert); let it cool, or add a fan"
    assert "oc2_event_cnt 15, oc3_event_cnt 37" in found[3]
    assert len(found) == 4


def test_locked_clocks_need_no_governor(tmp_path):
    plant("orin-nano-state.tree", tmp_path)
    for file in (
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_min_freq",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq",
    ):
        write(tmp_path, file, "1344000")
    write(tmp_path, "sys/class/devfreq/17000000.gpu/min_freq", "918000000")
    assert not any("clock frequencies vary" in text for text in warnings(tmp_path))


def test_work_on_the_timed_cpu_and_beside_it(tmp_path):
    busy = {"0": 0.0, "1": 0.6, "2": 0.0, "3": 0.95}
    here, beside = warnings(tmp_path, cpus_busy=busy, siblings=[1])
    assert here.startswith("other processes: CPU 3, on which models are timed, is 95% busy; find and stop them")
    assert beside == (
        "CPU 1 shares a core with CPU 3, on which models are timed, and is 60% busy; stop the processes on it, or run: "
        "echo off | sudo tee /sys/devices/system/cpu/smt/control"
    )


def test_a_hot_device_is_told(tmp_path):
    write(tmp_path, "sys/class/thermal/thermal_zone0/type", "x86_pkg_temp")
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "91000")
    assert warnings(tmp_path) == ["x86_pkg_temp is at 91 °C while idle; let it cool"]


def test_where_energy_would_be_read(tmp_path):
    assert energy_line(examined(tmp_path)) == (
        "none: the device has no RAPL; use a power meter instead: bench --meter CSV; GPU: none: NVML is installed but failed"
    )
    absent = {"reason": "no energy counter: the device has no RAPL, no NVML"}
    assert energy_line(examined(tmp_path, energy={"cpu": absent, "gpu": absent})) == (
        "none: the device has no RAPL, no NVML; use a power meter instead: bench --meter CSV"
    )
    rapl, nvml = {"source": "rapl package-0", "scope": "the packages"}, {"source": "nvml power", "scope": "the card"}
    assert energy_line(examined(tmp_path, energy={"cpu": rapl, "gpu": nvml})) == (
        "rapl package-0, the packages; GPU: nvml power, the card"
    )
    assert energy_line(examined(tmp_path, energy={"cpu": rapl, "gpu": absent})) == "rapl package-0, the packages"
    whole = {"source": "ina3221 VDD_IN", "scope": "the module's input VDD_IN"}
    assert (
        energy_line(examined(tmp_path, energy={"cpu": whole, "gpu": whole}))
        == "ina3221 VDD_IN, the module's input VDD_IN"
    )


def test_what_this_machine_answers_is_understood():
    code, answer, _ = harness("examine")
    assert code == 0
    found = Examined.model_validate(answer)
    assert len(found.timed_cpus) <= 1
    for text in conditions(found):
        assert ";" in text


@pytest.mark.parametrize("field", ["snapshot", "energy"])
def test_an_answer_of_another_harness_is_refused(field):
    _, answer, _ = harness("examine")
    del answer[field]
    with pytest.raises(ValueError, match=field):
        Examined.model_validate(answer)

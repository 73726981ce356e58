"""The device's state from recorded files, and from what Jetson's programs print."""

import cpustat
import environment
import pytest
from environment import Clock, PowerMode
from hypothesis import given
from hypothesis import strategies as st
from process import spread

from edgedistill.records.measurement import Environment, Snapshot
from tests.support.recordings import parts, plant, write


def program(root, name, text, code=0):
    path = root / "usr" / "sbin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (root / f"{name}.out").write_text(text, encoding="utf-8")
    path.write_text(f"#!/bin/sh\ncat {root}/{name}.out\nexit {code}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("text", "mode"),
    list(zip(parts("nvpmodel.txt"), [("MAXN", 0), ("25W", 1), ("25W", 1), ("MAXN_SUPER", 2)], strict=True)),
)
def test_every_form_of_nvpmodels_answer_has_its_mode(text, mode):
    assert environment.parse_nvpmodel(text) == PowerMode(*mode)


def test_what_is_not_nvpmodels_answer_is_no_mode():
    assert environment.parse_nvpmodel("") is None
    assert environment.parse_nvpmodel("NVPM ERROR: failed to read PARAM GPU\n") is None


def test_jetson_clocks_tells_clocks_in_khz_and_whether_they_are_held():
    free, held, agx, nano = map(environment.parse_jetson_clocks, parts("jetson-clocks.txt"))
    assert free["cpu0"] == Clock(1326000, 102000, 1479000)
    assert free["gpu"] == Clock(76800, 76800, 921600)
    assert free["emc"] == Clock(1600000, 204000, 1600000)
    assert not any(clock.locked for clock in free.values())
    assert all(clock.locked for clock in held.values())
    assert held["emc"] == Clock(1600000, 1600000, 1600000)  # FreqOverride=1
    assert sorted(agx) == ["cpu0", "cpu10", "emc", "gpu"]
    assert nano["cpu0"] == Clock(960000, 729600, 1510400)


@given(st.text())
def test_any_text_of_the_programs_is_read_or_ignored(text):
    environment.parse_nvpmodel(text)
    environment.parse_jetson_clocks(text)
    cpustat.parse(text)


def test_the_state_of_a_jetson_board(tmp_path):
    state = environment.snapshot(plant("orin-nano-state.tree", tmp_path))
    assert state["power_mode"] == "25W (1)"  # from the file that nvpmodel left
    assert state["governors"] == {"schedutil": 2}
    assert state["clocks_khz"]["cpu0"] == {"current": 1344000, "min": 1344000, "max": 1344000}
    assert state["clocks_khz"]["17000000.gpu"]["max"] == 918000
    assert state["clocks_locked"] is False
    assert state["temperatures_c"] == {"cpu-thermal": 63.625, "tj-thermal": 63.781}
    assert state["throttle_counts"] == {"oc1_event_cnt": 0, "oc2_event_cnt": 15, "oc3_event_cnt": 37}
    assert state["throttling"] == ["gpu-throttle-alert"]
    assert state["power_source"] is None
    assert (state["load_average"], state["cpu_pressure_percent"]) == (0.42, 1.25)
    assert environment.drivers(tmp_path) == {"jetson linux": "36.4.4"}
    assert environment.power_modes(tmp_path) == [PowerMode("15W", 0), PowerMode("25W", 1), PowerMode("MAXN_SUPER", 2)]


def test_jetsons_own_programs_are_asked_where_they_are(tmp_path):
    plant("orin-nano-state.tree", tmp_path)
    program(tmp_path, "nvpmodel", parts("nvpmodel.txt")[3])
    program(tmp_path, "jetson_clocks", parts("jetson-clocks.txt")[1])
    state = environment.snapshot(tmp_path)
    assert state["power_mode"] == "MAXN_SUPER (2)"
    assert state["clocks_khz"]["emc"] == {"current": 1600000, "min": 1600000, "max": 1600000}


def test_a_program_that_wants_root_leaves_what_the_files_say(tmp_path):
    plant("orin-nano-state.tree", tmp_path)
    program(tmp_path, "jetson_clocks", "", code=1)
    program(tmp_path, "nvpmodel", "NVPM ERROR: Permission denied\n", code=1)
    state = environment.snapshot(tmp_path)
    assert state["power_mode"] == "25W (1)"
    assert state["clocks_khz"]["cpu0"]["current"] == 1344000


def test_the_state_of_a_laptop(tmp_path):
    state = environment.snapshot(plant("pc-state.tree", tmp_path))
    assert state["governors"] == {"performance": 1, "powersave": 1}
    assert state["power_source"] == "battery"
    assert state["throttle_counts"] == {"core_throttle_count": 17, "package_throttle_count": 40}
    assert environment.drivers(tmp_path) == {"nvidia": "535.146.02"}
    write(tmp_path, "sys/class/power_supply/AC/online", "1")
    assert environment.power_source(tmp_path) == "mains"


def test_a_device_that_tells_nothing_has_an_empty_state(tmp_path):
    state = environment.snapshot(tmp_path)
    assert not any(state.values())
    assert Environment(before=Snapshot.model_validate(state), after=Snapshot.model_validate(state), drivers={})


def test_sensors_are_one_flat_table(tmp_path):
    found = environment.sensors(plant("orin-nano-state.tree", tmp_path), [0])
    assert found == {
        "clock_khz.cpu0": 1344000,
        "clock_khz.17000000.gpu": 306000,
        "temperature_c.cpu-thermal": 63.625,
        "temperature_c.tj-thermal": 63.781,
        "throttle_count.oc1_event_cnt": 0,
        "throttle_count.oc2_event_cnt": 15,
        "throttle_count.oc3_event_cnt": 37,
        "throttle_alarms": 1,
    }


def test_threads_get_the_last_cpus_and_cores_of_their_own(tmp_path):
    plant("pc-state.tree", tmp_path)  # CPUs 0 and 2 are one core, 1 and 3 the other
    assert spread([0, 1, 2, 3], 1, tmp_path) == [3]
    assert spread([0, 1, 2, 3], 2, tmp_path) == [2, 3]
    assert spread([0, 1, 3], 2, tmp_path) == [0, 3]  # not 1, which shares its core with 3
    assert spread([0, 1, 2, 3], 3, tmp_path) == [1, 2, 3]
    assert environment.siblings(tmp_path, [3]) == [1]


# /proc/stat of a machine with two CPUs, as it stood and 100 ticks later: CPU 0 worked for 80 and waited for a disk, CPU 1 lost 10 to the host.
BEFORE = "cpu  2 0 2 8 0 0 0 0 0 0\ncpu0 1000 50 200 9000 10 5 5 0 0 0\ncpu1 500 0 100 9600 0 0 0 20 0 0\nintr 5\n"
AFTER = "cpu  2 0 2 8 0 0 0 0 0 0\ncpu0 1060 60 208 9010 20 6 6 0 0 0\ncpu1 520 0 110 9660 0 0 0 30 0 0\nintr 9\n"


def test_who_used_the_cpus():
    before, after = cpustat.parse(BEFORE), cpustat.parse(AFTER)
    assert cpustat.use(before, after, [0]) == cpustat.Use(busy=0.8, stolen=0.0)
    assert cpustat.use(before, after, [1]) == cpustat.Use(busy=0.3, stolen=0.1)
    assert cpustat.use(before, after, [0, 1]) == cpustat.Use(busy=0.55, stolen=0.05)
    assert cpustat.use(before, after, [7]) is None
    assert cpustat.use(before, before, [0]) is None


def test_a_system_without_that_file_tells_nothing(tmp_path):
    assert cpustat.read(tmp_path / "stat") == {}

"""Every source of energy on recorded files and logs, held against joules that numpy or a pencil makes of them."""

import os
import tempfile
from pathlib import Path

import energy
import numpy as np
import pytest
from energy import Reading, Series, android, battery, ina3221, rails, rapl, tegrastats
from energy.source import AbsentError, NoSourceError, used_uj
from scipy.integrate import trapezoid

from tests.support.recordings import plant, recorded, write

S = 1_000_000_000


def one(source):
    (reading,) = source.readings()
    return reading.value


# --- INA3221 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "name", "power_mw"),
    [
        ("orin-nano.tree", "ina3221 VDD_IN", 4.968 * 1520),
        ("agx-orin.tree", "ina3221 VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", 12.008 * 280 + 12.008 * 40 + 4.968 * 980),
        ("agx-thor.tree", "ina3221 VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0", 12.04 * 640 + 12.04 * 960 + 5.088 * 1740),
        ("nano-jp4.tree", "ina3221 POM_5V_IN", 1750),
        ("tx2-jp3.tree", "ina3221 VDD_IN", 19.1 * 160),
    ],
)
def test_the_power_of_a_jetson_board_is_read_by_the_labels_of_its_rails(tmp_path, tree, name, power_mw):
    source = ina3221.find(plant(tree, tmp_path))
    assert source.name == name
    assert one(source) == pytest.approx(power_mw)
    assert not source.counts


def test_a_board_without_input_rail_says_that_its_sum_is_not_the_whole(tmp_path):
    scope = ina3221.find(plant("agx-orin.tree", tmp_path)).scope
    assert scope == "sum of the rails VDD_GPU_SOC, VDD_CPU_CV, VIN_SYS_5V0; AGX Orin does not measure its input"


def test_not_connected_and_unreadable_channels_are_no_rails(tmp_path):
    found = ina3221.read_rails(plant("agx-orin.tree", tmp_path))
    assert sorted(found) == ["VDDQ_VDD2_1V8AO", "VDD_CPU_CV", "VDD_GPU_SOC", "VIN_SYS_5V0"]


def test_an_unreadable_rail_of_the_sum_leaves_no_partial_sum(tmp_path):
    plant("agx-orin.tree", tmp_path)
    write(tmp_path, "sys/class/hwmon/hwmon3/curr2_input", "!EIO")
    with pytest.raises(NoSourceError, match=r"no known set of rails.*; found: VDDQ_VDD2_1V8AO, VDD_GPU_SOC, VIN_SYS"):
        ina3221.find(tmp_path)


def test_a_rail_that_fails_later_is_a_reason(tmp_path):
    source = ina3221.find(plant("orin-nano.tree", tmp_path))
    write(tmp_path, "sys/class/hwmon/hwmon4/curr1_input", "!EIO")
    with pytest.raises(NoSourceError, match=r"a power rail failed while it was read: .*Input/output error"):
        source.readings()


def test_a_power_gated_rail_below_zero_takes_nothing_from_the_others(tmp_path):
    plant("agx-thor.tree", tmp_path)
    write(tmp_path, "sys/class/hwmon/hwmon5/curr1_input", "-33")  # -392 mW was seen
    assert one(ina3221.find(tmp_path)) == pytest.approx(12.04 * 960 + 5.088 * 1740)


def test_a_series_of_a_board_comes_to_the_integral_of_its_power(tmp_path):
    """Currents every 430 ms, as the monitor averages; the joules are numpy's trapezoids."""
    source = ina3221.find(plant("orin-nano.tree", tmp_path))
    currents = np.random.default_rng(0).integers(900, 2000, 40)
    times = np.arange(40) * 430_000_000
    readings = []
    for at, current in zip(times, currents, strict=True):
        write(tmp_path, "sys/class/hwmon/hwmon4/curr1_input", str(current))
        readings.append(Reading(int(at), one(source)))
    joules = trapezoid(4.968 * currents / 1000, times / S)
    assert used_uj(Series.of(readings, counts=False), 0, int(times[-1])) == pytest.approx(joules * 1e6)


# --- tegrastats --------------------------------------------------------------------------------------------------------

BOARDS = [
    ("POM_5V_IN", 1750), ("VDD_IN", 3056), ("VDD_IN", 6140), ("VDD_IN", 2763),
    ("GPU+CPU+SOC+CV+VDDRQ+SYS5V", 1155 + 385 + 2504 + 0 + 192 + 2692),
    ("GPU+CPU+SOC+CV+VDDRQ+SYS5V", 467 + 467 + 1245 + 0 + 311 + 2768),
    ("VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", 2399 + 400 + 4032),
    ("VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", 2412 + 1607 + 4707),
    ("VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0", 5139 + 3268 + 5500),
    ("VDD_IN", 9761),
    ("VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0", 0 + 4923 + 4327), ("VIN", 25530),
    ("VDD_GPU+VDD_CPU_SOC_MSS+VIN_SYS_5V0", 5517 + 4923 + 4327),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "expected"), list(zip(recorded("tegrastats-boards.log").splitlines(), BOARDS, strict=True))
)
def test_every_form_of_tegrastats_line_has_its_momentary_power(line, expected):
    total = rails.total_of(frozenset(tegrastats.rails_of(line)))
    assert ("+".join(total.rails), tegrastats.power_mw(line, total)) == expected


def test_a_log_of_tegrastats_comes_to_the_integral_of_its_input_rail():
    series = tegrastats.series_of(3 * recorded("tegrastats-orin-nano.log"), 1000)
    # Three lines of 4761 mW and three of 6626, three times: all of them at a second each, less half the first and the last.
    assert used_uj(series, 0, 17 * S) == pytest.approx((9 * 4.761 + 9 * 6.626 - (4.761 + 6.626) / 2) * 1e6)


def test_a_line_that_lost_a_rail_is_a_reason():
    log = recorded("tegrastats-orin-nano.log").replace("VDD_IN 6626mW", "VDD_IX 6626mW")
    with pytest.raises(NoSourceError, match="a line without the rail VDD_IN"):
        tegrastats.series_of(log, 1000)


def fake_tegrastats(root: Path, script: str) -> Path:
    """Put a program in place of NVIDIA's that prints recorded lines."""
    program = root / "usr" / "bin" / "tegrastats"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return root


def test_a_running_tegrastats_is_read_as_it_prints(tmp_path):
    lines = recorded("tegrastats-orin-nano.log").splitlines()
    (tmp_path / "lines").write_text("\n".join(lines) + "\n", encoding="utf-8")
    script = f'test "$1 $2" = "--interval 500" || exit 9\nhead -1 {tmp_path}/lines\nsleep 0.4\ntail -2 {tmp_path}/lines\nsleep 60'
    source = tegrastats.find(fake_tegrastats(tmp_path, script))
    try:
        assert source.name == "tegrastats VDD_IN"
        assert source.readings() == []  # nothing new yet
        readings = []
        while not readings:
            readings = source.readings()
        assert [reading.value for reading in readings] == [6626.0]
    finally:
        source.close()


def test_a_tegrastats_that_fails_is_a_reason(tmp_path):
    with pytest.raises(NoSourceError, match="tegrastats printed nothing"):
        tegrastats.find(fake_tegrastats(tmp_path, "exit 1"))
    with pytest.raises(AbsentError):
        tegrastats.find(tmp_path / "nowhere")


# --- RAPL --------------------------------------------------------------------------------------------------------------

RANGE_UJ = 262143328850
PACKAGE = "sys/class/powercap/intel-rapl:0"


def add_package(root, zone, label, counter):
    for name, value in (("name", label), ("energy_uj", counter), ("max_energy_range_uj", RANGE_UJ)):
        write(root, f"sys/class/powercap/{zone}/{name}", str(value))


def test_only_packages_are_read_and_each_once(tmp_path):
    source = rapl.find(plant("laptop-rapl.tree", tmp_path))
    assert source.name == "rapl package-0"
    write(tmp_path, f"{PACKAGE}/energy_uj", str(52649883221 + 1000))
    for other in ("intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl-mmio:0"):
        write(tmp_path, f"sys/class/powercap/{other}/energy_uj", "123456789")
    assert one(source) == 1000


def test_a_tree_nested_under_its_control_type_is_read_the_same(tmp_path):
    add_package(tmp_path, "intel-rapl/intel-rapl:0", "package-0", 5)
    add_package(tmp_path, "intel-rapl/intel-rapl:0/intel-rapl:0:0", "core", 7)
    source = rapl.find(tmp_path)
    write(tmp_path, "sys/class/powercap/intel-rapl/intel-rapl:0/energy_uj", "25")
    assert one(source) == 20


def test_several_packages_and_dies_add_up(tmp_path):
    plant("laptop-rapl.tree", tmp_path)
    add_package(tmp_path, "intel-rapl:2", "package-1", 10)
    add_package(tmp_path, "intel-rapl:3", "package-1-die-1", 20)
    source = rapl.find(tmp_path)
    assert source.name == "rapl package-0+package-1+package-1-die-1"
    write(tmp_path, "sys/class/powercap/intel-rapl:2/energy_uj", "15")
    write(tmp_path, "sys/class/powercap/intel-rapl:3/energy_uj", "30")
    assert one(source) == 5 + 10


def test_a_counter_that_wraps_around_comes_to_the_same_joules(tmp_path):
    """A quarter of the range at a time: five turns of the counter in twenty readings."""
    source = rapl.find(plant("laptop-rapl.tree", tmp_path))
    steps = np.random.default_rng(1).integers(1, RANGE_UJ // 2, 20)
    counter, readings = 52649883221, [Reading(0, one(source))]
    for i, step in enumerate(steps.tolist()):
        counter = (counter + step) % RANGE_UJ
        write(tmp_path, f"{PACKAGE}/energy_uj", str(counter))
        readings.append(Reading((i + 1) * S, one(source)))
    series = Series.of(readings, counts=True)
    assert used_uj(series, 0, 20 * S) == pytest.approx(int(steps.sum()))
    assert used_uj(series, 0, 20 * S) / 1e6 > 4 * RANGE_UJ / 1e6


def test_a_zone_that_cannot_be_read_is_replaced_by_its_twin(tmp_path):
    plant("laptop-rapl.tree", tmp_path)
    write(tmp_path, f"{PACKAGE}/energy_uj", "!EIO")
    source = rapl.find(tmp_path)
    write(tmp_path, "sys/class/powercap/intel-rapl-mmio:0/energy_uj", str(99999999999 + 7))
    assert one(source) == 7


@pytest.mark.parametrize("file", ["energy_uj", "max_energy_range_uj"])
def test_a_package_that_cannot_be_read_leaves_no_partial_sum(tmp_path, file):
    plant("laptop-rapl.tree", tmp_path)
    add_package(tmp_path, "intel-rapl:2", "package-1", 10)
    write(tmp_path, f"sys/class/powercap/intel-rapl:2/{file}", "!EIO")
    with pytest.raises(NoSourceError, match="Input/output error"):
        rapl.find(tmp_path)


def test_a_counter_that_fails_later_is_a_reason_and_no_wrap_around(tmp_path):
    source = rapl.find(plant("laptop-rapl.tree", tmp_path))
    write(tmp_path, f"{PACKAGE}/energy_uj", "!EIO")
    with pytest.raises(NoSourceError, match=r"failed while it was read: .*Input/output"):
        source.readings()


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="the system has no users of this kind")
def test_counters_that_are_roots_alone_come_with_the_line_that_opens_them():
    """Since CVE-2020-8694 the files are root's; another user is told so."""
    with tempfile.TemporaryDirectory() as folder:
        root = plant("laptop-rapl.tree", Path(folder))
        for path in root.rglob("energy_uj"):
            path.chmod(0)
        root.chmod(0o755)
        user = os.geteuid()
        os.seteuid(65534 if user == 0 else user)
        try:
            with pytest.raises(
                NoSourceError, match=f"only root may read it: sudo chmod a[+]r {folder}/{PACKAGE}/energy_uj"
            ):
                rapl.find(root)
        finally:
            os.seteuid(user)


# --- Android -----------------------------------------------------------------------------------------------------------


def test_the_rails_of_a_phone_add_up(tmp_path):
    source = android.find(plant("pixel6.tree", tmp_path))
    first = [5578756, 29110940, 3166046, 30203502, 23377533, 46356942, 10771876, 21091363]
    second = [45993209, 2822928, 6923706, 4658202, 5506273, 14254574, 5315420, 81221665]
    assert one(source) == sum(first) + sum(second)
    assert source.counts
    assert source.scope == "the sum of 16 metered rails, not the whole phone"


def test_what_dumpsys_prints_of_the_rails_comes_to_its_difference():
    series = android.series_of(recorded("dumpsys-powerstats.log"), 0)
    assert used_uj(series, 1 * S, 11 * S) == pytest.approx((15000 + 500 + 500 + 4000) * 1000)


def test_the_older_table_of_rails_is_read_too():
    found = android.energies_uj(recorded("lshal-powerstats.txt"))
    assert found == {"cpu S2M_VDD_CPUCL2": 12345250.0, "gpu S2S_VDD_G3D": 678750.0}


def test_snapshots_of_other_rails_are_refused():
    log = recorded("dumpsys-powerstats.log")
    rail = log.index("[VSYS")  # in the first snapshot
    with pytest.raises(NoSourceError, match="all must name the same rails"):
        android.series_of(log[:rail] + log[log.index("\n=====", rail) :], 0)
    with pytest.raises(NoSourceError, match="has 0 snapshots"):
        android.series_of("", 0)


@pytest.mark.parametrize("meter", ["HAL", "files"])
def test_a_last_snapshot_that_was_cut_anywhere_is_left_out(tmp_path, meter):
    if meter == "HAL":
        table = recorded("dumpsys-powerstats.log").split("@ 11000000000\n")[1]
    else:
        plant("pixel6.tree", tmp_path)
        files = sorted((tmp_path / "sys/bus/iio/devices").glob("iio:device*/energy_value"))
        table = "".join(path.read_text() for path in files)
    whole = android.series_of(f"@ 1\n{table}@ 2\n{table}", 0)
    assert whole.time_ns.tolist() == [1, 2]
    last = f"@ 3\n{table}"
    for length in range(len(last)):
        found = android.series_of(f"@ 1\n{table}@ 2\n{table}{last[:length]}", 0)
        assert found.time_ns.tolist() in ([1], [1, 2]), last[:length]  # where the header is cut, the second may go too
        assert found.value[0] == whole.value[0]


# --- batteries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "current", ["-1202147", "1202147", "-1202"]
)  # as recorded, with the other sign, in milliamperes
def test_a_discharging_battery_is_voltage_times_current_whatever_the_sign_and_unit(tmp_path, current):
    plant("phone-battery.tree", tmp_path)
    write(tmp_path, "sys/class/power_supply/battery/current_now", current)
    assert one(battery.find(tmp_path)) == pytest.approx(4.13744 * 1202.147, rel=2e-4)


def test_a_laptops_battery_tells_its_power_itself(tmp_path):
    source = battery.find(plant("pc-state.tree", tmp_path))
    assert source.name == "battery BAT0"  # the mouse's powers the mouse
    assert one(source) == 8123.0


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging"])
def test_a_battery_that_does_not_discharge_is_refused(tmp_path, status):
    plant("phone-battery.tree", tmp_path)
    write(tmp_path, "sys/class/power_supply/battery/status", status)
    with pytest.raises(
        NoSourceError, match=f"status is '{status}'; energy can only be read while the battery discharges"
    ):
        battery.find(tmp_path)


def test_a_plugged_device_is_refused_even_if_its_battery_discharges(tmp_path):
    source = battery.find(plant("phone-battery.tree", tmp_path))
    write(tmp_path, "sys/class/power_supply/usb/online", "1")  # in the middle of a pass, too
    for read in (source.readings, lambda: battery.find(tmp_path)):
        with pytest.raises(NoSourceError, match=r"plugged in \(usb\); unplug the cable"):
            read()


def test_a_current_that_may_be_either_unit_is_refused(tmp_path):
    plant("phone-battery.tree", tmp_path)
    write(tmp_path, "sys/class/power_supply/battery/current_now", "-9000")
    with pytest.raises(NoSourceError, match="in milliamperes or microamperes"):
        battery.find(tmp_path)


def test_what_dumpsys_says_of_a_charging_battery_is_refused():
    state = battery.parse_dumpsys(recorded("dumpsys-battery.txt"))
    assert state == battery.State(["usb"], "Charging", 4063, 84, 32.6)
    with pytest.raises(NoSourceError, match=r"plugged in \(usb\)"):
        battery.require_discharging(state.status, state.plugged)


def test_a_log_of_a_phones_battery_comes_to_the_integral_of_its_power():
    """In the form of a loop in the phone's shell; a line that was cut off is left out."""
    rng = np.random.default_rng(2)
    times = np.cumsum(rng.integers(90_000_000, 130_000_000, 100))
    currents, volts = rng.integers(300_000, 900_000, 100), rng.integers(4_000_000, 4_200_000, 100)
    log = "".join(f"{t} {-c} {v}\n" for t, c, v in zip(times, currents, volts, strict=True))
    joules = trapezoid(currents / 1e6 * volts / 1e6, times / S)
    for cut in ("", "99", f"{times[-1] + 1} -450000 40"):
        assert used_uj(battery.series_of(log + cut, 0), int(times[0]), int(times[-1])) == pytest.approx(joules * 1e6)


# --- choosing ----------------------------------------------------------------------------------------------------------


def test_a_device_without_any_source_says_what_it_lacks(tmp_path):
    lacks = "no INA3221, no tegrastats, no Android power rails, no RAPL, no battery"
    with pytest.raises(NoSourceError, match=f"^no energy counter: the device has {lacks}$"):
        energy.find_source(root=tmp_path)


def test_a_source_that_is_there_and_refuses_is_the_reason(tmp_path):
    plant("phone-battery.tree", tmp_path)
    write(tmp_path, "sys/class/power_supply/battery/status", "Charging")
    with pytest.raises(NoSourceError, match=r"^no energy counter: the battery's status is 'Charging'"):
        energy.find_source(root=tmp_path)


def test_whole_boards_come_before_parts_and_counters_before_batteries(tmp_path):
    plant("phone-battery.tree", tmp_path)
    assert energy.find_source(root=tmp_path).name == "battery battery"
    plant("laptop-rapl.tree", tmp_path)
    assert energy.find_source(root=tmp_path).name == "rapl package-0"
    plant("orin-nano.tree", tmp_path)
    assert energy.find_source(root=tmp_path).name == "ina3221 VDD_IN"


def test_a_gpus_energy_is_not_looked_for_in_the_processor(tmp_path):
    plant("laptop-rapl.tree", tmp_path)
    with pytest.raises(NoSourceError, match=r"^no energy counter: "):
        energy.find_source("gpu", root=tmp_path)

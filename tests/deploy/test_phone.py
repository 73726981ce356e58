"""What phones print, as AOSP and vendors have it, and what is read from it."""

import pytest

from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.phone import Meter, facts, meter, plugged, power_source, snapshot, temperatures_c
from edgedistill.errors import ConfigError
from edgedistill.records.measurement import DeviceFacts, Snapshot

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: {usb}
  Wireless powered: false
  Max charging current: 0
  Charge counter: 2085000
  status: 3
  level: 84
  voltage: 4063
  temperature: 326
"""
THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
	Temperature{{mValue=80.0, mType=2, mName=battery, mStatus=3}}
HAL Ready: true
Current temperatures from HAL:
	Temperature{{mValue=62.500004, mType=0, mName=CPU0, mStatus=0}}
	Temperature{{mValue=31.25, mType=3, mName=VIRTUAL-SKIN, mStatus=0}}
Current cooling devices from HAL:
	CoolingDevice{{mValue=0, mType=5, mName=tpu_cooling}}
"""
RAILS = "  " + "[S4M_VDD_CPUCL0]:CPU".rjust(32) + "         46356.94 mWs\n"
FILES = "t=349894\nCH5(T=349894)[S4M_VDD_CPUCL0], 46356942\n"
PROBED = {"arch": "aarch64", "kernel": "5.10", "cores": 8, "memory_bytes": 8 << 30, "emulated": None}


def said(**changes):
    return {
        "properties": "[ro.product.model]: [Pixel 7]\n[ro.product.manufacturer]: [Google]\n[ro.board.platform]: [gs201]\n"
        "[ro.build.version.release]: [14]\n[ro.serialno]: [ABC]\n",
        "battery": BATTERY.format(usb="false"),
        "thermal": THERMAL.format(status=0),
        "load": "5.01 4.5 4.1 2/3000 999",
        "governors": "sched_pixel\nsched_pixel\nschedutil\n",
    } | changes


def test_facts_are_those_of_the_schema():
    found = DeviceFacts.model_validate(
        facts(said(), PROBED, "SERIAL") | {"address": "adb://SERIAL", "engine": {"name": "onnxruntime", "version": "1"}}
    )
    assert found.cpu == "Google Pixel 7, gs201"
    assert found.os == "Android 14"
    assert found.governor == "sched_pixel+schedutil"
    assert found.load_average == 5.01
    again = facts(said(properties="[ro.serialno]: [ABC]\n"), PROBED, "OTHER")
    assert again["id"] == found.id
    assert "ABC" not in found.id


def test_a_phone_that_tells_nothing_has_nothing():
    denied = "cat: /x: Permission denied"
    bare = said(properties="", battery="", thermal="", load=denied, governors=denied)
    found = facts(bare, PROBED, "SERIAL")
    assert (found["governor"], found["load_average"], found["os"]) == (None, None, "unknown")
    state = Snapshot.model_validate(snapshot(bare))
    assert (state.power_source, state.temperatures_c, state.governors, state.throttling) == (None, {}, {}, ())


def test_a_snapshot_is_of_the_schema_and_knows_heat():
    state = Snapshot.model_validate(snapshot(said(thermal=THERMAL.format(status=2))))
    assert state.temperatures_c == {"CPU0": 62.500004, "VIRTUAL-SKIN": 31.25}
    assert state.throttling == ("thermal status moderate",)
    assert state.power_source == "battery"
    assert state.governors == {"sched_pixel": 2, "schedutil": 1}
    assert Snapshot.model_validate(snapshot(said())).throttling == ()


def test_cached_temperatures_are_second_best():
    text = "Cached temperatures:\n\tTemperature{mValue=80.0, mType=2, mName=battery, mStatus=3}\nHAL Ready: false\n"
    assert temperatures_c(text) == {"battery": 80.0}


def test_a_cable_is_seen():
    assert plugged(BATTERY.format(usb="true")) == ["USB"]
    assert power_source(BATTERY.format(usb="true")) == "mains"
    assert plugged(BATTERY.format(usb="false")) == []


@pytest.mark.parametrize(
    ("rails", "files", "current", "usb", "source"),
    [
        (RAILS, "", "", "true", "android power rails"),
        ("Can't find service", FILES, "-450000\n4063000\n", "true", "android power rails"),
        ("Can't find service", "cat: no such file", "-450000\n4063000\n", "false", "battery"),
    ],
)
def test_rails_are_before_the_battery(rails, files, current, usb, source):
    found = meter(rails, files, current, BATTERY.format(usb=usb))
    assert isinstance(found, Meter)
    assert found.source == source


def test_no_meter_has_a_reason():
    assert "unplug the cable" in meter("", "", "-450000\n4063000\n", BATTERY.format(usb="true"))
    assert "can read neither power rails nor" in meter("", "", "cat: Permission denied", BATTERY.format(usb="false"))


def test_addresses_of_phones():
    found = parse_address("adb://R58M123ABC?runner=/opt/runner")
    assert (found.scheme, found.host, found.runner, found.label) == ("adb", "R58M123ABC", "/opt/runner", "R58M123ABC")
    wifi = parse_address("adb://192.168.1.7:5555")
    assert (wifi.host, wifi.port, wifi.label) == ("192.168.1.7:5555", None, "192.168.1.7-5555")
    for text, problem in {
        "adb://": "the host is missing", "adb://a b": "is not a serial number", "adb://x;reboot": "is not a serial number", "adb://x?python=3": "python",
        "adb://x/y": "'/y' is not valid here",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=problem):
            parse_address(text)

"""The real adb against a device daemon of our own, which executes the runner: this machine's build, and ARM64's under QEMU."""

import asyncio
import json
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgedistill.deploy.devices.adb_run import run_over_adb
from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.doctor import examine_device, examine_kits
from edgedistill.deploy.harness import probe, run_bench
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import read_kit
from edgedistill.records.measurement import Measurement
from edgedistill.statistics import speedup
from tests.support.adbd import Device
from tests.support.jobs import TARGETS, bench_job
from tests.support.phones import ORT, compiled, url
from tests.support.sshd import pids, read, wait_until

QEMU = os.environ.get("EDGEDISTILL_ARM64")
RAILS = r"""now=$(($(date +%s%N) / 1000000))
printf '\n============= PowerStats HAL 2.0 energy meter ==============\n'
printf '  %32s   %14s.00 mWs\n' '[S4M_VDD_CPUCL0]:CPU' $((now * 2)) '[S10M_VDD_TPU]:TPU' $now
printf '========== End of PowerStats HAL 2.0 energy meter ==========\n'
"""


def test_a_phone_is_measured(phone, runner, models, tmp_path):
    address, lines = url(phone, runner), []
    arms = [compiled(models, name, tmp_path / name, address) for name in ("fp32", "u8-i32")]
    job = bench_job(*arms, processes=2, seconds=0.05, passes=("energy",))
    results = dict(run_bench(job, tmp_path, lines.append))
    float32, int8 = results["fp32"], results["u8-i32"]
    assert isinstance(float32, Measurement), float32
    assert isinstance(int8, Measurement), int8
    assert float32.precision.executed == {"fp32": 3}
    assert int8.precision.executed == {"int8": 3}
    assert float32.parity.max_abs_diff < 1e-5
    assert float32.accuracy.value == 1.0
    assert float32.latency_ns.n == sum(process.n_clean for process in float32.processes)
    assert len(float32.processes) == 2
    assert all(process.bursts >= 1 and process.lead_n >= process.bursts for process in float32.processes)
    assert float32.duet.id == int8.duet.id
    assert float32.duet.caches == "warm"
    (ratios,) = float32.duet.ratios.values()
    assert int8.duet.ratios["fp32"] == pytest.approx([1 / ratio for ratio in ratios], rel=0.05)
    assert speedup(float32, int8).duet
    assert float32.device.cpu == "Example Phone 7, Maker X1"
    assert float32.device.os == "Android 14"
    assert float32.device.python is None
    assert float32.environment.before.temperatures_c == {"VIRTUAL-SKIN": 31.25}
    assert float32.environment.before.power_source == "mains"
    assert float32.energy_uj is None
    assert "can read neither power rails nor the battery's current" in float32.reasons["energy_uj"]
    with np.load(tmp_path / "measurements" / float32.samples) as raw:
        assert len(raw["latency_ns"]) == len(raw["burst"]) == sum(process.n for process in float32.processes)
        assert len(raw["lead_ns"]) == len(raw["lead_burst"]) == sum(process.lead_n for process in float32.processes)
        assert set(raw["lead_burst"]) == set(raw["burst"])
        assert raw["outputs"].shape == (40, 1, 5)
    assert Measurement.model_validate_json((tmp_path / "measurements" / "fp32.json").read_text()) == float32
    assert any(re.match(r"bench fp32 process 2/2 p50 [\d.]+ ms", line) for line in lines)
    assert not list(phone.root.glob("edgedistill/work-*"))


def test_the_runner_is_sent_once(phone, runner):
    lines = []
    task = HarnessCall(("probe", "--kit", "kits/ort"), {"kits/ort": ORT})
    for _ in range(2):
        finished = asyncio.run(run_over_adb(parse_address(url(phone, runner)), task, lines.append))
        assert json.loads(finished.out)["engine"]["name"] == "onnxruntime"
    assert [line.split()[0] for line in lines] == ["upload"]
    found = probe(read_kit(ORT), url(phone, runner))
    assert found.facts["cpu"] == "Example Phone 7, Maker X1"


@pytest.mark.slow
def test_doctor_tells_a_phone_and_what_its_energy_lacks(phone, runner):
    lines = list(examine_device(url(phone, runner)))
    assert any("Example Phone 7, Maker X1" in line and "Android 14" in line for line in lines)
    assert any("can read neither power rails nor the battery's current" in line for line in lines)
    kits = {name: read_kit(TARGETS / name) for name in ("openvino", "ort")}
    openvino, ort = examine_kits(kits, url(phone, runner))
    assert "supports only ONNX Runtime, not openvino; use kit 'ort'" in openvino
    assert f"onnxruntime {onnxruntime.__version__}" in ort


@pytest.mark.slow
def test_a_phone_that_is_unplugged_in_mid_run_ends_the_job_and_keeps_what_there_is(phone, runner, models, tmp_path):
    address = url(phone, runner)
    arms = [compiled(models, "fp32", tmp_path / "fp32", address)]

    def unplug(line):
        if "process 1/50" in line:
            threading.Thread(target=lambda: (time.sleep(0.3), phone.unplug())).start()

    ((name, error),) = run_bench(bench_job(*arms, processes=50, seconds=1, passes=()), tmp_path, unplug)
    assert name == "fp32"
    assert "the phone is no longer connected" in error
    assert "the measurements made until then are in" in error
    kept = Measurement.model_validate_json((tmp_path / "measurements" / "partial" / "fp32.json").read_text())
    assert len(kept.processes) >= 1
    assert kept.reasons["processes"] == "the phone was disconnected before all processes were measured"
    assert not (tmp_path / "measurements" / "fp32.json").exists()


def test_what_is_missing_is_told(phone, runner, tmp_path, monkeypatch):
    with pytest.raises(DeviceError, match="the folder of the runner for phones is not set"):
        probe(read_kit(ORT), f"adb://{phone.serial}")
    with pytest.raises(DeviceError, match="has no edrun; build it with targets/android/build"):
        probe(read_kit(ORT), f"adb://{phone.serial}?runner={tmp_path}")
    old = tmp_path / "old"
    old.mkdir()
    (old / "libonnxruntime.so").touch()
    told = {
        "engine": {"name": "onnxruntime", "version": "1"},
        "arch": "x",
        "kernel": "x",
        "cores": 1,
        "memory_bytes": 1,
    }
    (old / "edrun").write_text(f"#!/bin/sh\necho '{json.dumps(told | {'emulated': None})}'\n")
    call = HarnessCall(("bench", "job.json"), {}, {"job.json": '{"arms": []}'})
    with pytest.raises(DeviceError, match="the runner is from another version of edgedistill; build it again"):
        asyncio.run(run_over_adb(parse_address(url(phone, old)), call, print))
    with pytest.raises(DeviceError, match="'adb devices' lists the connected phones"):
        probe(read_kit(ORT), f"adb://nowhere?runner={runner}")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="adb is not installed; install it"):
        probe(read_kit(ORT), url(phone, runner))


@pytest.mark.slow
def test_a_model_that_the_engine_refuses_costs_the_others_nothing(phone, runner, models, tmp_path):
    address = url(phone, runner)
    good = compiled(models, "fp32", tmp_path / "fp32", address)
    other = tmp_path / "other.npz"
    np.savez(other, **{"input.x": np.zeros((4, 1, 7), np.float32), "labels": np.zeros(4)})
    bad = good | {"name": "bad", "io": str(other), "expected": None}
    results = dict(run_bench(bench_job(bad, good, seconds=0.1, passes=()), tmp_path, print))
    assert isinstance(results["fp32"], Measurement)
    assert "not a multiple of a request" in results["bad"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("meminfo", "reason"),
    [
        (
            "MemTotal: 200000 kB\nMemAvailable: 50000 kB\n",
            r"together they need [\d,]+ MB, and the phone has 51 MB available",
        ),
        ("MemTotal: 200000 kB\n", "does not report its available memory"),
    ],
)
def test_models_that_do_not_fit_together_are_measured_alone(phone, runner, models, tmp_path, meminfo, reason):
    phone.replaced["/proc/meminfo"] = str(tmp_path / "meminfo")
    (tmp_path / "meminfo").write_text(meminfo)
    arms = [compiled(models, name, tmp_path / name, url(phone, runner)) for name in ("fp32", "u8-i32")]
    job = bench_job(*arms, processes=2, passes=(), caches="cold")
    results = dict(run_bench(job, tmp_path, print))
    for name, measured in results.items():
        assert len(measured.processes) == 2
        assert measured.duet.arm == name
        assert measured.duet.ratios == {}
        assert measured.duet.caches == "cold"
        assert [process.lead_n for process in measured.processes] == [0, 0]
        assert re.search(reason, measured.reasons["duet.ratios"])
    assert len({measured.duet.id for measured in results.values()}) == 2
    assert sum("edrun bench" in service for service in phone.services) == 4


def on_phone(device):
    """Return the command lines of the runner's processes on a phone."""
    lines = [read(f"/proc/{pid}/cmdline") for pid in pids()]
    return [line for line in lines if f"{device.root}/".encode() in line and b"\0bench\0" in line]


@pytest.mark.slow
def test_a_cancelled_job_leaves_no_processes_on_the_phone(phone, runner, models, tmp_path):
    address = url(phone, runner)
    arms = [compiled(models, name, tmp_path / name, address) for name in ("fp32", "u8-i32")]
    sends = {arm["entry"]: Path(arm["entry"]) for arm in arms} | {str(ORT): ORT, arms[0]["io"]: models / "io.npz"}
    texts = {"job.json": json.dumps(bench_job(*arms, seconds=20).to_table())}
    task = HarnessCall(("bench", "job.json"), sends, texts)

    async def cancel():
        job = asyncio.create_task(run_over_adb(parse_address(address), task, print))
        while len(on_phone(phone)) < 3 and not job.done():
            await asyncio.sleep(0.02)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    asyncio.run(cancel())
    wait_until(lambda: not on_phone(phone))
    assert not list(phone.root.glob("edgedistill/work-*"))


@pytest.mark.slow
def test_power_rails_give_the_energy_of_an_inference(phone, runner, models, programs, tmp_path):
    """Rails that rise by 3 W whatever runs: an inference takes 3 W times its share of a window."""
    (programs / "rails.sh").write_text(RAILS)
    try:
        arms = [compiled(models, "fp32", tmp_path / "fp32", url(phone, runner))]
        job = bench_job(*arms, seconds=0.2, passes=("energy",))
        ((_, measured),) = run_bench(job, tmp_path, print)
    finally:
        (programs / "rails.sh").write_text("")
    energy = measured.energy_uj
    assert energy is not None, measured.reasons
    assert energy.source == "android power rails"
    assert energy.mean_mw == pytest.approx(3000, rel=0.02)
    assert energy.idle_mw == pytest.approx((3000, 3000), rel=0.02)
    assert energy.window_s >= 10
    assert len(energy.windows) == 3


@pytest.fixture
def arm_phone(adb, programs, tmp_path):
    """A phone whose processor QEMU plays."""
    if not QEMU:
        pytest.skip("EDGEDISTILL_ARM64 names no emulated device; make one: benchmarks/arm64/prepare.sh FOLDER")
    device = Device(
        tmp_path / "phone", programs, ("qemu-aarch64", "-cpu", "cortex-a76", "-L", f"{QEMU}/cpu/cortex-a76")
    )
    assert "connected" in adb("connect", device.serial)
    yield device
    adb("disconnect", device.serial)
    device.unplug()


def test_the_arm64_runner_answers_as_recorded_and_times_nothing(arm_phone, models, tmp_path):
    address = url(arm_phone, Path(QEMU, "runner"))
    arms = [compiled(models, name, tmp_path / name, address) for name in ("fp32", "s8-i32")]
    job = bench_job(*arms)
    with pytest.raises(ConfigError, match="qemu-aarch64 emulates this processor"):
        run_bench(job, tmp_path, print)
    assert not (tmp_path / "measurements").exists() or not list((tmp_path / "measurements").glob("*.json"))
    sends = {arm["entry"]: Path(arm["entry"]) for arm in arms} | {str(ORT): ORT, arms[0]["io"]: models / "io.npz"}
    task = HarnessCall(("check", "job.json"), sends, {"job.json": json.dumps(job.to_table())})
    finished = asyncio.run(run_over_adb(parse_address(address), task, print))
    assert finished.code == 0, finished.out
    for result in json.loads(finished.out):
        check = result["check"]
        assert check["target"] == "emulated-arm64"
        assert check["latency_ns"] is None
        assert check["device"]["arch"] == "aarch64"
        assert check["parity"]["agreement"] >= 0.95
        assert check["executed"] == {"fp32" if result["name"] == "fp32" else "int8": 3}

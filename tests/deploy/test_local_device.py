import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.harness import Compilation, _run, compile_model, probe, run_bench
from edgedistill.errors import ConfigError, DeviceError
from edgedistill.kits.kits import find_kits, read_kit
from edgedistill.records.measurement import Measurement
from tests.support.jobs import REPOSITORY, SCRIPTED, bench_job, scripted_arm
from tests.support.sshd import PATIENCE_S, wait_until


def script(folder):
    path = folder / "m.json"
    path.write_text("{}", encoding="utf-8")
    return path


def compilation(kit, model, precision="fp32"):
    return Compilation(kit=kit, model=model, precision=precision, threads=1, out=model.parent / "out")


def test_probe_tells_the_device_and_the_engine():
    device = probe(find_kits()["ort"]).device("local")
    assert device.engine.name == "onnxruntime"
    assert device.address == "local"
    assert probe(None).facts["arch"] == device.arch


def test_a_missing_engine_comes_with_the_line_that_installs_it(tmp_path):
    (tmp_path / "engine.py").write_text(
        "def describe():\n    import no_such_engine\ndef compile(*a): pass\ndef load(*a): pass\n", encoding="utf-8"
    )
    kit = read_kit(SCRIPTED).model_copy(update={"folder": tmp_path})
    answer = probe(kit)
    assert answer.engine is None
    assert answer.problem.endswith("No module named 'no_such_engine'; install it: python3 -m pip install numpy")
    with pytest.raises(DeviceError, match=r"No module named 'no_such_engine'"):
        answer.device("local")


def test_a_device_of_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"device 'carrier-pigeon://1': a device is 'local', 'ssh://user@host:port' or 'adb://serial'"
    ):
        run_bench(bench_job(scripted_arm(tmp_path, "a", address="carrier-pigeon://1")), tmp_path, print)


def test_progress_is_streamed_and_each_arm_has_a_result(tmp_path):
    lines = []
    arms = [scripted_arm(tmp_path, "good"), scripted_arm(tmp_path, "bad", {"raises_at": 1})]
    results = dict(run_bench(bench_job(*arms), tmp_path, lines.append))
    assert isinstance(results["good"], Measurement)
    assert results["bad"] == "scripted: first line second line"
    assert any(line.startswith("bench good process 1/1 p50 ") for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.json", "good.json", "io.npz", "measurements"]


def test_a_wrong_job_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"both must be above 0"):
        run_bench(bench_job(scripted_arm(tmp_path, "a"), processes=0), tmp_path, print)


def test_a_refused_model_raises_the_engines_own_words(tmp_path):
    model = tmp_path / "m.json"
    model.write_text('{"refuse": "operator Foo is unknown"}', encoding="utf-8")
    with pytest.raises(DeviceError, match=r"^scripted: operator Foo is unknown$"):
        compile_model(compilation(read_kit(SCRIPTED), model))


def test_a_precision_that_the_kit_lacks_is_refused_before_it_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"kit 'scripted' has no precision 'fp16'; it has: fp32, int8"):
        compile_model(compilation(read_kit(SCRIPTED), tmp_path / "m.json", precision="fp16"))


def test_a_harness_that_dies_is_a_device_error(tmp_path):
    """The compile verb runs the engine in the harness's own process, so an engine can kill it."""
    (tmp_path / "engine.py").write_text(
        "import os\ndef describe(): os.abort()\ndef compile(*a): os.abort()\ndef load(*a): os.abort()\n",
        encoding="utf-8",
    )
    kit = read_kit(SCRIPTED).model_copy(update={"folder": tmp_path})
    with pytest.raises(DeviceError, match=r"harness compile on .*: the engine crashed the process with SIGABRT"):
        compile_model(compilation(kit, script(tmp_path)))


def test_a_harness_that_does_not_answer_is_ended(tmp_path):
    (tmp_path / "engine.py").write_text("import time\ntime.sleep(60)\n", encoding="utf-8")
    task = HarnessCall(
        ("probe", "--kit", "kit"), {"harness": REPOSITORY / "targets" / "harness", "kit": tmp_path}, timeout_s=2.0
    )
    with pytest.raises(DeviceError, match=r"harness probe on .*: no answer after 2 s; the process was stopped"):
        asyncio.run(_run(parse_address("local"), task, print))


INTERRUPTED = """
import sys
from pathlib import Path
from edgedistill.deploy.harness import run_bench
from tests.support.jobs import bench_job, scripted_arm
folder = Path(sys.argv[1])
arm = scripted_arm(folder, "slow", {"seconds": 60, "pid_file": str(folder / "pid")})
run_bench(bench_job(arm, seconds=1), folder, print)
"""


def test_an_interrupted_bench_leaves_no_process_behind(tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path)}
    host = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    pid_file = tmp_path / "pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text())
    worker = int(pid_file.read_text())
    host.send_signal(signal.SIGINT)
    _, stderr = host.communicate(timeout=PATIENCE_S)
    assert b"KeyboardInterrupt" in stderr
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert not list(tmp_path.glob("edgedistill-*")), "the harness left its scratch folder"

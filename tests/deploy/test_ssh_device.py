"""Devices over SSH: a real sshd, real engines, real cuts."""

import asyncio
import getpass
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import asyncssh
import numpy as np
import pytest

from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.ssh import run_over_ssh
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.harness import Compilation, _run, compile_models, probe, run_bench
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import find_kits, read_kit
from edgedistill.records.measurement import Measurement
from tests.support import command
from tests.support.jobs import SCRIPTED, bench_job, scripted_arm
from tests.support.sshd import PATIENCE_S, SSHD, Sshd, Wire, name_of, read, wait_until
from tests.support.tiny_onnx import build

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not here; Debian has it in openssh-server")
HOSTILE = "a b'c\"d$(touch pwned);`touch pwned` & -x\\é#*.json"


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.close()


@pytest.fixture
def user(device, monkeypatch):
    """The user whose key the device takes."""
    monkeypatch.setenv("HOME", str(device.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return device


@pytest.fixture
def stranger(device, tmp_path, monkeypatch):
    """A home folder with the user's keys, and known hosts that a test may spoil."""
    shutil.copytree(device.home, tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path / "home" / ".ssh"


def edgedistill(device, *arguments, cwd):
    program = [sys.executable, "-m", "edgedistill", *map(str, arguments)]
    return subprocess.Popen(
        program, cwd=cwd, env=device.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def job(*arms, **changes):
    return bench_job(*arms, **({"passes": ()} | changes))


def test_a_model_is_benched_over_ssh_and_sent_once(device, tmp_path):
    build(tmp_path / "tiny.onnx")
    wire = Wire(device.port)
    device.know(wire.port)
    url, sent, errors = device.url_at(wire.port), [], []
    for _ in range(2):
        before = wire.sent_bytes
        quick = ("--processes", 1, "--seconds", 0.2, "--run-dir", "run", "--json")
        arguments = ("bench", "tiny.onnx", "--target", "ort", "--device", url, *quick)
        done = command.edgedistill(*arguments, cwd=tmp_path, **device.environment)
        assert done.returncode == 0, done.stderr
        sent.append(wire.sent_bytes - before)
        errors.append(done.stderr)
    wire.close()
    assert json.loads(done.stdout)["schema"].startswith("edgedistill.comparison/")
    name = f"{getpass.getuser()}@127.0.0.1-{wire.port}-ort-fp32"
    measured = Measurement.model_validate_json((tmp_path / "run" / "measurements" / f"{name}.json").read_text())
    assert (tmp_path / "run" / "measurements" / f"{name}.npz").is_file()
    assert measured.device.address == url
    assert measured.device.engine.name == "onnxruntime"
    assert measured.parity.max_abs_diff < 1e-5
    assert len(measured.processes) == 1
    assert measured.device.id == probe(None).facts["id"]
    assert "upload" in errors[0]
    assert "upload" not in errors[1]
    program = (Path(__file__).parents[2] / "targets" / "agent" / "agent.py").stat().st_size
    handshakes = 2 * (program + 12_000)  # of two connections, each with the agent's program and what SSH itself says
    assert sent[1] < handshakes, sent
    assert sent[0] > sent[1] + 50_000, sent
    wait_until(lambda: not device.started())


def test_doctor_looks_at_a_device(device, tmp_path):
    done = command.edgedistill("doctor", "--device", device.url, cwd=tmp_path, **device.environment)
    assert done.returncode == 0, done.stderr
    assert "Python 3." in done.stdout
    assert "onnxruntime" in done.stdout


def test_an_unknown_host_key_is_refused_with_the_way_to_accept_it(device, stranger):
    (stranger / "known_hosts").unlink()
    with pytest.raises(DeviceError) as caught:
        probe(None, device.url)
    assert f"the host key {device.fingerprint} is not known" in str(caught.value)
    assert f"accept it with: ssh -p {device.port} {getpass.getuser()}@127.0.0.1 true" in str(caught.value)


def test_another_host_key_than_the_known_one_is_refused(device, stranger):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (stranger / "known_hosts").write_text(f"[127.0.0.1]:{device.port} {other}\n")
    with pytest.raises(
        DeviceError, match=r"the host key has changed .* remove the old key: ssh-keygen -R '\[127\.0\.0\.1\]:"
    ):
        probe(None, device.url)


def test_a_configuration_that_would_trust_anybody_is_refused(device, stranger):
    (stranger / "config").write_text("Host *\n  UserKnownHostsFile none\n")
    with pytest.raises(DeviceError, match=r"UserKnownHostsFile to none, so the host key cannot be checked"):
        probe(None, device.url)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ServerAliveInterval 1m", r"config line 2: .*ServerAliveInterval.* 1m; .* Change this line, .* seconds"),
        ("IdentityFile ~/.ssh/id_ed25519.pub", r"a key cannot be read .* must be a private key, not the \.pub file"),
        ("IdentityFile ~/.ssh/none", r"/none: No such file or directory; correct or remove the line of ~/\.ssh/config"),
    ],
)
def test_files_of_ssh_that_cannot_be_read_are_named_at_once(device, stranger, line, problem):
    (stranger / "id_ed25519.pub").write_bytes(device.user_key.export_public_key())
    (stranger / "config").write_text(f"Host *\n  {line}\n")
    attempts = []
    call = HarnessCall(("examine",), {"harness": find_kits()["ort"].folder.parent / "harness"})
    with pytest.raises(DeviceError, match=rf"^{device.url}: .*{problem}"):
        asyncio.run(run_over_ssh(parse_address(device.url), call, attempts.append))
    assert attempts == []


def test_an_alias_with_capital_letters_is_found(device, stranger):
    (stranger / "config").write_text(f"Host RPi4\n  HostName LocalHost\n  Port {device.port}\n")
    (stranger / "known_hosts").write_text(f"[localhost]:{device.port} {device.host_key}\n")
    assert probe(None, "ssh://RPi4").facts["python"]
    (stranger / "known_hosts").unlink()
    with pytest.raises(
        DeviceError, match=r"^ssh://RPi4: the host key .* is not known.* accept it with: ssh RPi4 true$"
    ):
        probe(None, "ssh://RPi4")


def test_a_wrong_key_is_refused_with_the_next_step(device, stranger):
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(stranger / "id_ed25519"))
    with pytest.raises(DeviceError, match=rf"accepts none of your keys; .* ssh-copy-id -p {device.port} "):
        probe(None, device.url)


@pytest.mark.slow
def test_a_device_that_is_not_there_is_tried_again(user, tmp_path):
    lines = []
    arm = scripted_arm(tmp_path, "a", address="ssh://127.0.0.1:9")
    ((_, result),) = run_bench(job(arm), tmp_path, lines.append)
    assert "ssh://127.0.0.1:9: not reachable" in result
    assert result.endswith("try: ssh -p 9 127.0.0.1 true")
    assert [line.rsplit("; ", 1)[1] for line in lines] == ["attempt 2 of 3", "attempt 3 of 3"]


def test_ssh_config_names_hosts_keys_and_jumps(device, stranger):
    (stranger / "id_ed25519").rename(stranger / "another_name")
    (stranger / "config").write_text(
        f"Host *\n  User {getpass.getuser()}\n  Port {device.port}\n  Hostname 127.0.0.1\n"
        f"  IdentityFile {stranger}/another_name\nHost inner\n  ProxyJump outer\n"
    )
    before = len(device.folder.joinpath("log").read_text().split("Accepted publickey"))
    assert probe(None, "ssh://inner").facts["id"] == probe(None).facts["id"]
    assert len(device.folder.joinpath("log").read_text().split("Accepted publickey")) == before + 2


def test_names_that_a_shell_would_obey_are_only_names(user, tmp_path):
    kit_folder = tmp_path / "ki t$(touch pwned)'"
    shutil.copytree(SCRIPTED, kit_folder)
    engine = kit_folder / "engine.py"
    engine.write_text(engine.read_text().replace('"model.json"', repr(HOSTILE)))
    model = tmp_path / f"m {HOSTILE}"
    model.write_text("{}")
    work = Compilation(
        kit=read_kit(kit_folder), model=model, precision="fp32", threads=1, out=tmp_path / "out", address=user.url
    )
    (made,) = compile_models([work], print)
    assert made["entry"] == HOSTILE
    assert (tmp_path / "out" / HOSTILE).read_text() == "{}"
    arm = scripted_arm(tmp_path, "a", address=user.url) | {"entry": f"out/{HOSTILE}", "kit_dir": str(kit_folder)}
    ((_, result),) = run_bench(job(arm), tmp_path, print)
    assert isinstance(result, Measurement)
    assert not list(tmp_path.rglob("pwned"))
    assert not list(user.folder.rglob("pwned"))


def test_several_devices_work_at_once_and_each_arm_has_its_result(user, tmp_path):
    lines = []
    arms = [scripted_arm(tmp_path, "far", address=user.url), scripted_arm(tmp_path, "near", {"raises_at": 1})]
    results = run_bench(job(*arms), tmp_path, lines.append)
    assert [name for name, _ in results] == ["far", "near"]
    assert results[0][1].device.address == user.url
    assert results[1][1] == "scripted: first line second line"
    assert sorted(path.name for path in (tmp_path / "measurements").iterdir()) == ["far.json", "far.npz"]


@pytest.mark.slow
def test_a_second_job_waits_for_the_first(user, tmp_path):
    lines = []

    async def both():
        def task(name):
            (tmp_path / name).mkdir()
            arm = scripted_arm(tmp_path / name, name, {"seconds": 0.01})
            placed = arm | {"kit_dir": "kit", "entry": "m.json", "io": "io.npz"}
            sends = {"harness": find_kits()["ort"].folder.parent / "harness", "kit": SCRIPTED}
            sends |= {"m.json": tmp_path / name / f"{name}.json", "io.npz": tmp_path / name / "io.npz"}
            return HarnessCall(
                ("bench", "job.json"), sends, {"job.json": json.dumps(job(placed, seconds=1).to_table())}, alone=True
            )

        address = parse_address(user.url)
        return await asyncio.gather(*(_run(address, task(name), lines.append) for name in ("one", "two")))

    answers = asyncio.run(both())
    assert [answer[0]["name"] for answer in answers] == ["one", "two"]
    assert lines.count("waiting until another job on this device ends") == 1
    turns = [name for name, _ in itertools.groupby(line.split()[1] for line in lines if line.startswith("bench "))]
    assert sorted(turns) == ["one", "two"], lines


def cut_in_mid_run(device, tmp_path, cut):
    """Start a bench over SSH, call `cut` when one process is measured, and return the ended command and its files."""
    build(tmp_path / "tiny.onnx")
    long = ("--processes", 10, "--seconds", 2, "--run-dir", "run")
    run = edgedistill(device, "bench", "tiny.onnx", "--target", "ort", "--device", device.url, *long, cwd=tmp_path)
    partial = tmp_path / "run" / "measurements" / "partial"
    # A name with a dot is of a file that is still being received.
    wait_until(lambda: list(partial.glob("[!.]*.json")) or run.poll() is not None)
    assert len(device.started()) >= 2  # the agent, the harness and, between two, a worker
    cut(run)
    out, error = run.communicate(timeout=PATIENCE_S)
    wait_until(lambda: not device.started())
    return run.returncode, out, error, partial


@pytest.mark.slow
def test_a_link_that_is_cut_leaves_a_partial_result_and_no_process(device, tmp_path):
    def cut(_run):
        for pid in device.sessions():
            os.kill(pid, signal.SIGKILL)

    code, _, error, partial = cut_in_mid_run(device, tmp_path, cut)
    assert code == 5, error
    (kept,) = partial.glob("[!.]*.json")
    assert f"{device.url}: the connection was lost" in error
    assert f"the measurements made until then are in {kept.relative_to(tmp_path)}" in error
    measured = Measurement.model_validate_json(kept.read_text())
    assert measured.reasons["processes"] == f"{len(measured.processes)} of 10 processes were measured"
    assert 1 <= len(measured.processes) < 10
    with np.load(kept.with_suffix(".npz")) as samples:
        assert len(samples["latency_ns"]) == sum(process.n for process in measured.processes)
    assert not list((device.cache / "work").iterdir())


@pytest.mark.slow
def test_an_interrupt_ends_the_work_on_the_device(device, tmp_path):
    code, _, error, partial = cut_in_mid_run(device, tmp_path, lambda run: run.send_signal(signal.SIGINT))
    assert code == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert list(partial.glob("[!.]*.json"))
    assert not list(partial.glob(".*"))


@pytest.mark.slow
def test_killing_the_agent_kills_what_it_started(device, tmp_path):
    def cut(_run):
        pythons = [pid for pid in device.started() if name_of(pid).startswith("python")]
        agent = next(pid for pid in pythons if b"edgedistill-agent" in read(f"/proc/{pid}/cmdline"))
        os.kill(agent, signal.SIGKILL)

    code, _, error, _ = cut_in_mid_run(device, tmp_path, cut)
    assert code == 5
    assert "the connection was lost" in error
    work = device.cache / "work"
    left = {path.name for path in work.iterdir()}
    assert left, "a killed agent cannot clear its folder"
    doctor = edgedistill(device, "doctor", "--device", device.url, cwd=tmp_path)
    assert doctor.communicate(timeout=PATIENCE_S)
    assert doctor.returncode == 0
    assert not left & {path.name for path in work.iterdir()}, "the next one does"


@pytest.mark.slow
def test_a_link_that_goes_silent_is_noticed_on_both_sides(device, tmp_path):
    wire = Wire(device.port)
    device.know(wire.port)
    build(tmp_path / "tiny.onnx")
    long = ("--processes", 3, "--seconds", 20, "--run-dir", "run")
    url = device.url_at(wire.port)
    run = edgedistill(device, "bench", "tiny.onnx", "--target", "ort", "--device", url, *long, cwd=tmp_path)
    wait_until(lambda: any(b"worker" in read(f"/proc/{pid}/cmdline") for pid in device.started()), PATIENCE_S)
    wire.dead.set()
    _, error = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 5
    assert "the connection was lost" in error
    wait_until(lambda: not device.started())
    wire.close()


@pytest.mark.slow
def test_a_task_that_takes_too_long_is_ended_on_the_device(user, tmp_path):
    (tmp_path / "engine.py").write_text("import time\ntime.sleep(60)\n")
    sends = {"harness": find_kits()["ort"].folder.parent / "harness", "kit": tmp_path}
    task = HarnessCall(("probe", "--kit", "kit"), sends, timeout_s=4.0)
    with pytest.raises(DeviceError, match=r"harness probe on ssh://.*: no answer after 4 s; the process was stopped"):
        asyncio.run(_run(parse_address(user.url), task, print))
    wait_until(lambda: not user.started())


def test_another_python_can_be_named(user, tmp_path):
    (tmp_path / "python here").symlink_to(sys.executable)
    url = f"{user.url}?python={tmp_path}/python here"
    assert probe(None, url).facts["python"]
    with pytest.raises(DeviceError, match=r"No such file or directory: '/nowhere/python3'"):
        probe(None, f"{user.url}?python=/nowhere/python3")


def test_a_device_without_python_says_so(tmp_path_factory, tmp_path, monkeypatch):
    server = Sshd(tmp_path_factory.mktemp("bare"), path="/nowhere")
    monkeypatch.setenv("HOME", str(server.home))
    with pytest.raises(DeviceError, match=r"the agent did not start: .*python3: .*not found"):
        probe(None, server.url)
    server.close()

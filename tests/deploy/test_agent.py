"""The agent and the host's end of it, over pipes to a shell of this machine."""

import asyncio
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.agent import BOOTSTRAP, Agent
from edgedistill.deploy.devices.transport import HarnessCall, place_returned
from edgedistill.errors import ConfigError, DeviceError
from tests.support.jobs import TARGETS

PROGRAM = (TARGETS / "agent" / "agent.py").read_bytes()
HOSTILE = ["../x", "/etc/x", "a/../../x", "", ".", "..", "a//b", "a/./b", "nul\0"]


def run_in_shell(shell_line, task, cache):
    """Run a task with an agent that a shell of this machine has started."""

    async def run():
        child = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", shell_line, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
        try:
            return await Agent(child.stdout, child.stdin).run(task, None, print)
        finally:
            child.stdin.close()
            await child.wait()

    return asyncio.run(run())


def echo(folder: Path) -> Path:
    """Write a harness that says its arguments and makes a file."""
    (folder / "harness").mkdir()
    source = "import sys\nopen('out/made', 'w').write('made')\nprint(sys.argv[1:])\nsys.exit(3)\n"
    (folder / "harness" / "__main__.py").write_text(source)
    (folder / "out.txt").write_text("there must be a folder")
    return folder / "harness"


def test_a_login_shell_may_talk_first(tmp_path):
    sends = {"harness": echo(tmp_path), "out/there": tmp_path / "out.txt"}
    task = HarnessCall(("verb", "$(id)", "a b"), sends, returns={"out": tmp_path / "here"})
    line = f"echo Welcome; echo '{{\"event\": 1}}'; exec {BOOTSTRAP}"
    finished = run_in_shell(line, task, tmp_path / "cache")
    assert finished.code == 3
    assert finished.out == "['verb', '$(id)', 'a b']\n"
    assert (tmp_path / "here" / "made").read_text() == "made"
    assert not list((tmp_path / "cache" / "edgedistill-device" / "work").iterdir())


def test_a_shell_without_python_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match=r"^the agent did not start$"):
        run_in_shell("exec false", HarnessCall((), {}), tmp_path)


def test_a_line_without_end_before_the_agent_starts_is_an_error(tmp_path):
    with pytest.raises(DeviceError, match=r"sends something else than the agent's messages"):
        run_in_shell("head -c 100000 /dev/zero", HarnessCall((), {}), tmp_path)


class Raw:
    """An agent, and its protocol in the hands of a test."""

    def __init__(self, cache):
        environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.child = subprocess.Popen(["/bin/sh", "-c", BOOTSTRAP], env=environment, **pipes)
        self.send(b"%d\n" % len(PROGRAM) + PROGRAM)
        assert self.event()["event"] == "hello"

    def send(self, data):
        self.child.stdin.write(data)
        self.child.stdin.flush()

    def ask(self, operation, content=b"", **fields):
        self.send(json.dumps({"op": operation, **fields}).encode() + b"\n" + content)

    def event(self):
        return json.loads(self.child.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait(60)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["texts", "files"])
def test_no_name_leads_out_of_the_work_folder(tmp_path, name, kind):
    sha256 = hashlib.sha256(b"x").hexdigest()
    with Raw(tmp_path) as agent:
        agent.ask("put", b"x", sha256=sha256, bytes=1)
        run = {"files": {}, "texts": {}, "arguments": [], "python": None, "watch": [], "keep": False, "alone": False}
        agent.ask("run", **run | {kind: {name: sha256}})
        event = agent.event()
    assert event["event"] == "error"
    assert "does not name a file in the work folder" in event["text"]


def test_a_damaged_file_is_refused_and_not_kept(tmp_path):
    with Raw(tmp_path) as agent:
        agent.ask("put", b"yes", sha256=hashlib.sha256(b"no").hexdigest(), bytes=3)
        assert "a file was damaged on the way" in agent.event()["text"]
    assert not list((tmp_path / "edgedistill-device" / "files").iterdir())


def test_what_an_engine_has_overwritten_is_asked_for_again(tmp_path):
    sha256 = hashlib.sha256(b"x").hexdigest()
    with Raw(tmp_path) as agent:
        agent.ask("put", b"x", sha256=sha256, bytes=1)
        agent.ask("have", hashes=[sha256])
        assert agent.event()["hashes"] == []
        kept = tmp_path / "edgedistill-device" / "files" / sha256
        kept.chmod(0o644)
        kept.write_bytes(b"z")
        agent.ask("have", hashes=[sha256])
        assert agent.event()["hashes"] == [sha256]


def test_files_that_nobody_asked_for_in_a_month_are_removed(tmp_path):
    old, new = (hashlib.sha256(content).hexdigest() for content in (b"old", b"new"))
    with Raw(tmp_path) as agent:
        for content, sha256 in ((b"old", old), (b"new", new)):
            agent.ask("put", content, sha256=sha256, bytes=3)
        agent.ask("have", hashes=[old, new])
        assert agent.event()["hashes"] == []
    files = tmp_path / "edgedistill-device" / "files"
    os.utime(files / old, (0, 0))
    with Raw(tmp_path) as agent:
        agent.ask("have", hashes=[old, new])
        assert agent.event()["hashes"] == [old]


@given(st.lists(st.one_of(st.sampled_from(["..", ".", "", "out", "/"]), st.text(max_size=5)), max_size=5))
def test_what_a_device_sends_stays_in_the_folder_that_it_was_asked_for(parts):
    target = Path("/host/run/out")
    task = HarnessCall((), {}, returns={"out": target})
    try:
        path = place_returned(task, "/".join(parts))
    except DeviceError:
        return
    assert Path(os.path.normpath(path)).is_relative_to(target)
    assert path != target


def test_addresses_are_read():
    full = parse_address("ssh://nano@jetson.local:2222?python=/opt/venv/bin/python")
    assert (full.scheme, full.user, full.host, full.port) == ("ssh", "nano", "jetson.local", 2222)
    assert full.python == "/opt/venv/bin/python"
    assert full.label == "nano@jetson.local-2222"
    assert parse_address("ssh://board").label == "board"
    assert parse_address("ssh://[fe80::1]:22").label == "fe80--1-22"
    assert parse_address("ssh://[fe80::1]:22").host == "fe80::1"
    assert parse_address("local").label == "local"


def test_hosts_are_spelled_as_in_the_configuration_of_ssh_and_name_files_in_small_letters():
    for text, host, label in (
        ("ssh://RPi4", "RPi4", "rpi4"),
        ("ssh://Nano@RPi4:2222?python=/Opt/python", "RPi4", "Nano@rpi4-2222"),
        ("ssh://[FE80::1%Eth0]:22", "FE80::1%Eth0", "fe80--1-eth0-22"),
        ("adb://R58M123ABC", "R58M123ABC", "R58M123ABC"),
    ):
        assert (parse_address(text).host, parse_address(text).label) == (host, label)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nano@jetson", "a device is 'local', 'ssh://user@host:port' or 'adb://serial'"),
        ("ssh://", "the host is missing"),
        ("ssh://host:port", "a device is"),
        ("ssh://host/home", "'/home' is not valid here"),
        ("ssh://host?pyton=3", r"'\?pyton' is not valid here"),
        ("ssh://me:secret@host", "a device URL must not contain a password"),
    ],
)
def test_odd_addresses_are_refused(text, problem):
    with pytest.raises(ConfigError, match=problem) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)

"""A device that hangs, floods, lies or goes away ends in a sentence, in bounded memory, and leaves no damage in the run."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.deploy.devices.address import parse_address
from edgedistill.deploy.devices.transport import HarnessCall
from edgedistill.deploy.harness import Compilation as Work
from edgedistill.deploy.harness import _run, call_harness, compile_model, examine, probe, run_bench
from edgedistill.errors import DeviceError
from edgedistill.kits.kits import read_kit
from edgedistill.records.measurement import Measurement
from edgedistill.runtime.files import sha256_of
from tests.support import command
from tests.support.jobs import REPOSITORY, SCRIPTED, bench_job, scripted_arm
from tests.support.memory import peak_bytes_of
from tests.support.sshd import SSHD, Sshd

pytestmark = pytest.mark.skipif(SSHD is None, reason="sshd is not here; Debian has it in openssh-server")
MOST_BYTES = 200_000_000
"""What a device may make the host take; what a flood would take is without limit."""


class Liar:
    """A device whose agent is that of tests/support/false_agent.py."""

    def __init__(self, folder: Path) -> None:
        self.programs = folder / "programs"
        self.programs.mkdir()
        shutil.copy(REPOSITORY / "tests" / "support" / "false_agent.py", self.programs / "agent.py")
        python = self.programs / "python3"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "{self.programs}/agent.py"\n')
        python.chmod(0o755)
        self.sshd = Sshd(folder / "sshd", path=f"{self.programs}:/usr/bin:/bin")

    def behave(self, name: str) -> None:
        (self.programs / "behaviour").write_text(name)

    def record(self, answer: bytes, files: dict[str, bytes]) -> None:
        """Record what the device plays: its answer on stdout and its measurement files."""
        folder = self.programs / "recorded"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "measurements").mkdir(parents=True)
        (folder / "answer").write_bytes(answer)
        for file, content in files.items():
            (folder / "measurements" / file).write_bytes(content)
        self.behave("replay")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("liar")
    (folder / "sshd").mkdir()
    liar = Liar(folder)
    yield liar
    liar.sshd.close()


@pytest.fixture
def liar(shared, monkeypatch):
    monkeypatch.setenv("HOME", str(shared.sshd.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield shared
    for pid in shared.sshd.started():  # a device that hangs does not end what it started
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def job(*arms):
    return bench_job(*arms, passes=())


def benched(liar, folder, lines=None):
    """Bench the scripted model on the device; return its result, which is a measurement or an error."""
    arm = scripted_arm(folder, "a", address=liar.sshd.url)
    ((_, result),) = run_bench(job(arm), folder, (lines if lines is not None else []).append)
    return result


def left(folder):
    """Return the files of measurements that are in a run folder."""
    return [path for path in (folder / "measurements").rglob("*") if path.is_file()]


GARBAGE = r"sends something else than the agent's messages; check that the login shell"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("garbage", GARBAGE),
        ("partial_json", GARBAGE),
        ("deep_json", GARBAGE),
        ("other_event", GARBAGE),
        ("negative_size", GARBAGE),
        ("endless_line", GARBAGE),
        ("endless_lines", r"printed more than 100,000 lines and was stopped; make the engine or the kit print less"),
        pytest.param(
            "endless_files",
            r"the device sent more than 1,[0-9,]+ bytes of files; it was stopped",
            marks=pytest.mark.slow,
        ),
        ("huge_file", r"the device sent more than 1,[0-9,]+ bytes of files; it was stopped"),
        ("huge_output", r"the program printed 1,000,000,000,000 bytes; at most 16,000,000 are read"),
        ("file_elsewhere", r"sent an unexpected file 'measurements/../../../stolen'; it was not saved"),
        ("other_name", r"sent an unexpected file 'measurements/local-ort-fp32.json'; it was not saved"),
        ("unknown_hash", r"the agent wants a file that it was not offered; it was not sent"),
        ("disconnect", r"the connection was lost"),
        ("damaged_file", r"the file 'measurements/a.json' was damaged in transfer"),
        ("escapes", r"�]0;owned� no such�thing"),
        ("crash", r"the engine crashed the process with signal 100"),
    ],
)
def test_a_device_that_floods_or_sends_damage(liar, tmp_path, behaviour, said):
    liar.behave(behaviour)
    lines = []
    peak, result = peak_bytes_of(lambda: benched(liar, tmp_path, lines))
    assert isinstance(result, str)
    assert re.search(said, result), result
    assert liar.sshd.url in result
    assert peak < MOST_BYTES
    assert not left(tmp_path)
    assert not list(tmp_path.rglob("stolen"))
    assert all(len(line) <= 500 and line.isprintable() for line in (*lines, result[:500]))


@pytest.mark.parametrize("behaviour", ["hang", "endless_log"])
def test_a_device_that_shows_no_progress_is_given_up(liar, behaviour):
    liar.behave(behaviour)
    call = HarnessCall(("bench", "job.json"), {}, {"job.json": "{}"}, silence_s=3.0)
    with pytest.raises(
        DeviceError, match=rf"on {liar.sshd.url}: no sign of progress for 3 s; the process was stopped. See "
    ):
        asyncio.run(_run(parse_address(liar.sshd.url), call, print))


def test_the_exit_code_says_that_the_device_failed(liar, tmp_path):
    liar.behave("garbage")
    done = command.edgedistill("doctor", "--device", liar.sshd.url, cwd=tmp_path, **liar.sshd.environment)
    assert done.returncode == 5
    assert re.search(GARBAGE, done.stderr)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", r"ended with exit code 0: no output"),
        (b"{", r"ended with exit code 0"),
        (b"[1, 2]", r"returned a list instead of an object"),
        (b"[" * 500_000, r"its answer cannot be used: it is nested too deeply"),
        (b"[" * 60 + b"]" * 60, r"its answer cannot be used: it has more than 40 levels"),
        (b'{"cores": NaN}', r"its answer cannot be used: NaN is not a number of JSON"),
        (b'{"cores": 1e999}', r"its answer cannot be used: a number is not finite, or beyond 64 bits"),
        (b'{"cores": ' + b"9" * 30 + b"}", r"its answer cannot be used: a number is not finite, or beyond 64 bits"),
        (b'{"cores": "many"}', r"its description of the device cannot be used: id: Field required"),
        (b"{}", r"its description of the device cannot be used"),
    ],
)
def test_an_answer_that_is_no_description_of_a_device(liar, answer, said):
    liar.record(answer, {})
    with pytest.raises(DeviceError, match=said) as caught:
        probe(None, liar.sshd.url)
    assert liar.sshd.url in str(caught.value)


def test_a_state_and_an_engine_that_are_none(liar):
    facts = probe(None).facts
    liar.record(json.dumps(facts | {"engine": {"name": 1}}).encode(), {})
    with pytest.raises(DeviceError, match=r"its engine cannot be used: name: "):
        probe(read_kit(SCRIPTED), liar.sshd.url)
    with pytest.raises(DeviceError, match=r"its state of the device cannot be used: snapshot: Field required"):
        examine(liar.sshd.url)
    liar.record(json.dumps(facts | {"cpu": "Good\x1b[31m\u202e CPU\x00\n"}).encode(), {})
    assert probe(None, liar.sshd.url).facts["cpu"] == "Good�[31m� CPU�"
    liar.record(b'{"error": 7}', {})
    assert call_harness(liar.sshd.url, HarnessCall(("probe",), {})) == {"error": 7}


@pytest.mark.parametrize(
    "name",
    ["../../../../etc/passwd", "/etc/passwd", "other.json", "", "a\nb"],
    ids=["above", "absolute", "missing", "empty", "line"],
)
def test_a_device_cannot_name_files_of_the_host_as_its_own(liar, tmp_path, name):
    """They would become part of the artifact, and be sent back to the device."""
    facts = probe(None).facts
    made = {"entry": name, "files": [name], "extras": [], "engine": {"name": "e", "version": "1"}, "facts": facts}
    liar.record(json.dumps(made).encode(), {})
    (tmp_path / "m.json").write_text("{}")
    work = Work(
        kit=read_kit(SCRIPTED),
        model=tmp_path / "m.json",
        precision="fp32",
        threads=1,
        out=tmp_path / "out",
        address=liar.sshd.url,
    )
    with pytest.raises(DeviceError, match=r"names the file '.*', which it did not return"):
        compile_model(work)


def true_files(liar, folder):
    """Measure here, and return the files as the device would send them."""
    arm = scripted_arm(folder, "a")
    ((_, measured),) = run_bench(job(arm), folder, print)
    assert isinstance(measured, Measurement), measured
    table = json.loads((folder / "measurements" / "a.json").read_text())
    table["device"]["address"] = liar.sshd.url
    return table, (folder / "measurements" / "a.npz").read_bytes()


def changed(table, where, value):
    *path, last = where
    for key in path:
        table = table[key]
    table[last] = value


LIES = [
    (("latency_ns", "p50"), 0.0, r"latency_ns.p50"),
    (("latency_ns", "p50"), -1.0, r"latency_ns.p50"),
    (("latency_ns", "p50"), float("nan"), r"NaN is not a number"),
    (("latency_ns", "mean"), 1e300, r"beyond 64 bits"),
    (("latency_ns",), None, r"latency_ns"),
    (("processes",), [], r"processes"),
    (("processes", 0, "n"), 10**12, r"the figures of process 1 are not those of its raw samples"),
    (("processes", 0, "p50_ns"), 5.0, r"the figures of process 1 are not those of its raw samples"),
    (("model", "sha256"), "1" * 64, r"its model is .* was measured"),
    (("model", "name"), "other", r"its model is .* was measured"),
    (("target",), "other", r"its target is other, and pc was measured"),
    (("precision", "requested"), "int8", r"its precision.requested is int8, and fp32 was measured"),
    (("threads",), 64, r"its threads is 64, and 1 was measured"),
    (("device", "address"), "local", r"its device.address is local"),
    (("samples_sha256",), "0" * 64, r"its raw samples have another hash"),
    (("samples",), "../../other.npz", r"its samples is "),
    (("size_bytes",), 1, r"its size_bytes is 1, and 123 was measured"),
    (("unknown",), 1, r"unknown: "),
]


def test_results_that_are_false_or_of_something_else_are_not_kept(liar, tmp_path):
    (tmp_path / "true").mkdir()
    table, samples = true_files(liar, tmp_path / "true")
    answer = json.dumps([{"name": "a", "measurement": {}}]).encode()
    liar.record(answer, {"a.json": json.dumps(table).encode(), "a.npz": samples})
    kept = benched(liar, tmp_path)
    assert isinstance(kept, Measurement), kept
    before = {path: path.read_bytes() for path in left(tmp_path)}
    for where, value, said in LIES:
        lie = json.loads(json.dumps(table))
        changed(lie, where, value)
        liar.record(answer, {"a.json": json.dumps(lie).encode(), "a.npz": samples})
        result = benched(liar, tmp_path)
        assert isinstance(result, str), where
        assert re.search(said, result), result
        assert liar.sshd.url in result
        assert {path: path.read_bytes() for path in left(tmp_path)} == before, where


def test_a_link_that_is_cut_between_two_files_keeps_the_pair_before(liar, tmp_path):
    """The measurement of a further set arrives, its samples do not: those of the sets before stay, with their measurement."""
    (tmp_path / "true").mkdir()
    table, samples = true_files(liar, tmp_path / "true")
    liar.record(b"[]", {"a.json": json.dumps(table).encode(), "a.npz": samples})
    liar.behave("disconnect_between_files")
    result = benched(liar, tmp_path)
    kept = tmp_path / "measurements" / "partial" / "a.json"
    assert f"the connection was lost; the measurements made until then are in {kept}" in result
    assert Measurement.model_validate_json(kept.read_text()).latency_ns.n == table["latency_ns"]["n"]
    assert kept.with_suffix(".npz").read_bytes() == samples
    assert sorted(path.name for path in left(tmp_path)) == ["a.json", "a.npz"]


def test_raw_samples_that_are_damaged_are_not_kept(liar, tmp_path):
    (tmp_path / "true").mkdir()
    table, samples = true_files(liar, tmp_path / "true")
    with np.load(tmp_path / "true" / "measurements" / "a.npz") as archive:
        arrays = dict(archive)
    answer, damaged = json.dumps([{"name": "a"}]).encode(), tmp_path / "damaged.npz"
    latencies = arrays["latency_ns"]
    cases = [
        ({"latency_ns": -latencies}, "not all positive numbers"),
        ({"latency_ns": latencies * np.nan}, "not all positive numbers"),
        ({"latency_ns": latencies[:-1]}, "empty, or differ in length"),
        (
            {"latency_ns": latencies[:0], "process": latencies[:0], "preempted": latencies[:0]},
            "empty, or differ in length",
        ),
        ({"latency_ns": latencies + 1}, "the figures of process 1 are not those"),
        ({"process": arrays["process"] + 1}, "the figures of process 1 are not those"),
        ({"latency_ns": latencies.astype("U20")}, "have no latencies"),
        ({"latency_ns": latencies.reshape(1, -1)}, "have no latencies"),
    ]
    for changes, said in cases:
        np.savez(damaged, **(arrays | changes))
        described = table | {"samples_sha256": sha256_of(damaged)}
        liar.record(answer, {"a.json": json.dumps(described).encode(), "a.npz": damaged.read_bytes()})
        result = benched(liar, tmp_path)
        assert isinstance(result, str), said
        assert said in result, result
    del table["samples_sha256"]  # as in files of an earlier version
    for content, said in ((samples[: len(samples) // 2], "not a readable .npz"), (b"", "not a readable .npz")):
        liar.record(answer, {"a.json": json.dumps(table).encode(), "a.npz": content})
        assert said in benched(liar, tmp_path)
    liar.record(answer, {"a.npz": samples})
    assert "returned no measurement of a" in benched(liar, tmp_path)
    liar.record(answer, {"a.json": b"[" * 100_000, "a.npz": samples})
    assert "its measurement of a is damaged: it is nested too deeply" in benched(liar, tmp_path)
    assert not left(tmp_path)

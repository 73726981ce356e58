"""Devices that opened the page: a device is one answer after those of the targets, and no visit changes what gates decide."""

import asyncio
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from edgedistill.compare.comparison import compare_runs, summarise_run
from edgedistill.compare.load import load_run
from edgedistill.config.gates import parse_gate
from edgedistill.gates.evaluate import apply_gates
from edgedistill.runtime.folder import Run
from edgedistill.serve import visits
from edgedistill.serve.offer import offers
from edgedistill.serve.runtime import read_web_kit
from edgedistill.serve.store import keep
from edgedistill.serve.upload import read_upload
from edgedistill.serve.visits import Visits
from tests.support.command import edgedistill
from tests.support.uploads import upload_of

GATES = ("p95_ms > 1000", "size_bytes > 1", "accuracy < -50")


def visit(folder: Path, name: str, *models: str, threads: int = 1) -> None:
    """Keep what a page would send of models of a run, as the server does."""
    kit = read_web_kit()
    offered = offers(Run(folder), kit)
    for one in offered:
        if one.summary.key in models:
            sent = upload_of(one, threads=threads)
            sent |= {"device": sent["device"] | {"name": name}}
            sent |= {"processes": [process | {"threads": threads} for process in sent["processes"]]}
            upload, offer, outputs = read_upload(json.dumps(sent).encode(), offered)
            keep(folder, kit, upload, offer, outputs)


def decided(folder: Path, *extra: str) -> tuple[int, list[str], list[str]]:
    """Return the exit code, the lines of the gates, and the names of the JUnit cases."""
    junit = folder.parent / "gates.xml"
    options = [part for gate in GATES for part in ("--fail-if", gate)]
    found = edgedistill("compare", folder, *options, "--junit", junit, *extra, cwd=folder.parent)
    lines = [line for line in found.stdout.splitlines() if line.startswith("gate ")]
    return found.returncode, lines, [str(case.get("name")) for case in ET.parse(junit).iter("testcase")]


@pytest.mark.slow
def test_phones_do_not_change_what_gates_decide(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "runs" / "digits", tmp_path / "digits"))
    released = load_run(Path(shutil.copytree(folder, tmp_path / "released")))
    before = decided(folder)
    assert before[0] == 3
    assert len(before[1]) == 6
    assert all(" on pc: " in line for line in before[1])
    assert all(" on pc: " in name for name in before[2])
    visit(folder, "Pixel 8", "student-fp32", "student-int8")
    visit(folder, "My phone", "student-fp32", "teacher-fp32")
    assert decided(folder) == before
    against = apply_gates(compare_runs(released, [load_run(folder)]), [parse_gate("size_bytes > +0%")])
    assert {one.decision for one in against.gates} == {"pass"}
    back = apply_gates(compare_runs(load_run(folder), [released]), [parse_gate("size_bytes > +0%")])
    assert [one.who for one in back.gates] == [one.who.replace("digits", "released") for one in against.gates]
    code, lines, _ = decided(folder, "--phones")
    assert code == 3
    assert [line for line in lines if "(browser)" not in line] == before[1]
    assert sum(" on My phone (browser): " in line for line in lines) == 6


@pytest.mark.slow
def test_a_device_is_one_answer_after_those_of_the_targets(finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished / "runs" / "digits", tmp_path / "digits"))
    visit(folder, "Pixel 8", "student-fp32", "student-int8", "teacher-fp32")
    visit(folder, "Pixel 8", "student-int8", threads=2)
    own, phone = summarise_run(load_run(folder)).groups
    assert (own.target, own.is_visitor) == ("pc", False)
    assert phone.title.startswith("Pixel 8: onnxruntime-web ")
    assert " in Chrome 156, visit of 20" in phone.title
    assert [row.label for row in phone.rows] == [
        "teacher (1 thread) fp32", "student (1 thread) fp32", "student (1 thread) int8", "student (2 threads) int8",
    ]  # fmt: skip
    assert phone.rows[-1].reasons["speedup"] == "the teacher was not measured on this target"
    assert phone.answer.startswith("Pixel 8: ")


def test_a_server_waits_for_what_devices_have_begun() -> None:
    stopped: list[bool] = []
    counted = Visits(2, lambda: stopped.append(True))
    counted.progress("a", "student fp32")
    counted.sent("a")
    counted.sent("a")
    counted.progress("a", visits.DONE)
    assert not stopped  # two measurements, one device
    counted.progress("c", "student fp32")
    counted.sent("b")
    assert not stopped  # c has begun
    counted.progress("c", visits.DONE)
    assert stopped
    assert counted.measured == {"a", "b"}


def test_a_device_that_goes_away_is_done_unless_it_comes_back() -> None:
    async def until(away: bool) -> bool:
        stopped = asyncio.Event()
        counted = Visits(1, stopped.set, grace_s=0.01)
        counted.progress("a", "student fp32")
        counted.sent("a")
        counted.left("a")
        if not away:
            counted.entered("a")
        await asyncio.sleep(0.05)
        return stopped.is_set()

    assert asyncio.run(until(away=True))
    assert not asyncio.run(until(away=False))

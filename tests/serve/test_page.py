"""The page in real browsers, opened by the link as it is printed: models run there, and the run has their figures."""

import asyncio
import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedistill.records.measurement import Measurement
from edgedistill.statistics import speedup
from tests.support.browser import CHROMIUM, FIREFOX, chromium, firefox
from tests.support.command import edgedistill
from tests.support.serving import Served

READY = "document.getElementById('form')?.hidden === false"
DONE = "document.body.dataset.state === 'done'"
START = "document.getElementById('start').click()"
TEACHER = """[...document.querySelectorAll('input[value="teacher-fp32"]')].map((box) => box.checked)"""
NO_TEACHER = """document.querySelectorAll('input[value="teacher-fp32"]').forEach((box) => (box.checked = false))"""
NO_INT8 = """{ const whole = window.fetch;
    window.fetch = async (url, more) => (String(url).includes("student-int8") ? new Response("not a model") : whole(url, more)); }"""
"""Damages a model on its way to the page."""

with_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
with_firefox = pytest.mark.skipif(FIREFOX is None, reason="no Firefox here: apt-get install firefox-esr")


def copy(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "digits"))


def measurements(run: Path) -> dict[str, dict]:
    found = [json.loads(path.read_text()) for path in (run / "measurements").glob("browser-*.json")]
    return {f"{m['precision']['requested']} {m['threads']}": m for m in found}


async def measure(page, link: str, effort: str, *choices: str) -> dict:
    await page.open(link)
    await page.until(READY)
    assert await page.evaluate(TEACHER) == [True]  # the baseline of this device, which has not measured it
    await page.evaluate(NO_TEACHER)  # the tests look at the students only
    await page.evaluate(f"document.querySelector('#effort option').value = '{effort}'")
    for choice in choices:
        await page.evaluate(choice)
    await page.evaluate(START)
    await page.until(DONE, 300)
    return await page.evaluate("""({
        problem: document.getElementById('trouble').textContent,
        cards: [...document.querySelectorAll('.card')].map((card) => [card.querySelector('h3').textContent, card.dataset.state ?? '', card.innerText]),
        ratios: [...document.querySelectorAll('#ratios li')].map((item) => ({...item.dataset, text: item.textContent})),
        alone: document.getElementById('alone').textContent,
        rows: document.querySelectorAll('#others tr').length,
    })""")


@pytest.mark.slow
@with_chromium
def test_a_phone_opens_the_link_and_its_figures_join_the_run(
    run: Path, serve: Callable[..., Served], tmp_path: Path
) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder)

    async def visit() -> tuple[dict, list[str]]:
        async with chromium("--ignore-certificate-errors") as page:
            await page.screen(390)
            return await measure(page, served.links[0], "3x0.2"), page.problems

    shown, problems = asyncio.run(visit())
    assert problems == []
    assert shown["problem"] == ""
    assert [(title, state) for title, state, _ in shown["cards"]] == [
        ("student fp32, 1 thread", "sent"), ("student fp32, 2 threads", "sent"),
        ("student int8, 1 thread", "sent"), ("student int8, 2 threads", "sent"),
    ]  # fmt: skip
    assert [(one["model"], one["other"]) for one in shown["ratios"]] == [
        ("student-fp32-wasm-2t", "student-fp32-wasm-1t"), ("student-int8-wasm-1t", "student-fp32-wasm-1t"),
        ("student-int8-wasm-2t", "student-fp32-wasm-2t"),
    ]  # fmt: skip
    assert shown["alone"] == ""
    assert served.end() == 0
    assert served.said[-1].startswith("4 measurements of 1 device in ")
    found = measurements(folder)
    assert sorted(found) == ["fp32 1", "fp32 2", "int8 1", "int8 2"]
    for name, m in found.items():
        check_measurement(folder, name, m)
    check_ratios(found, shown["ratios"])
    compared = edgedistill("compare", folder, "--json", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    rows = [row for group in json.loads(compared.stdout)["groups"] for row in group["rows"]]
    assert sorted(row["measurement"]["browser"]["provider"] for row in rows) == ["wasm"] * 4
    reported = edgedistill("report", folder, cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "onnxruntime-web 1.30.0" in (folder / "report.html").read_text()


def check_ratios(found: dict[str, dict], shown: list[dict]) -> None:
    """The page shows what the files say, and each pair of files says the same."""
    assert len({m["duet"]["id"] for m in found.values()}) == 1
    arms = {m["duet"]["arm"]: m for m in found.values()}
    for name, m in arms.items():
        assert sorted([name, *m["duet"]["ratios"]]) == sorted(arms)
        for other, ratios in m["duet"]["ratios"].items():
            assert np.multiply(ratios, arms[other]["duet"]["ratios"][name]) == pytest.approx(np.ones(3))
    for one in shown:
        measured = speedup(
            Measurement.model_validate(arms[one["other"]]), Measurement.model_validate(arms[one["model"]])
        )
        assert measured.duet
        assert float(one["ratio"]) == pytest.approx(1 / measured.value)
        assert measured.verdict == one["verdict"]


def check_measurement(folder: Path, name: str, m: dict) -> None:
    assert m["kit"] == "web"
    assert m["browser"] | {"timer_ns": 0, "user_agent": "", "loops": 0} == {
        "provider": "wasm", "user_agent": "", "secure": True, "isolated": True, "shared_memory": True, "timer_ns": 0,
        "loops": 0, "heap_bytes": m["browser"]["heap_bytes"], "gpu": None, "hidden": False,
    }  # fmt: skip
    assert m["browser"]["heap_bytes"] >= 16 << 20
    assert m["browser"]["timer_ns"] < 50_000
    assert {process["threads"] for process in m["processes"]} == {int(name[-1])}
    assert m["parity"]["agreement"] >= (0.995 if name.startswith("fp32") else 0.9)
    assert m["parity"]["max_abs_diff"] < 0.5
    assert m["accuracy"]["n"] == 360
    assert len(m["processes"]) == 3
    assert m["schema"] == "edgedistill.measurement/2"
    assert all(process["bursts"] >= 5 and process["lead_n"] >= process["bursts"] for process in m["processes"])
    assert m["latency_ns"]["ci95"]["p50"] is not None
    assert m["energy_uj"] is None
    assert "does not report the power" in m["reasons"]["energy_uj"]
    assert m["memory_bytes"] is None
    with np.load(folder / "measurements" / m["samples"], allow_pickle=False) as samples:
        assert len(samples["latency_ns"]) == sum(process["n"] for process in m["processes"])
        assert set(samples["process"]) == {0, 1, 2}
        assert len(samples["burst"]) == len(samples["latency_ns"])
        assert len(samples["lead_ns"]) == len(samples["lead_burst"]) == sum(one["lead_n"] for one in m["processes"])


NO_MEMORY = "Object.defineProperty(Navigator.prototype, 'deviceMemory', { get: () => 0.25 })"
FEW_WORKERS = """{
    const Plain = Worker;
    let alive = 0;
    self.Worker = class extends Plain {
        constructor(...about) {
            if (alive === 2) throw new Error("out of memory");
            super(...about);
            alive += 1;
        }
        terminate() {
            alive -= 1;
            super.terminate();
        }
    };
}"""
"""A browser that allows two workers."""


@pytest.mark.slow
@with_chromium
@pytest.mark.parametrize(
    ("browser", "reason"),
    [
        (NO_MEMORY, "3 models would need [0-9]+ MB of memory together, and this page uses at most 67 MB"),
        (FEW_WORKERS, "(student|teacher) (fp32|int8), 1 thread did not start beside the other models: out of memory"),
    ],
    ids=["little memory", "two workers"],
)
def test_models_without_memory_for_all_are_measured_alone(
    run: Path, serve: Callable[..., Served], tmp_path: Path, browser: str, reason: str
) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder, "--http")

    async def visit() -> dict:
        async with chromium() as page:
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=browser)
            choose = "for (const box of document.querySelectorAll('#models input')) box.checked = true"
            one_thread = "for (const box of document.getElementsByName('threads')) box.checked = box.value === '1'"
            return await measure(page, served.links[0], "3x0.1", choose, one_thread)

    shown = asyncio.run(visit())
    assert [state for _, state, _ in shown["cards"]] == ["sent"] * 3
    assert re.search(reason, shown["alone"])
    assert all(one["verdict"] == "cannot tell" for one in shown["ratios"])
    found = list(measurements(folder).values())
    assert len({m["duet"]["id"] for m in found}) == len(found)
    for m in found:
        assert m["duet"]["ratios"] == {}
        assert re.search(reason, m["reasons"]["duet.ratios"])
        assert all(process["bursts"] >= 2 for process in m["processes"])


@pytest.mark.slow
@with_chromium
def test_a_model_that_fails_stops_no_other_and_the_button_stops_all(
    run: Path, serve: Callable[..., Served], tmp_path: Path
) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder)

    async def visit() -> tuple[dict, str, int]:
        async with chromium("--ignore-certificate-errors") as page:
            shown = await measure(page, served.links[0], "3x0.1", NO_INT8)
            sent = len(measurements(folder))
            await page.evaluate("document.querySelector('#effort option').value = '3x60'")  # it lasts until the button
            await page.evaluate(START)
            await page.until("document.getElementById('there').textContent.includes('in turns')")
            await page.evaluate("document.getElementById('stop').click()")
            await page.until("document.getElementById('form').hidden === false")
            await page.until("document.getElementById('there').textContent === ''")  # the server was told
            return shown, await page.evaluate("document.getElementById('trouble').textContent"), sent

    shown, trouble, sent = asyncio.run(visit())
    assert [(title, state) for title, state, _ in shown["cards"]] == [
        ("student fp32, 1 thread", "sent"), ("student fp32, 2 threads", "sent"),
        ("student int8, 1 thread", ""), ("student int8, 2 threads", ""),
    ]  # fmt: skip
    assert [one["model"] for one in shown["ratios"]] == ["student-fp32-wasm-2t"]
    assert trouble == "Stopped. Results that were not sent are lost."
    assert sent == 2


@pytest.mark.slow
@with_chromium
def test_plain_http_gives_one_thread_and_says_what_that_costs(
    run: Path, serve: Callable[..., Served], tmp_path: Path
) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder, "--http")
    name = socket.gethostname()  # browsers do not trust it as they do localhost
    link = served.links[0].replace("127.0.0.1", name)

    async def visit() -> tuple[dict, str]:
        async with chromium(f"--host-resolver-rules=MAP {name} 127.0.0.1") as page:
            shown = await measure(page, link, "1x0.2")
            return shown, await page.evaluate("document.getElementById('threads-note').textContent")

    shown, note = asyncio.run(visit())
    assert "plain HTTP" in note
    assert shown["problem"] == ""
    assert [card[:2] for card in shown["cards"]] == [
        ["student fp32, 1 thread", "sent"],
        ["student int8, 1 thread", "sent"],
    ]
    found = measurements(folder)
    assert sorted(found) == ["fp32 1", "int8 1"]
    for m in found.values():
        assert not m["browser"]["isolated"]
        assert m["browser"]["timer_ns"] >= 50_000
        assert m["browser"]["loops"] > 1
        assert "timer has steps" in m["reasons"]["latency_ns"]
        assert m["parity"]["agreement"] >= 0.9


@pytest.mark.slow
@with_chromium
def test_a_page_that_vanishes_leaves_the_run_whole(run: Path, serve: Callable[..., Served], tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder, "--http")

    async def visit() -> None:
        async with chromium() as page:
            await page.open(served.links[0])
            await page.until(READY)
            await page.evaluate(START)
            await page.until("document.getElementById('stage').textContent.startsWith('checks')")

    asyncio.run(visit())
    assert served.process.poll() is None
    assert not (folder / "measurements").exists() or not list((folder / "measurements").iterdir())
    served.end()


@pytest.mark.slow
@with_chromium
def test_a_page_loads_few_bytes(run: Path, serve: Callable[..., Served], tmp_path: Path) -> None:
    served = serve(copy(run, tmp_path))

    async def visit() -> int:
        async with chromium("--ignore-certificate-errors") as page:
            await page.open(served.links[0])
            await page.until(READY)
            await page.evaluate(START)
            await page.until("document.querySelector('.card') !== null")
            return page.received_bytes

    assert asyncio.run(visit()) < 5_000_000


@pytest.mark.slow
@with_firefox
def test_firefox_runs_it_too(run: Path, serve: Callable[..., Served], tmp_path: Path) -> None:
    folder = copy(run, tmp_path)
    served = serve(folder, "--count", "1")

    async def visit() -> dict:
        async with firefox() as page:
            return await measure(page, served.links[0], "1x0.2")

    shown = asyncio.run(visit())
    assert shown["problem"] == ""
    assert [state for _, state, _ in shown["cards"]] == ["sent"] * 4, shown["cards"]
    assert served.wait() == 0
    found = measurements(folder)
    assert sorted(found) == ["fp32 1", "fp32 2", "int8 1", "int8 2"]
    for m in found.values():
        assert "Firefox" in m["browser"]["user_agent"]
        assert m["browser"]["isolated"]
        assert m["parity"]["agreement"] >= 0.9

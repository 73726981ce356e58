"""The report of a real run: how to repeat it, the names of its layers, and how it looks in a browser."""

import asyncio
import html
import re
from pathlib import Path

import pytest

from edgedistill.compare.comparison import summarise_run
from edgedistill.compare.load import load_run
from edgedistill.config.load import load_config, parse_text
from edgedistill.records.measurement import Layer, LayerProfile
from edgedistill.report.layers import layer_tables, module_names, profiler_ns
from edgedistill.report.report import render_report
from edgedistill.runtime.folder import Run
from tests.support.browser import CHROMIUM, chromium

WEIGHTED = re.compile("conv|gemm", re.IGNORECASE)


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    return render_report(finished / "runs" / "digits")


def test_the_configuration_repeats_the_run(finished: Path, page: str) -> None:
    (text,) = re.findall(r'<pre class="configuration">(.*?)</pre>', page, flags=re.DOTALL)
    path = finished / "edgedistill.toml"
    assert parse_text(html.unescape(text), path) == load_config(path)
    (install,) = re.findall(r"<pre>(pip install [^\n]*)", page)
    assert re.search(r"\bonnxruntime==\d", install)
    assert "edgedistill==" not in install  # no index has it


def test_layers_with_weights_have_the_names_of_their_modules(finished: Path) -> None:
    run = Run(finished / "runs" / "digits")
    for one in load_run(run.folder).results:
        profile = one.measurement.layers
        assert profile is not None
        names = module_names(run, one.measurement.model.sha256, profile.layers)
        weighted = [layer.name for layer in profile.layers if WEIGHTED.search(layer.type)]
        assert len(weighted) == 10
        assert set(weighted) == set(names)
        assert len(set(names.values())) == 10
        assert {"stem", "fc", "blocks.0.c1", "blocks.2.sc"} <= set(names.values())


def test_the_time_of_the_profiler_is_removed_or_the_table_is_left_out(finished: Path) -> None:
    assert profiler_ns([3000, 5000, 12000], 17000) == 1000
    assert profiler_ns([0, 5000, 12000], 14000) == 0
    assert profiler_ns([3000, 5000], 9000) == 0
    run = Run(finished / "runs" / "digits")
    (group,) = summarise_run(load_run(run.folder)).groups
    row, p50 = group.rows[0], group.rows[0].measurement.latency_ns.p50

    def table(*nanoseconds: float):
        layers = tuple(Layer(name=f"l{i}", type="Conv", precision="fp32", ns=ns) for i, ns in enumerate(nanoseconds))
        profile = LayerProfile(layers=layers, profiled_ns=9 * p50, plain_ns=2 * p50)
        measured = row.measurement.model_copy(update={"layers": profile})
        (found,) = layer_tables([row.model_copy(update={"measurement": measured})], None)
        return found

    shown = table(0.3 * p50, 0.9 * p50)
    assert [layer.share for layer in shown.rows] == pytest.approx([0.2, 0.8])
    assert "are removed from each layer" in shown.note
    drowned = table(0.8 * p50, 0.9 * p50)
    assert drowned.rows == ()
    assert "1.70x the " in drowned.note


LOOK = """(() => {
  const inside = (inner, outer) => inner.left >= outer.left - 1 && inner.right <= outer.right + 1 && inner.top >= outer.top - 1
    && inner.bottom <= outer.bottom + 1;
  const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 1 || b.bottom <= a.top + 1;
  const plots = [...document.querySelectorAll('figure > svg')].filter((svg) => svg.querySelector('text'));
  const texts = plots.map((svg) => [...svg.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]));
  return {
    width: document.documentElement.scrollWidth,
    wide: [...document.querySelectorAll('.scroll')].filter((one) => one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX === 'auto').length,
    plots: plots.length,
    outside: plots.flatMap((svg, i) => texts[i].filter(([, box]) => !inside(box, svg.getBoundingClientRect())).map(([text]) => text)),
    colliding: texts.flatMap((of) => of.flatMap(([text, box], i) => of.slice(0, i).filter(([, other]) => !apart(box, other))
      .map(([other]) => `${text} / ${other}`))),
    points: plots.filter((svg) => svg.querySelector('title').textContent.includes('against')).flatMap((svg) =>
      [...svg.querySelectorAll('.series')].filter((one) => !inside(one.getBoundingClientRect(), svg.getBoundingClientRect()))).length,
    faded: [...document.querySelectorAll('.target .plots .series')].map((one) => [one.classList.contains('m1'), getComputedStyle(one).opacity < 0.2])
      .filter(([own, faded]) => own === faded).length,
    anchors: [...document.querySelectorAll('nav a')].filter((a) => !document.querySelector(a.getAttribute('href'))).length,
  };
})()"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_nothing_is_wider_than_a_phone_and_no_label_leaves_its_plot(page: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(page, encoding="utf-8")

    async def look() -> list[dict]:
        async with chromium() as tab:
            found = []
            for width in (390, 1280):
                await tab.screen(width)
                await tab.open((tmp_path / "report.html").as_uri())
                await tab.until("document.readyState === 'complete'")
                await tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                await tab.evaluate("document.querySelector('.results tr.m1').focus()")
                await asyncio.sleep(0.3)  # highlighting fades in
                found.append(await tab.evaluate(LOOK) | {"problems": list(tab.problems)})
            return found

    for width, seen in zip((390, 1280), asyncio.run(look()), strict=True):
        assert seen["width"] <= width
        assert seen["wide"] == 0
        assert seen["plots"] == 4
        assert (seen["outside"], seen["points"], seen["colliding"], seen["problems"]) == ([], 0, [], [])
        assert (seen["anchors"], seen["faded"]) == (0, 0)

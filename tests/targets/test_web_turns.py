"""What the page computes of models that take turns: who has a burst and when, and the ratio of two models."""

import json
import math
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest
import turns
from constants import BURSTS, DUET, SAMPLING

from edgedistill.statistics import DUET_NOISE, MINIMUM_PROCESSES, SAME_SPEED, speedup_of_ratios
from tests.support.jobs import TARGETS

MODULES = "\n".join(
    f'import * as {name} from "{(TARGETS / "web" / f"{name}.mjs").as_uri()}";' for name in ("stats", "turns")
)


def javascript(expression: str, given: Any = None) -> Any:
    """Return the value of an expression of the page's modules; `given` is its input."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    script = f"{MODULES}\nconst given = {json.dumps(given)};\nconsole.log(JSON.stringify({expression}));"
    command = ["node", "--input-type=module", "--eval", script]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_the_page_decides_as_compare_does() -> None:
    rng = np.random.default_rng(0)
    given = [np.exp(rng.normal(mean, 0.004, n)).tolist() for mean in (0, 0.02, -0.02) for n in (2, 3, 5, 20)]
    given += [[1.004] * 5, [1.006] * 5, [0.994] * 5, [0.9, 1.0, 1.2], [0.97, 1.0, 1.03]]
    opposite = {"faster": "slower", "slower": "faster"}
    assert (DUET.noise, DUET.same, DUET.least_sets) == (DUET_NOISE, SAME_SPEED, MINIMUM_PROCESSES)
    for ratios, found in zip(given, javascript("given.map(stats.compare)", given), strict=True):
        wanted = speedup_of_ratios(ratios)  # the ratio of the one to the other, as a speedup of the other
        assert found["ratio"] == pytest.approx(wanted.value)
        assert found["ci95"] == (None if wanted.ci95 is None else pytest.approx(wanted.ci95, rel=1e-4))
        assert found["verdict"] == opposite.get(wanted.verdict, wanted.verdict)
    assert {speedup_of_ratios(ratios).verdict for ratios in given} == {*opposite, "no difference seen", "cannot tell"}


def test_the_ratio_of_a_set_is_the_median_over_the_rounds_that_both_have() -> None:
    own, other = [[0, 10.0], [1, 12.0], [3, 30.0], [4, 11.0]], [[0, 10.0], [2, 1.0], [3, 10.0], [4, 10.0]]
    found = javascript("stats.ratioOf(new Map(given[0]), new Map(given[1]))", [own, other])
    assert found == pytest.approx(1.1)
    assert javascript("stats.ratioOf(new Map(given[0]), new Map([[9, 1]]))", [own, other]) is None


def test_a_median_does_not_jump_by_a_step_of_the_timer() -> None:
    rng, step = np.random.default_rng(1), 5000.0
    true = [205_000.0, 206_200.0, 207_500.0, 209_000.0]
    read = [(np.floor(rng.uniform(0, step, 400) / step + ns / step) * step).tolist() for ns in true]
    found = javascript("given.map((values) => stats.medianOnGrid(values, 5000))", read)
    assert found == pytest.approx(true, rel=0.005)
    assert max(abs(np.median(values) / ns - 1) for values, ns in zip(read, true, strict=True)) > 0.008
    assert javascript("stats.medianOnGrid([7, 1, 4], 1e-9)") == pytest.approx(4)


def test_rounds_are_shuffled_and_then_reversed() -> None:
    given = "Array.from({ length: 40 }, ((rounds) => () => rounds.next().value)(turns.orders('abcd', 7)))"
    found = ["".join(order) for order in javascript(given)]
    assert all(later == earlier[::-1] for earlier, later in zip(found[::2], found[1::2], strict=True))
    assert {"".join(sorted(order)) for order in found} == {"abcd"}
    assert len({order[0] for order in found}) == 4
    assert found == ["".join(order) for order in javascript(given)]
    assert found != ["".join(order) for order in javascript(given.replace("7", "8"))]


def test_a_model_has_bursts_for_its_seconds() -> None:
    given = [0.2, 1.5, 20, 1000]
    found = javascript("given.map((sampleMs) => turns.burstsFor(sampleMs, 1))", given)
    samples = [max(BURSTS.least, math.ceil(1000 * BURSTS.least_s / sample_ms)) for sample_ms in given]
    assert found == [100, 96, 24, 4]
    for bursts, each, sample_ms in zip(found, samples, given, strict=True):
        assert bursts * each * sample_ms >= 1000
        assert bursts * each >= min(72, 1000 * SAMPLING.most_times / sample_ms)
    assert javascript("turns.burstsFor(0.1, 1e6) * 100") == javascript("turns.MOST_SAMPLES")


def test_models_with_few_bursts_are_spread_evenly_over_the_rounds_of_others() -> None:
    bursts = [5, 20, 7, 20]
    found = javascript("turns.roundsFor(given).map((rounds) => [...rounds])", bursts)
    assert [len(rounds) for rounds in found] == bursts
    assert found[1] == found[3] == list(range(20))
    assert set(found[0]) < set(found[2])
    assert max(np.diff(found[2])) <= 3
    assert found == [sorted(rounds) for rounds in turns._rounds(bursts)]


def test_models_that_do_not_fit_into_memory_together_are_named() -> None:
    arms = "Array.from({ length: given }, () => ({ model: new ArrayBuffer(6e6), content: new ArrayBuffer(4e6), heap: 62e6 }))"
    assert javascript(f"turns.tooLarge({arms}, 14e6, 4e9)", 10) is None
    assert javascript(f"turns.tooLarge({arms}, 14e6, null)", 10) is None
    words = javascript(f"turns.tooLarge({arms}, 14e6, 2e9)", 10)
    assert words == "10 models would need 1000 MB of memory together, and this page uses at most 500 MB"
    assert javascript(f"turns.tooLarge({arms}, 14e6, 1e6)", 1) is None


STOP = """
import { createServer } from "node:http";
import { Measuring } from "MEASURE";
const server = createServer((request, answer) => answer.write("the first bytes")); // the rest never comes
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
globalThis.document = { visibilityState: "visible", addEventListener() {}, removeEventListener() {} };
const page = `http://127.0.0.1:${server.address().port}/`;
const whole = globalThis.fetch;
globalThis.fetch = (url, options) => whole(new URL(url, page), options); // node has no page that a URL is relative to
const hooks = { stage() {}, note: () => measuring.stop() };
const measuring = new Measuring({ arms: [{ provider: "wasm" }] }, hooks);
console.log(await measuring.run().catch((error) => error.message));
process.exit(0);
"""


def test_stop_also_ends_a_download() -> None:
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    script = STOP.replace("MEASURE", (TARGETS / "web" / "measure.mjs").as_uri())
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == "stopped\n"

"""The page's own look at a model's answers is what the harness computes of them."""

import json
import shutil
import subprocess

import numpy as np
import pytest
from check import Criteria, parity_of

from tests.support.jobs import TARGETS

RNG = np.random.default_rng(0)
SCRIPT = """
import { parity } from "PARITY";
import { readFileSync } from "node:fs";
const { about, content, outputs } = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => new Uint8Array(Buffer.from(text, "hex"));
const got = Object.fromEntries(Object.entries(outputs).map(([name, text]) => [name, bytes(text)]));
console.log(JSON.stringify(parity(about, bytes(content).buffer, got)));
"""


def page_parity(got, wanted, metric="top1", output=None):
    """Return what the page makes of outputs (N, ...) by name."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    blocks, content = [], b""
    for name, array in wanted.items():
        content += bytes(-len(content) % 8)
        blocks.append({"name": name, "dtype": str(array.dtype), "offset": len(content), "bytes": array.nbytes})
        content += array.tobytes()
    count = len(next(iter(wanted.values())))
    about = {"requests": {"count": count, "outputs": blocks}, "metric": metric, "output": output}
    given = {"about": about, "content": content.hex(), "outputs": {k: v.tobytes().hex() for k, v in got.items()}}
    script = SCRIPT.replace("PARITY", (TARGETS / "web" / "parity.mjs").as_uri())
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("judged", [None, "logits"])
def test_the_page_finds_what_the_harness_finds(judged):
    wanted = {
        "boxes": RNG.normal(size=(12, 1, 8)).astype(np.float32),
        "logits": RNG.normal(size=(12, 5)).astype(np.float32),
        "count": RNG.integers(0, 9, (12, 1)),
        "zero": np.zeros((12, 2), np.int32),
    }
    got = {
        k: v if v.dtype.kind == "i" else v + RNG.normal(0, 0.3, v.shape).astype(np.float32) for k, v in wanted.items()
    }
    kept = parity_of(got, wanted, Criteria("web", "top1", "recorded", judged, 0.0, {}))
    seen = page_parity(got, wanted, output=judged)
    assert seen["agreement"] == pytest.approx(kept["agreement"])
    assert seen["max_abs_diff"] == pytest.approx(kept["max_abs_diff"])


def test_the_page_leaves_other_metrics_to_the_server():
    values = {"y": np.ones((3, 1), np.float32)}
    assert page_parity(values, values, metric="r2") == {"max_abs_diff": 0, "agreement": None}


@pytest.mark.parametrize("by", [0.001, 1.0])
def test_the_page_judges_outputs_that_are_all_the_same_as_the_harness_does(by):
    wanted = {"logits": np.ones((4, 3), np.float32)}
    got = {"logits": wanted["logits"] + np.float32(by)}
    kept = parity_of(got, wanted, Criteria("web", "top1", "recorded", None, 0.0, {}))
    assert page_parity(got, wanted)["agreement"] == kept["agreement"] == (None if by < 0.01 else 0)

"""`edgedistill search` as a user runs it: on real digits, with real engines, before and after a short training."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from edgedistill import api
from edgedistill.cli.main import cli
from edgedistill.config.load import load_config
from edgedistill.config.schema import Budget, Config
from edgedistill.config.training import StudentConfig
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kits
from edgedistill.pipeline.pipeline import Plan, run_pipeline
from edgedistill.records.measurement import Latency
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import QUIET
from edgedistill.search.families import find_sizes
from edgedistill.search.measure import check_limits
from edgedistill.search.records import Candidate, SearchOptions, SearchResult, TargetResult
from edgedistill.search.search import REFINEMENTS, bisect, refine, train_finalists
from edgedistill.search.search import search as search_students
from edgedistill.search.settings import declare_search
from tests.support.compare_builders import Fake, measurement
from tests.support.kits import write_kit
from tests.support.learning import config_of, loaded, sources_of

CONFIG = """
name = "digits"
[data]
train = "edgedistill.data.digits:train"
test = "edgedistill.data.digits:test"
[teacher]
model = "zoo:mlperf-resnet8"
epochs = 2
batch_size = 32
[student]
model = "zoo:mlperf-resnet8"
width = 0.25
[distill]
batch_size = 32
views = 1
hard_weight = 0.5
[[target]]
name = "pc-ort"
kit = "ort"
{budget}
[[target]]
name = "pc-openvino"
kit = "openvino"
precisions = ["fp32"]
"""
BROKEN = """
name = "broken"
title = "No engine"
engine = "numpy"
package = "numpy"
precisions = ["fp32"]
opset = 18
install = "python3 -m pip install numpy"
[encoding]
x86_64 = "s8-f32"
aarch64 = "s8-f32"
"""
QUICK = ("--processes", "1", "--seconds", "0.1")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def write(budget):
        (tmp_path / "edgedistill.toml").write_text(CONFIG.format(budget=budget))
        return tmp_path / "edgedistill.toml"

    return write


def search(*arguments):
    result = CliRunner().invoke(cli, ["-q", "search", *map(str, arguments)])
    return getattr(result.exception, "exit_code", result.exit_code), result.stdout, str(result.exception or "")


@given(st.integers(0, 40), st.integers(0, 40))
def test_bisection_finds_the_last_that_fits_in_few_steps(count, fitting):
    tried = []

    def fits(place):
        tried.append(place)
        return place < fitting

    found = bisect(count, fits)
    assert found == (min(count, fitting) - 1 if min(count, fitting) else None)
    assert len(tried) == len(set(tried)) <= count.bit_length()


@pytest.mark.slow
def test_the_largest_of_each_family_within_the_budget_is_found_untrained(config, tmp_path):
    path = config("budget = { size_bytes = 45_000 }")
    code, text, error = search(path, "--model", "zoo:mlperf-resnet8", "--model", "prune", *QUICK, "--json")
    assert code == 0, error
    found = json.loads(text)
    assert found["schema"] == "edgedistill.search/1"
    assert json.loads((tmp_path / "runs/digits/search/search.json").read_text()) == found
    assert not (tmp_path / "runs/digits/teacher").exists()
    for family in ("zoo:mlperf-resnet8", None):
        sizes = sorted(
            (c for c in found["candidates"] if c["student"]["model"] == family), key=lambda c: c["parameters"]
        )
        within = [any(one["fits"] for one in c["measured"] if one["target"] == "pc-ort") for c in sizes]
        assert within == sorted(within, reverse=True)
        assert True in within
        best = sizes[within.index(False) - 1] if False in within else sizes[-1]
        assert best["name"] in {one["name"] for one in found["fitting"]}
        there = [one for one in best["measured"] if one["target"] == "pc-ort"]
        assert min(one["size_bytes"] for one in there) <= 45_000
        assert all(0 < one["p50_ns"] <= one["p95_ns"] for one in there)
    assert all(
        one["student"]["width"] < 1 for one in found["candidates"] if one["student"]["model"]
    )  # below the teacher


@pytest.mark.slow
def test_a_person_sees_a_table_and_the_section_to_paste(config):
    path = config("budget = { size_bytes = 45_000 }")
    path.write_text(path.read_text().partition('[[target]]\nname = "pc-openvino"')[0])
    code, text, error = search(path, "--model", "zoo:mlperf-resnet8", *QUICK)
    assert code == 0, error
    assert "over size" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "mlperf-resnet8 x0.25" in text
    assert (
        'largest of the sizes tried that fits, for the configuration:\n[student]\nmodel = "zoo:mlperf-resnet8"\nwidth = 0.'
        in text
    )


@pytest.mark.slow
def test_it_is_a_function_too(config, tmp_path):
    options = SearchOptions(models=("zoo:mlperf-resnet8",), processes=1, seconds=0.1)
    found = api.search(config("budget = { size_bytes = 45_000 }"), tmp_path / "run", options)
    assert [str(one.student.model) for one in found.fitting] == ["zoo:mlperf-resnet8"]
    assert found.fitting[0].best_on("pc-ort").is_within
    assert found.to_json() == json.dumps(json.loads((tmp_path / "run/search/search.json").read_text()), indent=2)


@pytest.mark.slow
def test_where_nothing_fits_the_exit_code_says_so_and_what_was_measured_is_kept(config, tmp_path):
    code, text, error = search(config("budget = { p95_ms = 1e-6 }"), "--model", "zoo:mlperf-resnet8", *QUICK)
    assert code == 3
    assert "no student fits" in error
    assert "over p95" in text
    assert json.loads((tmp_path / "runs/digits/search/search.json").read_text())["fitting"] == []


@pytest.mark.slow
def test_a_limit_that_nothing_here_can_check_leaves_it_undecided(config, tmp_path):
    if any(Path("/sys/class/powercap").glob("intel-rapl*")):
        pytest.skip("this machine measures energy")
    code, text, error = search(config("budget = { energy_mj = 1e6 }"), "--model", "zoo:mlperf-resnet8", *QUICK)
    assert code == 6, error
    assert "unknown" in text
    assert "no student is known to fit" in error
    assert not (tmp_path / "runs/digits/teacher").exists()


@pytest.mark.slow
def test_an_engine_that_fails_is_no_student_that_is_too_large(config, tmp_path):
    kits = write_kit(tmp_path / "kits", BROKEN, "import no_such_engine\n")
    path = config("budget = { p95_ms = 5 }")
    path.write_text(path.read_text().replace('kit = "openvino"', 'kit = "broken"'))
    arguments = ["--targets", str(kits), "-q", "search", str(path), "--model", "zoo:mlperf-resnet8", *QUICK]
    result = CliRunner().invoke(cli, arguments)
    assert result.exception.exit_code == 5
    assert "no_such_engine" in str(result.exception)


def test_a_model_slower_than_its_budget_does_not_fit_though_it_gives_no_p95():
    latency = Latency(p50=8e6, p90=None, p95=None, p99=None, mean=8e6, min=8e6, ci95={}, n=60)
    found = measurement(Fake()).model_copy(update={"latency_ns": latency})
    for limit, fits, within in ((5.0, False, False), (10.0, None, False)):
        held = check_limits(Budget(p95_ms=limit), found, TargetResult(target="pc", precision="fp32"))
        assert (held.fits, held.is_within) == (fits, within)
    assert check_limits(Budget(size_bytes=10**9), found, TargetResult(target="pc", precision="fp32")).is_within


@pytest.mark.parametrize(
    ("limit", "fits", "said"),
    [
        (1.3, True, ""),
        (1.1, None, "p95: 1.05 ms (0.9 to 1.2) cannot tell whether it is within 1.1 ms"),
        (0.8, False, ""),
    ],
)
def test_a_p95_limit_inside_the_interval_is_not_known_to_be_kept(limit, fits, said):
    latency = Latency(p50=1e6, p90=None, p95=1.05e6, p99=None, mean=1e6, min=1e6, ci95={"p95": (0.9e6, 1.2e6)}, n=600)
    found = measurement(Fake()).model_copy(update={"latency_ns": latency})
    held = check_limits(Budget(p95_ms=limit), found, TargetResult(target="pc", precision="fp32"))
    assert (held.fits, held.is_within, held.unknown) == (fits, fits is True, (said,) if said else ())
    too_large = check_limits(Budget(p95_ms=limit, size_bytes=1), found, TargetResult(target="pc", precision="fp32"))
    assert too_large.fits is False


def test_the_best_precision_is_the_smallest_of_the_fastest_that_fit():
    def best(*results: tuple[str, int, tuple[str, ...], bool | None]) -> str:
        measured = tuple(
            TargetResult(target="pc", precision=name, p50_ns=1.0, size_bytes=size, faster_than=beaten, fits=fits)
            for name, size, beaten, fits in results
        )
        return (
            Candidate(name="a", student=StudentConfig(prune=0.5), parameters=1, measured=measured)
            .best_on("pc")
            .precision
        )

    assert best(("fp32", 400, (), True), ("int8", 100, (), True)) == "int8"
    assert best(("fp32", 400, ("int8",), True), ("int8", 100, (), True)) == "fp32"
    assert best(("fp32", 400, ("int8",), False), ("int8", 100, (), True)) == "int8", "only that one fits"
    assert best(("fp32", 400, ("int8",), False), ("int8", 100, (), False)) == "fp32"
    failed = TargetResult(target="pc", precision="fp16", problem="not supported")
    assert (
        Candidate(name="a", student=StudentConfig(prune=0.5), parameters=1, measured=(failed,)).best_on("pc") is failed
    )


@pytest.mark.parametrize(
    ("budget", "options", "words"),
    [
        ("", (), "no [[target]] has a limit of latency, size, memory or energy"),
        ("budget = { accuracy = 0.9 }", (), "no [[target]] has a limit of latency, size, memory or energy"),
        ("budget = { p95_ms = 1.0 }", ("--model", "zoo:mlperf-resnet9"), "perhaps 'mlperf-resnet8'"),
        ("budget = { p95_ms = 1.0 }", ("--model", "zoo:cnn1d"), "takes signal data; this is image data"),
        (
            "budget = { p95_ms = 1.0 }",
            ("--model", "zoo:resnet56", "--set", "teacher.width=0.125"),
            "even the smallest size has",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_with_a_reason(config, budget, options, words):
    code, _, error = search(config(budget), *options, *QUICK)
    assert code == 2
    assert words in error


@pytest.mark.slow
def test_finalists_are_ranked_by_a_short_training_from_one_teacher(config, tmp_path):
    path = config("budget = { size_bytes = 45_000 }")
    families = ("--model", "zoo:mlperf-resnet8", "--model", "prune")
    code, text, error = search(path, *families, "--epochs", "1", *QUICK)
    assert code == 0, error
    assert "best on validation after 1 epochs" in text
    found = json.loads((tmp_path / "runs/digits/search/search.json").read_text())
    ranked = [one["val_accuracy"] for one in found["fitting"]]
    assert len(ranked) == 2
    assert ranked == sorted(ranked, reverse=True)
    assert all(0 < accuracy <= 1 for accuracy in ranked)
    folders = sorted(tmp_path.glob("runs/digits/search/*/run"))
    assert len(folders) == 2
    teachers = [folder / "teacher" / "model.safetensors" for folder in (*folders, tmp_path / "runs/digits")]
    best = next(one for one in found["fitting"] if one["student"]["model"])
    folder = tmp_path / "runs/digits/search" / best["name"].replace(":", "-").replace(" ", "-") / "run"
    width, order = best["student"]["width"], ("distill.epochs=1", "quantize.mode=ptq")
    settings = [part for key in (f"student.width={width}", *order) for part in ("--set", key)]
    made = CliRunner().invoke(cli, ["-q", "compile", str(path), "--run-dir", str(folder), *settings, "--json"])
    assert made.exit_code == 0, made.output
    artifacts = json.loads(made.stdout)["stages"]["compile"]["artifacts"]
    sizes = {(one["target"], one["precision"]): one["size_bytes"] for one in artifacts if one["name"] == "student"}
    for one in best["measured"]:  # untrained it was as large as it is now
        assert one["size_bytes"] == pytest.approx(sizes[one["target"], one["precision"]], abs=200)
    assert len({teacher.stat().st_ino for teacher in teachers}) == 1  # taken over, not trained again


NETS = """
from collections import OrderedDict
from torch import nn
def net(classes, first="body", units=8):
    return nn.Sequential(OrderedDict([(first, nn.Linear(16, units)), ("act", nn.ReLU()), ("head", nn.Linear(units, classes))]))
def other(classes):
    return net(classes, "first", 12)
def big(classes):
    return net(classes, units=64)
"""


def layers_config(folder: Path, **teacher: float) -> Config:
    """Return a configuration with a loss on the layer `body`, which the network `other` lacks."""
    (folder / "nets.py").write_text(NETS)
    rows = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    np.savez(folder / "rows.npz", inputs=rows, labels=rows[:, :4].argmax(1))
    return config_of(
        folder, data={"train": "rows.npz", "kind": "features"}, teacher={"model": "nets:big", "epochs": 1} | teacher,
        student={"model": "nets:net"}, distill={"loss": "hint", "views": 0, "student_layers": ["body"], "teacher_layers": ["body"]},
        target=[{"name": "pc", "kit": "ort", "precisions": ["fp32"], "budget": {"size_bytes": 200_000}}],
    )  # fmt: skip


def test_a_finalist_that_cannot_be_trained_keeps_its_measurements_and_is_not_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    job = run_pipeline(layers_config(tmp_path), Run(tmp_path / "run"), find_kits(()), QUIET, Plan("data"))
    within = (TargetResult(target="pc", precision="fp32", fits=True),)
    found = tuple(
        Candidate(name=name, student=StudentConfig(model=name), parameters=parameters, measured=within)
        for name, parameters in (("nets:other", 256), ("nets:net", 172))
    )
    result = train_finalists(job, SearchResult(candidates=found, fitting=found, left_out=(), epochs=0), 1)
    best, last = result.fitting
    assert (best.name, last.name, last.val_accuracy, last.measured) == ("nets:net", "nets:other", None, within)
    assert best.val_accuracy is not None
    assert result.left_out == (
        "nets:other: not trained: distill.student_layers: no layer 'body'; the layers are first, act, head",
    )


@pytest.mark.slow
def test_what_was_measured_is_kept_if_the_teacher_cannot_be_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    options = SearchOptions(models=("nets:net",), processes=1, seconds=0.05, epochs=1)
    job = run_pipeline(layers_config(tmp_path, lr=1e30), Run(tmp_path / "run"), find_kits(()), QUIET, Plan("data"))
    with pytest.raises(ConfigError, match="the loss is nan"):
        search_students(job, options)
    kept = json.loads((tmp_path / "run" / "search" / "search.json").read_text())
    assert [one["name"] for one in kept["candidates"]] == ["nets:net"]
    assert kept["epochs"] == 0


@pytest.mark.parametrize("limit", [20_000, 25_000, 30_000])
def test_sizes_between_the_largest_that_fits_and_the_next_are_tried(tmp_path: Path, limit: int) -> None:
    (tmp_path / "edgedistill.toml").write_text(CONFIG.format(budget=""), encoding="utf-8")
    config = load_config(tmp_path / "edgedistill.toml")
    settings = declare_search(sources_of(config, loaded(config).record))
    found, _ = find_sizes(settings, SearchOptions(models=("zoo:mlperf-resnet8",)))
    sizes = found["zoo:mlperf-resnet8"]
    best = max(number for number, (_, parameters) in enumerate(sizes) if parameters <= limit)
    tried = []

    def fits(size: tuple[StudentConfig, int]) -> bool:
        tried.append(size[1])
        return size[1] <= limit

    refine(settings, sizes[best], sizes[best + 1], fits)
    assert len(tried) == REFINEMENTS
    assert all(sizes[best][1] < parameters < sizes[best + 1][1] for parameters in tried)
    gap = sizes[best + 1][1] - sizes[best][1]
    nearest = max([sizes[best][1], *(parameters for parameters in tried if parameters <= limit)])
    assert limit - nearest < gap / 2

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from edgedistill.compare import formatting
from edgedistill.compare.load import load_run
from edgedistill.config.schema import Budget
from edgedistill.errors import ConfigError
from edgedistill.records.measurement import Measurement
from edgedistill.report.groups import clean_samples_ns
from edgedistill.report.report import render_report, write_report
from tests.support.compare_builders import INT8, RUN, STUDENT, TEACHER, Fake, measurement_table, write_run
from tests.support.runs import as_written


class Page(HTMLParser):
    """What a test asks of a page: its ids, the addresses it fetches, its unclosed elements."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.fetched, self.open, self.json = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        table = dict(attributes)
        self.ids += [table["id"]] if "id" in table else []
        self.fetched += [table[key] for key in ("src", "href", "xlink:href") if key in table]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.json += data


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "cifar10-resnet8")


@pytest.fixture(scope="module")
def page(run) -> str:
    return render_report(run)


def odd_run(folder: Path) -> Path:
    odd = replace(
        INT8,
        changes={
            "memory_bytes": None,
            "accuracy": None,
            "parity": None,
            "throughput_per_s": None,
            "contaminated": True,
            "precision": {"requested": "int8", "executed": None},
            "latency_ns": measurement_table(INT8)["latency_ns"] | {"p95": None, "p99": None},
            "reasons": {"memory_bytes": "no /proc here", "latency_ns.p95": "needs 73 samples", "accuracy": "no labels"},
        },
    )
    return write_run(folder, (STUDENT, odd), control=None)


def test_the_answer_comes_first(page):
    answer = page.index("ship student int8 — 8.9x as fast as the teacher, \u22121.1 points of accuracy, 98.3 kB")
    assert answer < page.index("<main>") < page.index("<table")


def test_one_file_that_fetches_nothing(page):
    parsed = Page(page)
    assert all(address.startswith(("#", "data:")) for address in parsed.fetched)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert parsed.open == []
    assert len(page.encode()) < 3_000_000


def test_ids_are_unique_and_references_hold(page):
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page))
    assert {a or b for a, b in referred} <= set(ids)
    assert page.count('role="img"') == 4


def test_figures_take_their_colours_from_the_page(page):
    drawn = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "currentColor" in drawn
    assert "var(--series-0)" in drawn
    assert not re.search(r"#0101\d\d|#000000", drawn)


def test_the_same_run_gives_the_same_page(run, page):
    assert render_report(run) == page


def test_displayed_figures_are_in_the_json(run, page):
    embedded = json.loads(Page(page).json)
    files = sorted((run / "measurements").glob("*.json"))
    stored = [Measurement.model_validate_json(path.read_text()).model_dump(mode="json") for path in files]
    rows = [row["measurement"] for group in embedded["groups"] for row in group["rows"]]
    assert sorted(rows, key=lambda m: m["size_bytes"]) == sorted(stored, key=lambda m: m["size_bytes"])
    accuracies = re.findall(r'data-label="Accuracy, %">([\d.]+)<', page)
    p50s = re.findall(r'data-label="p50 latency, µs">([\d.]+)<', page)
    assert sorted(accuracies) == sorted(formatting.percent(m["accuracy"]["value"]) for m in stored)
    assert sorted(p50s) == sorted(formatting.significant(m["latency_ns"]["p50"] / 1e3) for m in stored)


def test_nulls_are_dashes_with_reasons(tmp_path):
    text = render_report(odd_run(tmp_path / "odd"))
    Page(text)
    for reason in ("no /proc here", "needs 73 samples", "no labels", "the teacher was not measured on this target"):
        assert reason in text
    assert not re.search(r'data-label="(?:Memory, MB|Energy per inference|Accuracy, %)">0', text)
    assert "None" not in text
    assert "no control was trained" in text


def test_layers_and_measured_energy_are_shown_and_estimates_are_not_drawn(tmp_path):
    layers = [{"name": "conv_1", "type": "Convolution", "precision": "int8", "ns": 30_000.0},
              {"name": "dense", "type": "MatMul", "precision": "fp32", "ns": 10_000.0}]  # fmt: skip
    profile = {"layers": layers, "profiled_ns": 52_000.0, "plain_ns": 44_000.0}
    measured = {
        "per_inference": 900.0,
        "idle_subtracted": 300.0,
        "source": "rapl",
        "scope": "package",
        "windows": [880.0, 930.0],
    }
    fakes = [replace(fake, changes=dict(fake.changes) | {"energy_uj": measured}) for fake in (TEACHER, STUDENT)]
    text = render_report(
        write_run(tmp_path / "a", (*fakes, replace(INT8, changes=dict(INT8.changes) | {"layers": profile})))
    )
    Page(text)
    listed = text[text.index("Time of each layer") :]
    assert "<summary>student int8</summary>" in listed
    assert "<summary>student fp32</summary>" not in listed
    row = text[text.index("<code>conv_1</code>") :].partition("</tr>")[0]
    assert all(cell in row for cell in ("Convolution", "int8", ">30.0<", ">75.0<"))
    assert "Accuracy against energy per inference" in text
    estimated = {"energy_uj": measured | {"provenance": "estimated"}}
    guessed = [replace(fake, changes=dict(fake.changes) | estimated) for fake in (TEACHER, STUDENT)]
    assert "against energy per inference" not in render_report(write_run(tmp_path / "b", tuple(guessed)))


@pytest.mark.parametrize(
    "absent",
    [
        ("quantize", "export", "compile", "bench", "report"),
        ("data", "teacher", "soft_labels", "student", "quantize", "export", "compile", "bench", "report"),
    ],
)
def test_a_partial_run_shows_what_there_is_and_says_what_is_missing(tmp_path, absent):
    text = render_report(write_run(tmp_path / "early", (), absent=absent))
    Page(text)
    assert "This run has no measurements yet" in text
    named = {"soft_labels": "soft labels", "student": "distill"}  # the manifest of schema run/1 calls distill student
    assert (
        f"Stages that have not run: {', '.join(named.get(name, name) for name in absent if name != 'report')}" in text
    )
    assert ("Accuracy on validation during training" in text) == ("student" not in absent)


def test_measurements_without_a_pipeline(tmp_path):
    absent = ("data", "teacher", "soft_labels", "student", "quantize", "export", "compile")
    assert "ship student int8" in render_report(write_run(tmp_path / "benched", RUN, absent=absent))


HOSTILE = "<script>alert(1)</script>&\"'$\\frac{</style>"


def test_text_from_files_is_escaped(tmp_path):
    hostile = Fake(target=HOSTILE.replace("/", "|"), changes={"reasons": {"energy_uj": HOSTILE}})
    device = measurement_table(hostile)["device"] | {"cpu": HOSTILE, "os": HOSTILE}
    named = {"name": HOSTILE, "sha256": HOSTILE, "lineage": {HOSTILE: HOSTILE}}
    fakes = [
        replace(
            hostile,
            changes={
                **hostile.changes,
                "device": device,
                "samples": f"{i}.npz",
                "model": named | {"name": f"{i}{HOSTILE}"},
            },
        )
        for i in range(2)
    ]
    run = write_run(tmp_path / "hostile & co", fakes)
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["quantize"]["record"]["layers"] = {HOSTILE: HOSTILE}
    manifest["configuration"] = HOSTILE
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = render_report(run)
    assert "<script>alert" not in text
    assert text.count("</style>") == 1
    parsed = Page(text)
    assert parsed.open == []
    assert json.loads(parsed.json)["groups"][0]["rows"][0]["measurement"]["device"]["cpu"] == HOSTILE


def test_budgets_given_replace_those_recorded(run):
    assert "exceeds size 98.3 kB &gt; 90.0 kB" in render_report(run, {"pc": Budget(size_bytes=90_000)})


def test_what_the_teacher_gave_is_said_plainly(tmp_path):
    for control, words in (
        (0.82, "gained 6.4 points"),
        (0.883, "did not clearly help: +0.1"),
        (0.95, "did not help: \u22126.6"),
    ):
        assert words in render_report(write_run(tmp_path / f"{control}", RUN, control=control))


def test_several_seeds_give_the_gain_an_interval_over_seeds(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    scores = [(0.884, 0.870), (0.880, 0.868), (0.886, 0.870)]
    manifest["stages"]["export"]["record"]["scores"] = [
        {"seed": seed, "student": student, "control": control} for seed, (student, control) in enumerate(scores)
    ]
    (run / "manifest.json").write_text(json.dumps(manifest))
    gains = [100 * (student - control) for student, control in scores]
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(gains), scipy.stats.sem(gains))
    assert f"gained {np.mean(gains):.1f} points" in render_report(run)
    assert f"interval +{low:.1f} to +{high:.1f} over 3 seeds" in render_report(run)


def test_a_control_that_was_trained_after_the_export_has_no_gain_yet(tmp_path):
    run = write_run(tmp_path / "run")
    scores = [{"seed": seed, "student": 0.88, "control": None} for seed in (0, 1)]
    as_written(run, lambda manifest: manifest["stages"]["export"]["record"].update(scores=scores))
    page = render_report(run)
    assert "The gain from distillation is not known yet: the export stage scores the student and its control" in page


def test_the_start_of_an_earlier_student_is_not_the_start_of_this_one(tmp_path):
    run = write_run(tmp_path / "run")
    scores = [{"seed": 0, "student": 0.884, "control": 0.862, "scratch": 0.8}]
    as_written(run, lambda manifest: manifest["stages"]["export"]["record"].update(scores=scores))
    page = render_report(run)
    assert "Distillation did not clearly help: +2.2 points" in page
    assert "The start from" not in page


def test_how_to_install_is_without_build_tags(run):
    text = render_report(run)
    assert "pip install numpy==2.4.1 openvino==2026.4.1 torch==2.13.0\n" in text


def test_a_run_without_its_test_inputs_shows_no_pictures(page):
    assert "Confusion matrix" in page
    assert "Where the models disagree most" not in page


def test_write_report(run):
    path = write_report(run)
    assert path == run / "report.html"
    assert path.read_text(encoding="utf-8") == render_report(run)


def test_raw_samples_that_cannot_be_read_are_said_to_be_missing(tmp_path):
    run = write_run(tmp_path / "run")
    files = sorted((run / "measurements").glob("*.npz"))
    files[0].unlink()
    files[1].write_bytes(b"not an archive")
    text = render_report(run)
    assert "is not plotted for student fp32, student int8, because the raw samples are missing" in text
    remaining = load_run(run).results[2]
    assert clean_samples_ns(remaining.file, remaining.measurement)[0].min() > 0


@pytest.mark.parametrize(("int8_us", "slower"), [(4.0, False), (12.0, True)])
def test_the_attempts_of_quantization_and_the_layers_sensitivity_are_shown(tmp_path, int8_us, slower):
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    steps = [
        {"method": "ptq", "float_layers": [], "val_accuracy": 0.8, "drop": 8.4, "holds": False, "seconds": 2.0},
        {"method": "mixed", "float_layers": ["head"], "val_accuracy": 0.881, "drop": 0.3, "holds": True, "seconds": 9.0,
         "speed_kept": 0.75, "speed_kept_ci95": [0.71, 0.79], "drop_ci95": [-0.9, 1.5], "samples": 120, "verdict": "cannot tell", "samples_needed": 7100},
    ]  # fmt: skip
    speeds = [
        {"target": "pc", "compared_with": "fp32", "latency_ratio": 0.61, "ci95": [0.6, 0.62], "size_ratio": 0.3, "verdict": "faster"},
        {"target": "board", "reason": "not measured: the board does not answer"},
    ]  # fmt: skip
    layers = [
        {"layer": "head", "output_error": 0.2, "drop": 5.0, "fp32_us": 9.0, "int8_us": int8_us, "measured_on": "ort, local"},
        {"layer": "stem", "output_error": 0.1, "drop": 0.1, "reason": "no int8 kernel"},
    ]  # fmt: skip
    record = manifest["stages"]["quantize"]["record"]
    record |= {"mode": "mixed", "skip": ["head"], "max_drop": 1.0, "holds": True, "steps": steps, "sensitivity": layers}
    record |= {"outcome": "cannot tell", "speeds": speeds, "seconds": {"speed": 6.1, "ranking": 9.0}}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = render_report(run)
    Page(text)
    assert "Sensitivity of 2 layers" in text
    assert "no int8 kernel" in text
    assert ("here no single layer is faster in int8" in text) == slower
    assert "120 samples cannot tell; about 7,100 would" in text
    assert "75<small>71 to 79</small>" in text
    assert "the board does not answer" in text
    assert "The ranking took 9.0 s" in text


def test_attempts_with_other_ranges_are_told_apart_and_one_is_marked(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    record = manifest["stages"]["quantize"]["record"]
    record["max_drop"], both = 0.5, (("mse", 0.8), ("minmax", record["val_accuracy"]))
    record["steps"] = [
        {"method": "ptq", "ranges": ranges, "float_layers": [], "val_accuracy": value, "drop": 0.1, "holds": True, "seconds": 2.0}
        for ranges, value in both
    ]  # fmt: skip
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = render_report(run)
    assert "<tr><td>post-training</td>" in text
    assert '<tr class="chosen"><td>post-training, largest values as ranges</td>' in text


def test_int8_that_does_not_pay_is_in_the_report(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    speed = {"target": "pc", "compared_with": "fp32", "latency_ratio": 1.82, "ci95": [1.75, 1.9], "size_ratio": 0.27,
             "verdict": "slower"}  # fmt: skip
    record = manifest["stages"]["quantize"]["record"]
    record |= {"mode": "ptq", "holds": False, "outcome": "does not pay", "max_drop": 0.5, "speeds": [speed]}
    (run / "manifest.json").write_text(json.dumps(manifest))
    text = render_report(run)
    assert "int8 does not pay: it is slower than float on every target with int8" in text
    assert "1.75 to 1.90" in text
    assert "No int8 model within" not in text


def test_an_unreadable_stage_is_named(tmp_path):
    run = write_run(tmp_path / "run")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["student"]["record"]["student"]["parameters"] = "many"
    (run / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"distill: student\.parameters"):
        render_report(run)


def test_many_unusual_models_have_looks(tmp_path):
    fakes = [replace(TEACHER, name=f"net{i}", p50_ns=1e5 * 3**i, correct=850 + i) for i in range(7)]
    text = render_report(write_run(tmp_path / "many", fakes))
    assert "no recommendation" in text
    assert "p50 latency, ms (log)" in text


def test_comparing_imports_neither_torch_nor_matplotlib():
    code = "import sys, edgedistill.compare.table, edgedistill.compare.load; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]

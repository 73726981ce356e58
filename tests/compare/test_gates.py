"""Gates on the real command line, and the rule by which they pass, fail, or are undecided."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.compare.comparison import compare_runs
from edgedistill.compare.load import load_results
from edgedistill.config.gates import parse_gate
from edgedistill.errors import EdgedistillError
from edgedistill.gates.estimates import Estimate
from edgedistill.gates.evaluate import apply_gates, decide, require_passed
from tests.support.command import edgedistill
from tests.support.compare_builders import INT8, STUDENT, TEACHER, measurement_table, write_measurement, write_run

STUDENT = replace(STUDENT, samples=4000)
EQUAL = replace(STUDENT, seed=12)
SLOWER = replace(EQUAL, p50_ns=1.1 * STUDENT.p50_ns)


def changed(fake, **changes):
    return replace(fake, changes={**fake.changes, **changes})


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    return write_measurement(tmp_path / "baseline", STUDENT)


def gated(baseline: Path, candidate, *gates: str, extra: tuple[object, ...] = ()):
    file = write_measurement(baseline.parent.parent / "candidate", candidate)
    options = [part for gate in gates for part in ("--fail-if", gate)]
    return edgedistill("compare", baseline, file, *options, *extra, cwd=file.parent)


@pytest.mark.parametrize(
    ("candidate", "code", "words"),
    [
        (SLOWER, 3, "gate FAIL p95_ms > +5%: "),
        (EQUAL, 0, "gate PASS p95_ms > +5%: "),
        (replace(SLOWER, processes=2), 6, "an interval needs 3 processes, and 2 were measured"),
        (replace(SLOWER, samples=40), 6, "samples per process are too few for p95"),
        (replace(EQUAL, spread=0.06), 6, "the interval contains the limit; "),
        (changed(EQUAL, threads=2), 2, "threads 1 vs 2"),
        (replace(STUDENT, seed=13, p50_ns=0.7 * STUDENT.p50_ns), 0, "gate PASS"),
    ],
    ids=["slower", "equal", "few processes", "few samples", "noisy", "other threads", "faster"],
)
def test_a_gate_on_p95(baseline, candidate, code, words):
    result = gated(baseline, candidate, "p95_ms > +5%")
    assert result.returncode == code, result.stdout + result.stderr
    assert words in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("gate", "candidate", "code"),
    [
        ("p50_ms > +0.02", SLOWER, 3),
        ("p50_ms > +0.2", SLOWER, 0),
        ("p50_ms > 0.95", SLOWER, 3),
        ("p50_ms > 1.1", SLOWER, 0),
        ("p50_ms > -20%", replace(EQUAL, p50_ns=0.7 * STUDENT.p50_ns), 0),
        ("p50_ms > -20%", EQUAL, 3),
        ("p50_ms > +1%", replace(EQUAL, p50_ns=1.025 * STUDENT.p50_ns, spread=0.0005), 6),
        ("p99_ms > +5%", EQUAL, 6),
        ("size_bytes > +0%", EQUAL, 0),
        ("size_bytes > +0%", replace(EQUAL, size_bytes=STUDENT.size_bytes + 1), 3),
        ("size_bytes > 330_000", EQUAL, 0),
        ("memory_bytes > +10%", EQUAL, 0),
        ("energy_mj > +10%", EQUAL, 6),
        ("energy_mj > 2", EQUAL, 6),
        ("accuracy < -0.5", replace(EQUAL, correct=700), 3),
        ("accuracy < -0.5", replace(EQUAL, correct=875), 6),
        ("accuracy < -5", EQUAL, 0),
        ("accuracy < 80%", EQUAL, 0),
        ("accuracy < 95%", EQUAL, 3),
        ("accuracy < 88%", EQUAL, 6),
        ("accuracy < -0.5", changed(EQUAL, accuracy=None), 6),
        ("worst_class < -40", EQUAL, 0),
        ("worst_class < -10", replace(EQUAL, correct=500), 3),
        ("worst_class < -1", EQUAL, 6),
        ("p95 > 5", EQUAL, 2),
    ],
)
def test_gates_of_every_kind(baseline, gate, candidate, code):
    assert exit_code(baseline, candidate, gate) == code


def exit_code(baseline: Path, candidate, gate: str) -> int:
    """What the command line would exit with, without the second that a process takes."""
    first, other = load_results([baseline, write_measurement(baseline.parent.parent / "candidate", candidate)])
    try:
        require_passed(apply_gates(compare_runs(first, [other]), [parse_gate(gate)]).gates)
    except EdgedistillError as error:
        return error.exit_code
    return 0


def energy(*microjoules: float, source: str = "rapl") -> dict:
    return {
        "per_inference": float(np.median(microjoules)), "idle_subtracted": None, "source": source, "windows": microjoules,
    }  # fmt: skip


def test_energy_is_judged_by_its_windows(tmp_path):
    base = write_measurement(tmp_path / "baseline", changed(STUDENT, energy_uj=energy(3000, 3010, 2990, 3005)))
    for windows, source, code in (
        ((3600, 3610, 3590, 3605), "rapl", 3),
        ((3001, 3012, 2991, 3003), "rapl", 0),
        ((3600, 3610), "rapl", 6),
        ((3600, 3610, 3590, 3605), "ina3221", 6),
    ):
        candidate = changed(EQUAL, energy_uj=energy(*windows, source=source))
        assert exit_code(base, candidate, "energy_mj > +10%") == code, windows


def test_a_failed_gate_outweighs_an_open_one_and_every_gate_has_its_line(baseline):
    result = gated(baseline, SLOWER, "p95_ms > +5%", "p99_ms > +5%", "size_bytes > +0%")
    assert result.returncode == 3
    lines = [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith("gate ")]
    assert lines == ["gate FAIL p95_ms > +5%", "gate UNDECIDED p99_ms > +5%", "gate PASS size_bytes > +0%"]
    assert "1 of 3 gates failed, 1 undecided" in result.stderr


def test_json_has_the_outcomes_and_logs_their_lines(baseline):
    result = gated(baseline, SLOWER, "p95_ms > +5%", extra=("--json",))
    assert result.returncode == 3
    (outcome,) = json.loads(result.stdout)["gates"]
    assert (outcome["gate"], outcome["decision"]) == ("p95_ms > +5%", "fail")
    low, high = outcome["interval"]
    assert 0.05 < low < outcome["value"] < high
    assert outcome["value"] == pytest.approx(0.1, abs=0.02)
    row = json.loads(result.stdout)["groups"][0]["rows"][1]
    assert row["verdict"].startswith("slower, 0.9")
    assert len(row["classes"]) == 10
    assert row["accuracy_drop"]["p_value"] <= 1
    assert result.stderr.startswith("gate FAIL p95_ms > +5%: ")


def test_markdown_for_a_pull_request(tmp_path):
    base = write_run(tmp_path / "main", (STUDENT,))
    other = write_run(tmp_path / "a_b|c", (SLOWER,))
    result = edgedistill("compare", base, other, "--fail-if", "p95_ms > +5%", "--markdown", cwd=tmp_path)
    assert result.returncode == 3
    lines = result.stdout.splitlines()
    assert lines[0] == "| gate | model | outcome | value |"
    assert lines[2].startswith("| `p95_ms > +5%` | a\\_b\\|c, student fp32 on pc | **fail** | +9.9% ")
    tables = [line.replace("\\|", "") for line in lines if line.startswith("|")]
    assert {line.count("|") for line in tables} == {5, 9}
    assert any(line.startswith("- a\\_b\\|c: slower, 0.9") for line in lines)


SUITE = {"name", "package", "id", "hostname", "timestamp", "time", "tests", "failures", "errors"}


def test_junit_has_what_its_strictest_readers_want(baseline, tmp_path):
    path = tmp_path / "out" / "gates.xml"
    gates = ("p95_ms > +5%", "p99_ms > +5%", "size_bytes > +0%")
    assert gated(baseline, SLOWER, *gates, extra=("--junit", path)).returncode == 3
    root = ET.parse(path).getroot()
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    assert set(suite.keys()) == SUITE
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert [child.tag for child in suite] == ["properties", *["testcase"] * 3, "system-out", "system-err"]
    cases = suite.findall("testcase")
    assert all(case.keys() == ["name", "classname", "time"] for case in cases)
    assert [[child.tag for child in case] for case in cases] == [["failure"], ["error"], []]
    assert cases[0][0].get("message").startswith("+9.9% ")


def test_junit_without_gates_is_a_mistake(baseline):
    result = gated(baseline, EQUAL, extra=("--junit", "gates.xml"))
    assert result.returncode == 2
    assert "add a gate with --fail-if" in result.stderr


def test_what_a_candidate_lacks_is_not_passed(tmp_path):
    base = write_run(tmp_path / "base", (TEACHER, STUDENT, INT8))
    other = write_run(tmp_path / "other", (replace(TEACHER, seed=31), EQUAL))
    result = edgedistill("compare", base, other, "--fail-if", "size_bytes > +0%", cwd=tmp_path)
    assert result.returncode == 6
    assert "gate UNDECIDED size_bytes > +0%: other, student int8 with openvino: was not measured" in result.stdout
    assert edgedistill("compare", other, base, "--fail-if", "size_bytes > +0%", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    "fakes",
    [(replace(TEACHER, p50_ns=2 * TEACHER.p50_ns), EQUAL), (EQUAL,), (TEACHER, EQUAL)],
    ids=["a slower teacher", "no teacher", "the same teacher"],
)
def test_gates_check_students_and_not_their_teacher(tmp_path, fakes):
    base = write_run(tmp_path / "base", (TEACHER, STUDENT))
    compared = compare_runs(*load_baseline(base, write_run(tmp_path / "new", fakes)))
    gates = apply_gates(compared, [parse_gate("p95_ms > +5%"), parse_gate("p95_ms > 2")]).gates
    assert [(one.who, one.decision) for one in gates] == 2 * [("new, student fp32 on pc", "pass")]
    assert len(compared.groups) + len(compared.left_out) == 2


def test_gates_check_teachers_where_there_is_no_student(tmp_path):
    base = write_run(tmp_path / "base", (TEACHER, replace(TEACHER, kit="ort")))
    slower = write_run(tmp_path / "new", (replace(TEACHER, p50_ns=2 * TEACHER.p50_ns),))
    gates = apply_gates(compare_runs(*load_baseline(base, slower)), [parse_gate("p50_ms > +5%")]).gates
    assert [(one.candidate, one.decision) for one in gates] == [
        ("new", "fail"),
        ("new, teacher fp32 with ort", "undecided"),
    ]


def load_baseline(path: Path, candidate: Path):
    first, other = load_results([path, candidate])
    return first, [other]


def test_a_run_alone_is_held_against_its_teacher(tmp_path):
    run = write_run(tmp_path / "run")
    result = edgedistill("compare", run, "--fail-if", "p50_ms > -50%", "--fail-if", "accuracy < -6", cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("gate PASS") == 4
    moved = write_run(tmp_path / "moved", (TEACHER, changed(STUDENT, threads=2)))
    assert edgedistill("compare", moved, "--fail-if", "p50_ms > +5%", cwd=tmp_path).returncode == 2
    alone = write_run(tmp_path / "alone", (STUDENT,))
    result = edgedistill("compare", alone, "--fail-if", "p50_ms > +5%", "--fail-if", "p50_ms > 2", cwd=tmp_path)
    assert result.returncode == 6
    assert "the teacher was not measured on this target" in result.stdout


def test_a_gate_of_runs_names_the_model_and_the_page_has_it(tmp_path):
    base = write_run(tmp_path / "base", (TEACHER, STUDENT))
    after = write_run(tmp_path / "after", (TEACHER, SLOWER))
    page = tmp_path / "page.html"
    result = edgedistill("compare", base, after, "--fail-if", "p95_ms > +5%", "--html", page, cwd=tmp_path)
    assert result.returncode == 3
    assert "gate FAIL p95_ms > +5%: after, student fp32 on pc: +" in result.stdout
    assert f"Report: {page}" in result.stdout
    text = page.read_text()
    assert text.count("<svg") >= 4
    assert "base → after" in text
    assert '<b class="bad">fail</b> <code>p95_ms &gt; +5%</code>' in text
    assert "Where it comes from" not in text


def test_nothing_to_hold_a_gate_against(tmp_path):
    result = edgedistill("compare", write_run(tmp_path / "run", (TEACHER,)), "--fail-if", "p50_ms > 5", cwd=tmp_path)
    assert result.returncode == 2
    assert "no candidate" in result.stderr


def test_the_gates_of_a_configuration(baseline, tmp_path):
    config = tmp_path / "edgedistill.toml"
    body = '[data]\ntrain="a.npz"\ntest="b.npz"\n[teacher]\nmodel="zoo:resnet20"\n[student]\nmodel="zoo:resnet8"\n'
    body = f'name = "x"\n{body}[[target]]\nname="pc"\nkit="ort"\n'
    config.write_text(body + '[gate]\nfail_if = ["p95_ms > +5%"]\n')
    assert gated(baseline, SLOWER, extra=("--config", config)).returncode == 3
    config.write_text(body)
    result = gated(baseline, SLOWER, extra=("--config", config))
    assert result.returncode == 2
    assert "no gates; add for example [gate]" in result.stderr
    config.write_text(body + '[gate]\nfail_if = ["p95_ms > +5%", "p95 > 5"]\n')
    result = gated(baseline, SLOWER, extra=("--config", config))
    assert result.returncode == 2
    assert "gate.fail_if: gate 'p95 > 5', column 1: no metric 'p95'; perhaps 'p95_ms'?" in result.stderr


def test_measurements_without_percentiles_of_processes_say_so(baseline):
    table = measurement_table(EQUAL)
    for process in table["processes"]:
        del process["percentiles_ns"]
    result = gated(baseline, changed(EQUAL, processes=table["processes"]), "p95_ms > +5%")
    assert result.returncode == 6
    assert "this measurement file lacks the p95 of each process" in result.stdout


ends = st.floats(-1, 1)


@settings(deadline=None)
@given(ends, ends, ends)
def test_a_gate_is_passed_failed_or_open_by_its_interval(a, b, limit):
    low, high = sorted((a, b))
    found = Estimate(value=(low + high) / 2, interval=(low, high))
    above = parse_gate("p95_ms > +1%").model_copy(update={"limit": limit})
    below = parse_gate("accuracy < -1").model_copy(update={"limit": -limit})
    mirrored = Estimate(value=-(low + high) / 2, interval=(-high, -low))
    expected = "fail" if low > limit else "pass" if high <= limit else "undecided"
    assert decide(above, found) == decide(below, mirrored) == expected

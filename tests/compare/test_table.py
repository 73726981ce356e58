"""The table of a comparison: within 80 columns, with each reason once, and with what is doubtful."""

from dataclasses import replace

import pytest

from edgedistill.compare.comparison import compare_runs, summarise_run
from edgedistill.compare.footnotes import doubts
from tests.support.compare_builders import (
    INT8,
    STUDENT,
    TEACHER,
    changed,
    energy,
    measurement,
    measurement_table,
    run_of,
    text_of,
)

ODD = changed(
    INT8,
    precision={"requested": "int8", "executed": {"int8": 9, "fp32": 1}},
    memory_bytes=None,
    accuracy=None,
    contaminated=True,
    energy_uj=energy(3120.5, "rapl"),
    reasons={
        "memory_bytes": "VmHWM cannot be reset here",
        "accuracy": "no labels",
        "contaminated": "230 of 2000 preempted",
    },
)


def test_table_fits_80_columns_and_says_each_reason_once():
    text = text_of(summarise_run(run_of(TEACHER, STUDENT, ODD)))
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("no energy counter") == 1
    assert "int8 9/10" in text
    assert "energy mJ" in text
    assert " 3.12 " in text
    for reason in ("VmHWM cannot be reset here", "no labels", "other programs interrupted"):
        assert reason in text
    line = next(line for line in text.splitlines() if "int8 9/10" in line)
    assert " 0 " not in line
    assert line.count("—") == 2


@pytest.mark.parametrize("name", ["a-rather-long-name-for-a-run-of-experiments-2026-07-01", "[red]bold[/red]"])
def test_long_and_odd_names_do_not_break_the_table(name):
    text = text_of(compare_runs(run_of(STUDENT, INT8, name="base"), [run_of(STUDENT, ODD, name=name)]))
    assert max(map(len, text.splitlines())) <= 80
    assert name[:9] in text


def test_table_of_doubtful_speedups():
    text = text_of(summarise_run(run_of(replace(TEACHER, processes=2), STUDENT)))
    assert "speedup undecided: an interval needs 3 processes per side" in text
    text = text_of(summarise_run(run_of(TEACHER, replace(STUDENT, p50_ns=3_650_000.0))))
    assert "no difference in speed from teacher fp32 seen" in text


def test_modes_of_the_device_are_noted_with_both_p50s_where_they_differ_visibly():
    def text(p50_ns):
        latency = measurement_table(STUDENT)["latency_ns"] | {
            "p50": p50_ns,
            "undisturbed": {"p50": 205_000.0, "share": 0.64},
        }
        return "; ".join(doubts(measurement(changed(replace(STUDENT, spread=0.3), latency_ns=latency))))

    assert text(231_000.0) == "p50 205 µs, undisturbed 64% of the time; 231 µs as measured"
    assert "undisturbed" not in text(208_000.0)


def test_processes_that_disagree_are_noted():
    assert "the p50 differs from process to process" in text_of(summarise_run(run_of(replace(STUDENT, spread=0.3))))

"""The grammar of gates: what is read, and where a mistake is said to be."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.config.gates import HIGHER_IS_BETTER, LOWER_IS_BETTER, METRICS, Gate, GateConfig, parse_gate
from edgedistill.errors import ConfigError

numbers = st.one_of(
    st.integers(1, 10**9).map(str),
    st.integers(1000, 10**9).map(lambda n: f"{n:_}"),
    st.floats(0.001, 1e6).map(lambda x: f"{x:.4f}"),
    st.floats(0.001, 1e6).map(repr),
)
spaces = st.text(" \t", max_size=3)


@pytest.mark.parametrize(
    ("text", "metric", "limit", "is_change", "is_relative"),
    [
        ("p95_ms > +5%", "p95_ms", 0.05, True, True),
        ("p95_ms > -10%", "p95_ms", -0.1, True, True),
        ("p95_ms > +0.3", "p95_ms", 0.3, True, False),
        ("p95_ms>5", "p95_ms", 5.0, False, False),
        ("size_bytes > 200_000", "size_bytes", 200_000.0, False, False),
        ("memory_bytes > 2e8", "memory_bytes", 2e8, False, False),
        ("accuracy < -0.5", "accuracy", -0.5, True, False),
        ("accuracy < \u22120.5", "accuracy", -0.5, True, False),
        ("accuracy < 88%", "accuracy", 0.88, False, False),
        ("accuracy < .88", "accuracy", 0.88, False, False),
        ("worst_class < -3", "worst_class", -3.0, True, False),
        ("accuracy < -0", "accuracy", 0.0, True, False),
        ("worst_size < -3", "worst_size", -3.0, True, False),
        ("threshold_shift > 0.03", "threshold_shift", 0.03, False, False),
        ("recall_at_threshold < -2", "recall_at_threshold", -2.0, True, False),
    ],
)
def test_what_gates_mean(text, metric, limit, is_change, is_relative):
    gate = parse_gate(text)
    assert (gate.metric, gate.is_change, gate.is_relative) == (metric, is_change, is_relative)
    assert gate.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("p95 > +5%", 1, "no metric 'p95'; perhaps 'p95_ms'? metrics are: p50_ms, "),
        ("  latency > 5", 3, "no metric 'latency'; metrics are: p50_ms, "),
        ("", 1, "a metric is missing"),
        ("> 5", 1, "a metric is missing"),
        ("p95_ms", 7, "'>' is missing"),
        ("p95_ms >= 5", 8, "'>' is missing"),
        ("p95_ms < 5", 8, "lower is better, so a gate on p95_ms fails with '>'"),
        ("accuracy > -0.5", 10, "higher is better"),
        ("p95_ms > fast", 10, "a number is missing"),
        ("p95_ms > +", 11, "a number is missing"),
        ("p95_ms > 1e999", 10, "too large"),
        ("p95_ms > 5 ms", 12, "unexpected 'ms'"),
        ("p95_ms > +5% or so", 14, "unexpected 'or so'"),
        ("p95_ms > 5%", 10, "a percentage needs a sign"),
        ("p95_ms > 0", 10, "needs a sign"),
        ("accuracy < -0.5%", 16, "percentage points"),
        ("accuracy < 88", 12, "a fraction up to 1"),
        ("worst_class < 3", 15, "give it a sign"),
        ("threshold_shift > +0.03", 19, "a shift is a difference of scores, such as 0.03"),
        ("threshold_shift > 3%", 20, "a shift is a difference of scores, such as 0.03"),
        ("recall_at_threshold > -2", 21, "higher is better"),
    ],
)
def test_a_mistake_has_its_column(text, column, words):
    with pytest.raises(ConfigError) as caught:
        parse_gate(text)
    assert f"column {column}: " in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


@settings(deadline=None)
@given(
    st.sampled_from([one for one in LOWER_IS_BETTER if one != "threshold_shift"]),
    st.sampled_from("+-"),
    numbers,
    st.booleans(),
    st.tuples(*[spaces] * 3),
)
def test_spaces_do_not_matter_and_what_is_shown_reads_the_same(metric, sign, number, percent, between):
    a, b, c = between
    gate = parse_gate(f"{a}{metric}{b}>{c}{sign}{number}{'%' if percent else ''}")
    assert parse_gate(gate.text) == gate
    expected = float(number) * (-1 if sign == "-" else 1) / (100 if percent else 1)
    assert gate.limit == pytest.approx(expected)
    assert gate.is_relative == percent


@settings(deadline=None)
@given(st.sampled_from(HIGHER_IS_BETTER), st.sampled_from("+-"), st.floats(0, 100))
def test_changes_of_accuracy_are_points(metric, sign, points):
    gate = parse_gate(f"{metric} < {sign}{points:.3f}")
    assert gate.is_change
    assert not gate.is_relative
    assert abs(gate.limit) == pytest.approx(points, abs=1e-3)


alphabet = st.sampled_from(
    [*METRICS, "p95", ">", "<", ">=", "+", "-", "%", "5", "0", ".", "_", "e", " ", "\u0665", "é"]
)


@settings(deadline=None)
@given(st.one_of(st.text(max_size=30), st.lists(alphabet, max_size=8).map("".join)))
def test_any_text_is_a_gate_or_a_mistake_within_it(text):
    try:
        gate = parse_gate(text)
    except ConfigError as error:
        (column,) = re.findall(r"(?s).*', column (\d+): ", str(error))
        assert 1 <= int(column) <= len(text) + 1
    else:
        assert isinstance(gate, Gate)
        assert math.isfinite(gate.limit)
        assert parse_gate(gate.text) == gate


def test_the_table_of_a_configuration_is_read_at_once():
    assert [gate.text for gate in GateConfig(fail_if=("p95_ms>+5%", "accuracy<-0.5")).gates] == [
        "p95_ms > +5%",
        "accuracy < -0.5",
    ]
    with pytest.raises(ValueError, match="column 1: no metric 'p96_ms'"):
        GateConfig(fail_if=("p96_ms > 5",))

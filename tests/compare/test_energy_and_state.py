"""What a comparison makes of energy, the device's state and sustained runs."""

import pytest
from rich.console import Console

from edgedistill.compare.budget import check_budget
from edgedistill.compare.comparison import compare
from edgedistill.compare.footnotes import footnotes_of
from edgedistill.compare.table import render_table
from edgedistill.config.schema import Budget
from edgedistill.errors import IncomparableError
from tests.support.compare_builders import Fake, measurement

MEASURED = {
    "per_inference": 1500.0,
    "idle_subtracted": 900.0,
    "source": "ina3221 VDD_IN",
    "scope": "the module's input VDD_IN",
}
ESTIMATED = {
    "per_inference": 1400.0, "idle_subtracted": None, "source": "estimated from 15 W, the user's figure",
    "provenance": "estimated",
}  # fmt: skip


def energy_row(baseline: dict, candidate: dict):
    before, after = (measurement(Fake(changes={"energy_uj": energy})) for energy in (baseline, candidate))
    return compare(before, [after]).groups[0].rows[1]


def test_measured_energies_of_one_source_are_compared():
    assert energy_row(MEASURED, MEASURED | {"per_inference": 750.0}).energy_ratio == 2.0


@pytest.mark.parametrize("pair", [(MEASURED, ESTIMATED), (ESTIMATED, MEASURED), (ESTIMATED, ESTIMATED)])
def test_an_estimate_is_never_compared(pair):
    row = energy_row(*pair)
    assert row.energy_ratio is None
    assert "estimated from 15 W, the user's figure; only measured energy is compared" in row.reasons["energy_ratio"]


def test_energies_of_other_parts_of_a_device_are_not_compared():
    row = energy_row(MEASURED, MEASURED | {"scope": "sum of the rails"})
    assert row.energy_ratio is None


def test_an_estimate_is_marked_and_says_why_nothing_was_measured():
    estimate = measurement(Fake(changes={"energy_uj": ESTIMATED}))
    comparison = compare(estimate, [])
    notes = dict(footnotes_of(comparison.groups[0]).listed())
    assert any("; not measured: no energy counter" in text for text in notes.values())
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(render_table(comparison.groups, comparison.left_out))
    assert "energy mJ" in capture.get()
    assert "~1.40" in capture.get()


def test_an_estimate_does_not_meet_a_budget():
    check = check_budget(measurement(Fake(changes={"energy_uj": ESTIMATED})), Budget(energy_mj=5.0))
    assert check.fits is None
    assert check.unknown[0].startswith("energy: ")


SNAPSHOT = {
    "governors": {}, "clocks_khz": {}, "clocks_locked": None, "power_mode": None, "power_source": "mains",
    "temperatures_c": {}, "throttle_counts": {}, "throttling": [], "load_average": None, "cpu_pressure_percent": None,
}  # fmt: skip


def powered_by(source):
    before = SNAPSHOT | {"power_source": source}
    return measurement(Fake(changes={"environment": {"before": before, "after": before, "drivers": {}}}))


def test_a_laptop_on_battery_is_not_compared_with_itself_on_mains():
    with pytest.raises(IncomparableError, match="power source mains vs battery"):
        compare(powered_by("mains"), [powered_by("battery")])
    assert compare(powered_by("mains"), [powered_by("mains")])


SOAK = {
    "seconds": 600.0, "n": 2_000_000, "p50_start_ns": 240_000.0, "p50_end_ns": 310_000.0, "slowed_after_s": 122.0,
    "throttling": "cpu0 fell from 1900 to 1200 MHz", "sensors": {}, "power_source": None, "power_reason": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "240 µs at the start, 310 µs at the end, slower after 122 s: cpu0 fell from 1900 to 1200 MHz"),
        (
            {"throttling": None},
            "slower after 122 s: the cause is not known: no clock or throttle counter that could be read changed",
        ),
        ({"slowed_after_s": None, "throttling": None}, "310 µs at the end"),
        ({"slowed_after_s": None}, "at the end; cpu0 fell"),
    ],
)
def test_a_sustained_run_is_a_footnote(changes, words):
    (group,) = compare(measurement(Fake(changes={"soak": SOAK | changes})), []).groups
    assert any(
        f"sustained run of 10 min: p50 {words}"[-len(words) :] in text for _, text in footnotes_of(group).listed()
    )


def test_a_throttled_device_is_a_footnote():
    reasons = {"energy_uj": "none", "throttled": "the device throttled: oc3_event_cnt rose by 179"}
    (group,) = compare(measurement(Fake(changes={"reasons": reasons})), []).groups
    assert any("oc3_event_cnt rose by 179" in text for _, text in footnotes_of(group).listed())

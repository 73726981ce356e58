import contextlib
import time
from datetime import datetime, timezone

import numpy as np
import pytest
from energy import meter, used_uj
from energy.source import NoSourceError
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

START_S = 1_788_000_000
S = 1_000_000_000


def at(seconds: float) -> str:
    return datetime.fromtimestamp(START_S + seconds, timezone.utc).isoformat()


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("time_s,power_w", lambda t, w: f"{START_S + t:.3f},{w}"),
        ("Time_ms, Power_mW", lambda t, w: f"{(START_S + t) * 1000:.0f}, {1000 * w}"),
        ("sample,time_us,power_uw", lambda t, w: f"7,{(START_S + t) * 1e6:.0f},{1e6 * w}"),
        ("time_ns,voltage_v,current_a", lambda t, w: f"{round((START_S + t) * 1000)}000000,5.0,{w / 5}"),
        ("timestamp,voltage_mv,current_ma,note", lambda t, w: f"{at(t)},12000,{1000 * w / 12},x"),
    ],
)
def test_a_meters_file_comes_to_the_integral_of_its_power_in_any_of_its_units(header, row):
    watts = np.random.default_rng(0).uniform(4, 9, 50)
    log = header + "\n" + "".join(row(i / 5, w) + "\n" for i, w in enumerate(watts))
    found = used_uj(meter.series_of(log, 0), START_S * S, (START_S + 9) * S)
    assert found == pytest.approx(trapezoid(watts[:46], dx=0.2) * 1e6, rel=1e-6)


def test_times_of_day_keep_their_nanoseconds():
    series = meter.series_of("time_ns,power_mw\n1788000000123456789,1\n1788000000123456790,1\n", 0)
    assert series.time_ns.tolist() == [1788000000123456789, 1788000000123456790]


@pytest.mark.parametrize(
    ("text", "after_ns"),
    [
        (meter.ISO_EXAMPLE, S // 2),
        ("2026-07-01T12:00:00Z", 0),
        ("2026-07-01T12:00Z", 0),
        ("2026-07-01 12:00:01.25 +0000", S + S // 4),
        ("2026-07-01T14:00:00.000001+02", 1000),
        ("2026-07-01T06:30:00.123456789-05:30", 123_456_789),
        ("2026-07-01t12:00:00.1234567891z", 123_456_789),
        ("20260701T120000.5Z", S // 2),
    ],
)
def test_a_timestamp_is_read_in_the_forms_of_iso_8601_by_every_python(text, after_ns):
    noon_s = int(datetime(2026, 7, 1, 12, tzinfo=timezone.utc).timestamp())
    (moment,) = meter.series_of(f"timestamp,power_w\n{text},2\n", 0).time_ns.tolist()
    assert moment == noon_s * S + after_ns


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seconds,watts\n1,2\n", "its header is 'seconds,watts'; it must name columns among: time_s"),
        ("time_s,voltage_v\n1,2\n", "it must name columns among"),
        ("time_s,power_w\n1,none\n", "row '1,none': could not convert"),
        ("time_s,power_w\nlate,2\n", "row 'late,2'"),
        ("time_s,power_w\n1,nan\n", "the power is not a number"),
        ("time_s,power_w\n1\n", "row '1': list index out of range"),
        ("timestamp,power_w\n2026-07-01T12:00:00,2\n", "the time has no time zone"),
        ("timestamp,power_w\n1 July 2026,2\n", "the time is not in ISO 8601"),
        ("timestamp,power_w\n2026-07-01T25:00:00Z,2\n", "hour must be in 0..23"),
    ],
)
def test_a_file_that_cannot_be_read_says_where_and_what_is_known(text, words):
    with pytest.raises(NoSourceError) as caught:
        meter.series_of(text, 0)
    assert words in str(caught.value)


def test_only_rows_that_come_later_are_read_and_half_rows_wait(tmp_path):
    path = tmp_path / "meter.csv"
    path.write_text("time_s,power_w\n1,1\n2,", encoding="utf-8")
    source = meter.Meter(path)
    assert source.readings() == []
    with path.open("a") as file:
        file.write("5\n3,6\n4")
    assert [reading.value for reading in source.readings()] == [5000.0, 6000.0]
    with path.open("a") as file:
        file.write(",7\n")
    (reading,) = source.readings()
    assert reading.value == 7000.0
    offset = (
        time.monotonic_ns() - time.time_ns()
    )  # too small by what passes between the two clocks, as the meter's own is
    assert reading.time_ns == pytest.approx(4 * S + offset, abs=60 * S)
    source.close()


def test_a_file_that_is_absent_or_empty_is_a_reason(tmp_path):
    with pytest.raises(NoSourceError, match=r"none\.csv: No such file"):
        meter.Meter(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    with pytest.raises(NoSourceError, match="its header is ''"):
        meter.Meter(tmp_path / "empty.csv")


@given(st.text())
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(NoSourceError):
        meter.series_of("time_s,power_w\n" + text, 0)
        meter.series_of(text, 0)


def test_a_header_alone_is_an_empty_series():
    assert len(meter.series_of("time_s,power_w\n", 0).time_ns) == 0

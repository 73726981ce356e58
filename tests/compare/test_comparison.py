import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedistill.compare.comparison import (
    Comparison,
    compare,
    compare_runs,
    have_counterparts,
    side_by_side,
    summarise_run,
    to_json,
)
from edgedistill.compare.footnotes import footnotes_of
from edgedistill.compare.load import load_results, load_run
from edgedistill.compare.rows import candidate_row
from edgedistill.config.schema import Budget
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.report.report import render_comparison
from tests.support.compare_builders import (
    INT8,
    STUDENT,
    TEACHER,
    Fake,
    changed,
    energy,
    measurement,
    measurement_table,
    run_of,
    text_of,
    write_measurement,
    write_run,
)


def on(fake: Fake, **facts) -> Fake:
    return changed(fake, device=measurement_table(fake)["device"] | facts)


def answer(*fakes: Fake, **budget) -> str:
    return summarise_run(run_of(*fakes), {"pc": Budget(**budget)}).groups[0].answer


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"id": "other"}, "device machine-4f2a vs other"),
        ({"arch": "aarch64"}, "architecture x86_64 vs aarch64"),
        ({"cpu": "Cortex-A78AE"}, "cpu AMD EPYC 9R14 vs Cortex-A78AE"),
        ({"governor": "powersave"}, "governor not known vs powersave"),
        ({"power_mode": "15W"}, "power mode not known vs 15W"),
    ],
)
def test_unlike_conditions_are_refused_by_name(facts, words):
    with pytest.raises(IncomparableError, match=words) as caught:
        compare(measurement(STUDENT), [measurement(on(INT8, **facts))])
    assert caught.value.exit_code == 2


def test_every_difference_is_listed():
    other = changed(on(INT8, governor="powersave", power_mode="15W"), threads=4)
    with pytest.raises(
        IncomparableError, match="threads 1 vs 4; power mode not known vs 15W; governor not known vs powersave"
    ):
        compare(measurement(STUDENT), [measurement(other)])


def test_another_engine_on_the_same_device_is_compared_and_shown():
    group = compare(measurement(STUDENT), [measurement(replace(STUDENT, kit="ort", p50_ns=950_000))]).groups[0]
    assert [row.label for row in group.rows] == ["student fp32 (openvino)", "student fp32 (ort)"]
    assert group.rows[1].speedup.verdict == "slower"
    assert group.rows[1].differs == ("kit openvino vs ort", "engine OpenVINO 2026.4.1 vs ONNX Runtime 1.32.0")


def test_other_settings_of_an_engine_are_shown():
    graph = {"cuda_graph": "on", "timed_by": "events", "engine_ns_with_graph": 5e5}
    rows = compare(
        measurement(changed(STUDENT, settings=graph)),
        [measurement(changed(STUDENT, settings=graph | {"cuda_graph": "off", "engine_ns_with_graph": 6e5}))],
    ).groups[0].rows  # fmt: skip
    assert rows[1].differs == ("cuda graph on vs off",)
    assert rows[1].speedup is not None


def test_energy_ratio_needs_one_source():
    base = measurement(changed(STUDENT, energy_uj=energy(3000, "rapl")))
    alike, unlike, absent = (
        compare(base, [measurement(fake)]).groups[0].rows[1]
        for fake in (
            changed(INT8, energy_uj=energy(1000, "rapl")),
            changed(INT8, energy_uj=energy(1000, "ina3221")),
            INT8,
        )
    )
    assert alike.energy_ratio == pytest.approx(3)
    assert unlike.energy_ratio is None
    assert "rapl vs ina3221" in unlike.reasons["energy_ratio"]
    assert absent.energy_ratio is None
    assert "candidate was not measured" in absent.reasons["energy_ratio"]


def test_runs_pair_by_device_kit_model_and_precision():
    before, after = (
        run_of(TEACHER, STUDENT, INT8, name="before"),
        run_of(STUDENT, replace(INT8, p50_ns=300_000), name="after"),
    )
    comparison = compare_runs(before, [after])
    assert [group.title.split(" — ")[0] for group in comparison.groups] == ["student fp32", "student int8"]
    assert [row.label for row in comparison.groups[0].rows] == ["before", "after"]
    assert comparison.groups[0].rows[1].speedup.verdict == "no difference seen"
    assert comparison.groups[1].rows[1].speedup.verdict == "faster"
    assert comparison.left_out == ("teacher fp32 with openvino: not measured in after",)


def test_single_measurements_pair_whatever_they_are(tmp_path):
    files = [write_measurement(tmp_path, STUDENT), write_measurement(tmp_path, INT8)]
    baseline, candidate = load_results(files)
    group = compare_runs(baseline, [candidate]).groups[0]
    assert group.title.startswith("student fp32 / student int8")
    assert group.rows[1].speedup.verdict == "faster"


def test_runs_with_nothing_in_common():
    with pytest.raises(IncomparableError, match="the runs have no model, device and precision in common"):
        compare_runs(run_of(TEACHER, STUDENT), [run_of(INT8, replace(INT8, kit="ort"))])


def test_runs_of_different_devices_stand_side_by_side():
    board = run_of(on(replace(STUDENT, target="board"), address="ssh://board", id="other"), name="board")
    here = run_of(TEACHER, STUDENT, name="here")
    assert not have_counterparts([here, board])
    comparison = side_by_side([here, board])
    assert [group.title.split(":")[0] for group in comparison.groups] == ["here — pc", "board — board"]
    assert [row.label for row in comparison.groups[0].rows] == ["teacher fp32", "student fp32"]
    assert comparison.groups[1].rows[0].speedup is None
    assert "ratios between here and board: no model was measured on one device" in comparison.left_out[0]
    assert have_counterparts([here, board, run_of(STUDENT, INT8, name="there")])


def test_two_measurements_of_one_thing_are_ambiguous():
    with pytest.raises(ConfigError, match=r"1\.json.*two measurements of student fp32 with openvino"):
        compare_runs(run_of(STUDENT, STUDENT), [run_of(STUDENT, INT8)])


def test_runs_of_one_name_stay_apart():
    rows = compare_runs(run_of(STUDENT), [run_of(STUDENT)]).groups[0].rows
    assert [row.label for row in rows] == ["run #1", "run #2"]


def test_the_teacher_is_the_baseline_of_its_target():
    group = summarise_run(run_of(STUDENT, INT8, TEACHER)).groups[0]
    assert group.baseline == "teacher fp32"
    assert [row.label for row in group.rows] == ["teacher fp32", "student fp32", "student int8"]
    assert group.rows[0].is_baseline
    assert group.chosen == "student int8"


def test_without_a_teacher_speedup_is_null_with_a_reason():
    row = summarise_run(run_of(STUDENT)).groups[0].rows[0]
    assert row.speedup is None
    assert row.reasons["speedup"] == "the teacher was not measured on this target"


def test_conditions_that_changed_within_a_run_do_not_stop_its_summary():
    row = summarise_run(run_of(TEACHER, on(INT8, governor="powersave"))).groups[0].rows[1]
    assert row.speedup is None
    assert "governor" in row.reasons["speedup"]
    assert row.accuracy_drop is not None


def test_machines_of_one_target_stay_apart():
    phones = [on(replace(fake, target="web"), id=name) for name in ("a", "b") for fake in (TEACHER, STUDENT)]
    groups = summarise_run(run_of(*phones)).groups
    assert [len(group.rows) for group in groups] == [2, 2]


def many(fake):
    """The same shares of ten times as many test samples, so that intervals are narrow."""
    return replace(fake, n=10 * fake.n, correct=10 * fake.correct)


MANY = many(TEACHER), many(STUDENT), many(INT8)


def test_ship_the_fast_one():
    assert answer(*MANY) == (
        "pc: ship student int8 — 8.9x as fast as the teacher, \u22121.1 points of accuracy, 98.3 kB"
    )


def test_ship_fp32_when_int8_is_slower():
    text = answer(*MANY[:2], replace(MANY[2], p50_ns=1_100_000))
    assert text.startswith("pc: ship student fp32 — 4.1x as fast as the teacher")
    assert "int8 is slower (0.81x as fast)" in text


def test_the_budget_decides_first():
    assert "ship student int8" in answer(*MANY, size_bytes=200_000)
    assert "fp32 exceeds size 330 kB > 200 kB" in answer(*MANY, size_bytes=200_000)
    text = answer(*MANY, size_bytes=50_000)
    assert (
        text
        == "pc: no student fits the budget (fp32 exceeds size 330 kB > 50.0 kB; int8 exceeds size 98.3 kB > 50.0 kB)"
    )
    assert "accuracy 87.8 % < 88.0 %" in answer(*MANY, accuracy=0.88)


def test_a_limit_that_was_not_measured_is_neither_met_nor_exceeded():
    group = summarise_run(run_of(TEACHER, STUDENT), {"pc": Budget(energy_mj=1.0)}).groups[0]
    assert group.rows[1].budget.fits is None
    assert "budget not fully checked (energy: no energy counter" in group.answer
    assert "ship" not in group.answer


def test_a_student_that_lost_its_accuracy_is_not_shipped_for_speed():
    text = answer(*MANY[:2], replace(MANY[2], correct=7000))
    assert "ship student fp32" in text
    assert "int8 is not accurate enough" in text


@pytest.mark.parametrize(
    ("p50_ns", "correct", "limit", "ships"),
    [
        (2_700_000, 8330, None, False),  # 5.6 points for 1.35x: a bad bargain
        (2_700_000, 8330, 7.0, True),  # what the user allows
        (365_000, 8330, None, False),  # however fast
        (2_700_000, 8700, None, True),
        (2_700_000, 8700, 1.5, False),
    ],
)
def test_a_loss_is_shipped_only_below_the_limit(p50_ns, correct, limit, ships):
    text = answer(MANY[0], replace(MANY[1], p50_ns=p50_ns, correct=correct), accuracy_drop=limit)
    assert text.startswith(f"pc: {'ship student fp32' if ships else 'the best student is fp32'} — ")
    warning = f"a loss of {limit or 3:g} points or more is not recommended"
    assert (warning in text) == (not ships)


def test_a_loss_that_is_not_known_to_be_small_is_not_shipped():
    text = answer(TEACHER, replace(STUDENT, correct=875))
    assert text.startswith(
        "pc: the best student is fp32 — 4.1x as fast as the teacher, \u22121.4 points of accuracy (cannot tell: "
    )
    assert "test samples would)" in text
    assert "it may lose up to 4.2 points against the teacher: test it on more samples" in text


def test_speed_without_accuracy_is_no_recommendation():
    text = answer(TEACHER, changed(STUDENT, accuracy=None))
    assert "the fastest is student fp32" in text
    assert "accuracy not measured" in text
    assert "measure its accuracy before you ship it" in text
    assert "ship student fp32" in answer(*MANY[:2], changed(INT8, accuracy=None))


def test_equally_fast_students_are_chosen_by_size():
    text = answer(*MANY[:2], replace(MANY[2], p50_ns=893_000))
    assert "ship student int8" in text
    assert "fp32 is as fast" in text


def test_a_student_that_is_not_faster_is_called_that():
    text = answer(TEACHER, replace(STUDENT, p50_ns=5e6))
    assert "the best student is fp32 — 0.73x as fast as the teacher" in text
    assert "it gains no speed over the teacher" in text
    assert "as fast as the teacher (0.995x)" in answer(TEACHER, replace(STUDENT, p50_ns=3.66e6))


def test_a_wide_interval_is_no_equal_speed():
    text = answer(replace(TEACHER, spread=0.3), replace(STUDENT, spread=0.3, p50_ns=3.5e6))
    assert "the best student is fp32 — about " in text
    assert "as fast as the teacher (cannot tell: " in text


def test_few_processes_and_disturbance_are_said():
    text = answer(replace(TEACHER, processes=2), changed(STUDENT, contaminated=True))
    assert "too few processes to be sure" in text
    assert text.endswith("; shaky: other programs disturbed student fp32")


def test_a_disturbed_baseline_is_a_caveat_of_every_ratio_to_it():
    group = summarise_run(run_of(changed(TEACHER, contaminated=True), STUDENT, INT8)).groups[0]
    assert group.answer.endswith("; shaky: other programs disturbed teacher fp32")
    notes = footnotes_of(group)
    ((mark, text), *_) = notes.listed()
    assert text.startswith("shaky figures: other programs interrupted ")
    assert "(teacher fp32)" in text
    assert [notes.marks(row, "label") for row in group.rows] == [mark, "", ""]
    assert [notes.marks(row, "speedup") for row in group.rows] == ["", mark, mark]


def test_all_doubts_of_a_table_are_one_line():
    reasons = {"drift": "latency drifted in 2 of 5 processes", "stolen": "the host took up to 3% of the CPU's time"}
    fakes = [changed(one, contaminated=True, reasons=reasons) for one in (TEACHER, STUDENT, INT8)]
    text = text_of(summarise_run(run_of(*fakes)))
    assert text.count("shaky figures") == 1
    assert "the host of the virtual machine took CPU time" in " ".join(text.split())
    assert "2 of 5" not in text


def test_the_details_of_shaky_figures_are_a_command_in_the_terminal_and_a_link_in_the_report():
    run = run_of(changed(TEACHER, contaminated=True), STUDENT)
    command = "details: edgedistill compare RUN --details"
    assert command in " ".join(text_of(summarise_run(run)).split())
    page = render_comparison(summarise_run(run), [run])
    assert "shaky figures: " in page
    assert command not in page
    assert '; <a href="#measurements">details</a></li>' in page
    assert '<section id="measurements">' in page


def test_no_student():
    assert answer(TEACHER) == "pc: no recommendation, because no student was measured on this target"


def test_answers_to_the_same_samples_are_paired(tmp_path):
    result = load_run(write_run(tmp_path / "run"))
    known = summarise_run(result).groups[0].rows[2].accuracy_drop
    unknown = summarise_run(replace(result, results=tuple(replace(r, correct=None) for r in result.results)))
    unpaired = unknown.groups[0].rows[2].accuracy_drop
    assert (known.paired, unpaired.paired) == (True, False)
    assert known.points == unpaired.points
    width, unpaired_width = (high - low for low, high in (known.ci95_points, unpaired.ci95_points))
    assert width < unpaired_width / 1.5


def test_answers_that_contradict_the_accuracy_are_not_used(tmp_path):
    file = write_measurement(tmp_path, STUDENT)
    table = json.loads(file.read_text())
    table["accuracy"]["value"] = 0.5
    file.write_text(json.dumps(table))
    (result,) = load_results([file])
    assert result.results[0].correct is None


def test_json_holds_every_measurement_and_can_be_read_back(tmp_path):
    comparison = summarise_run(load_run(write_run(tmp_path / "run")))
    table = json.loads(to_json(comparison))
    assert table["schema"] == "edgedistill.comparison/1"
    assert table["groups"][0]["rows"][0]["measurement"]["schema"] == "edgedistill.measurement/1"
    assert Comparison.model_validate(table) == comparison


@pytest.mark.parametrize("same_labels", [True, False])
def test_metrics_of_the_same_resampled_samples_are_paired(tmp_path: Path, same_labels: bool) -> None:
    """Two detectors whose AP differs by 0.3 points in nearly every resample, although either interval is 8 points wide."""
    rng = np.random.default_rng(0)
    level = 0.40 + 0.02 * rng.standard_normal(400)
    for fake, drop in ((STUDENT, 0.0), (INT8, 0.003)):
        accuracy = {"metric": "coco_ap", "value": 0.40 - drop, "ci95": [0.36, 0.44], "n": 72}
        path = write_measurement(tmp_path, changed(fake, accuracy=accuracy))
        resampled = level - drop + 0.0005 * rng.standard_normal(400)
        labels = np.full((72, 3, 7), 0.0 if same_labels else drop, np.float32)
        np.savez(path.with_suffix(".npz"), outputs=np.zeros((72, 100, 6)), labels=labels, resampled=resampled)
    first, second = (load_results([tmp_path / name])[0].results[0] for name in sorted_names(tmp_path))
    drop = candidate_row(second, first).accuracy_drop
    assert drop is not None
    assert drop.points == pytest.approx(0.3)
    assert drop.paired is same_labels
    low, high = drop.ci95_points
    if same_labels:
        assert (low, high) == (pytest.approx(0.3 - 0.139, abs=0.03), pytest.approx(0.3 + 0.139, abs=0.03))
        assert drop.verdict == "lower"
    else:
        assert high - low > 8
        assert drop.verdict == "cannot tell"


def sorted_names(folder: Path) -> list[str]:
    """Return the measurement files of the float and the int8 student."""
    return sorted((path.name for path in folder.glob("*.json")), key=lambda name: "int8" in name)

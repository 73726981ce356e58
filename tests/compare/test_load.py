import json
import shutil
from dataclasses import replace

import pytest

from edgedistill.compare.load import load_results, load_run
from edgedistill.errors import ConfigError
from edgedistill.report.report import render_report
from tests.support.compare_builders import RUN, STUDENT, measurement_table, write_measurement, write_run


def test_a_run_a_folder_and_a_file(tmp_path):
    run = write_run(tmp_path / "run")
    file = write_measurement(tmp_path / "loose", STUDENT)
    of_run, of_folder, of_file = load_results([run, tmp_path / "loose", file])
    assert [len(r.measurements) for r in (of_run, of_folder, of_file)] == [len(RUN), 1, 1]
    assert of_run.name == "run"
    assert of_file.measurements == of_folder.measurements
    assert of_run.budgets["pc"].size_bytes == 400_000
    assert of_folder.budgets == {}


def test_a_folder_may_hold_the_output_of_bundles(tmp_path):
    write_measurement(tmp_path, STUDENT)
    tables = [measurement_table(one) for one in (STUDENT, replace(STUDENT, precision="int8"))]
    output = {"schema": "edgedistill.measurements/1", "measurements": tables}
    (tmp_path / "board.json").write_text(json.dumps(output))
    folder, file = load_results([tmp_path, tmp_path / "board.json"])
    assert [len(folder.measurements), len(file.measurements)] == [3, 2]
    assert folder.measurements[:2] == file.measurements


def test_a_published_result_is_a_run_without_subfolders(tmp_path):
    run, published = write_run(tmp_path / "run"), tmp_path / "result"
    published.mkdir()
    for path in (run / "manifest.json", *(run / "measurements").glob("*.json")):
        shutil.copy(path, published)
    (published / "search.json").write_text("{}")
    (before,), (after,) = load_results([run]), load_results([published])
    assert [one.label for one in after.results] == [one.label for one in before.results]
    assert after.budgets == before.budgets
    assert "student int8" in render_report(published)


def test_budgets_wait_for_the_targets_to_match(tmp_path):
    assert load_run(write_run(tmp_path / "run", absent=("report",))).budgets == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "edgedistill.measurement/9"}, ["schema 'edgedistill.measurement/9'"]),
        ({"threads": "many"}, ["threads"]),
        ({"device": {"address": "local"}}, ["device.cpu", "device.engine"]),
        ({"unheard_of": 1}, ["unheard_of"]),
        ({"processes": []}, ["processes", "at least 1 item"]),
    ],
)
def test_a_bad_file_is_named_with_its_field(tmp_path, change, words):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(measurement_table(STUDENT) | change))
    with pytest.raises(ConfigError) as caught:
        load_results([path])
    assert all(word in str(caught.value) for word in [str(path), *words])


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_impossible_latencies_are_refused(tmp_path, value):
    table = measurement_table(STUDENT)
    table["processes"][2]["p50_ns"] = value
    (tmp_path / "m.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=r"processes\.2\.p50_ns"):
        load_results([tmp_path / "m.json"])


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_what_is_no_measurement_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ConfigError, match=r"m\.json"):
        load_results([tmp_path / "m.json"])


def test_nothing_there(tmp_path):
    with pytest.raises(ConfigError, match="no such"):
        load_results([tmp_path / "absent"])
    with pytest.raises(ConfigError, match="no measurements"):
        load_results([tmp_path])
    with pytest.raises(ConfigError, match="not a run folder"):
        load_run(tmp_path)
    assert load_run(write_run(tmp_path / "early", ())).measurements == ()


def test_names_of_two_targets(tmp_path):
    result = load_run(write_run(tmp_path / "run", (STUDENT, replace(STUDENT, target="phone"))))
    assert {m.target for m in result.measurements} == {"pc", "phone"}

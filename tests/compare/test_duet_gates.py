"""Gates on models that took turns, with the baseline measured twice; and comparisons across runs, which name the command that decides."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.compare.advice import advise_run
from edgedistill.compare.again import measure_pairs
from edgedistill.compare.comparison import Comparison, GateOutcome, Pair, Pairing, compare_pairs, compare_runs, to_json
from edgedistill.compare.load import LoadedMeasurement, load_results
from edgedistill.compare.markdown import to_markdown
from edgedistill.config.gates import parse_gate
from edgedistill.deploy.again import AgainOptions, MeasuredModel, find_model, measure_again
from edgedistill.errors import ConfigError, IncomparableError
from edgedistill.gates.evaluate import apply_gates
from edgedistill.kits.kits import find_kits
from tests.support.command import edgedistill
from tests.support.compare_builders import (
    STUDENT,
    Fake,
    as_arm,
    in_turns,
    measurement,
    measurement_table,
    write_measurement,
)
from tests.support.tiny_onnx import build

NOISY = replace(STUDENT, spread=0.3)
"""Each process of this model ran at another speed, as on a machine that is not quiet."""
SETS = np.array((0.994, 1.003, 0.998, 1.005, 1.0))
"""What takes turns does not notice: the ratio of a model to itself in five sets."""


def arm(name: str, fake: Fake) -> tuple[str, LoadedMeasurement]:
    return name, LoadedMeasurement(name, measurement(fake))


def compared(slower: float, itself: np.ndarray | None = SETS) -> Comparison:
    """Compare a noisy model with one that is slower by this factor, both measured in turns."""
    ratios = {"other": tuple(SETS[::-1] / slower), "again": () if itself is None else tuple(itself)}
    members = arm("a", in_turns(NOISY, ratios)), arm("b", as_arm(replace(NOISY, seed=7), "other"))
    again = arm("a", as_arm(replace(NOISY, seed=8), "again"))[1]
    return compare_pairs(Pairing((Pair(members, None if itself is None else again),)))


def outcome(slower: float, gate: str, itself: np.ndarray | None = SETS) -> GateOutcome:
    (found,) = apply_gates(compared(slower, itself), [parse_gate(gate)]).gates
    return found


@pytest.mark.parametrize(
    ("slower", "gate", "decision"),
    [
        (1.0, "p50_ms > +3%", "pass"),
        (1.06, "p50_ms > +3%", "fail"),
        (0.9, "p50_ms > +3%", "pass"),
        (1.03, "p50_ms > +3%", "undecided"),
        (1.06, "p50_ms > +0.01", "fail"),
        (1.0, "p50_ms > +0.01", "pass"),
        (1.06, "p50_ms > +0%", "fail"),
        (1.0, "p50_ms > +0%", "undecided"),
        (1.0, "size_bytes > +0%", "pass"),
    ],
)
def test_a_gate_of_three_percent_holds_where_processes_differ_by_half(slower, gate, decision):
    found = outcome(slower, gate)
    assert found.decision == decision, found.found
    alone = outcome(slower, gate, itself=None)
    assert alone.least_change is None
    assert "this machine" not in alone.found


def test_the_baseline_against_itself_is_shown():
    found = outcome(1.06, "p50_ms > +3%")
    assert found.least_change == pytest.approx(0.0054, abs=2e-4)
    assert found.found.startswith("+6.0% [+5.4%, +6.6%]; this machine shows changes of 0.5% or more")
    comparison = compared(1.06)
    line = "a against itself: 1.000x [0.995, 1.005], so this machine shows changes of 0.5 % or more"
    verdict = "slower, 0.943x [0.938, 0.948], measured in turns"
    for shown in (repr(comparison), to_markdown(comparison).replace("\\", ""), comparison._repr_html_()):
        text = " ".join(shown.split())
        assert line in text
        assert verdict in text
    table = json.loads(to_json(comparison))
    assert table["groups"][0]["rows"][1]["speedup"]["duet"] is True
    assert table["groups"][0]["itself"]["speedup"]["processes"] == [5, 5]
    assert Comparison.model_validate_json(to_json(comparison)) == comparison


@pytest.mark.parametrize(
    ("slower", "decision"), [(1.0, "undecided"), (1.06, "undecided"), (1.5, "fail"), (0.8, "pass")]
)
@pytest.mark.parametrize("itself", [SETS * 1.05, 1 + 10 * (SETS - 1)], ids=["differs from itself", "varies"])
def test_a_machine_that_cannot_tell_the_limit_decides_only_what_is_far_from_it(slower, decision, itself):
    found = outcome(slower, "p50_ms > +3%", itself)
    assert found.decision == decision
    if decision == "undecided":
        assert (
            f"this machine shows changes of {100 * found.least_change:.1f}% or more, and the limit is smaller"
            in found.found
        )


def test_percentiles_are_compared_set_by_set():
    """The p95 of a process moves with the set that it ran in; the ratio to the other process of the set does not."""
    slow = replace(NOISY, p50_ns=1.06 * NOISY.p50_ns)  # the same seed: each set has one speed for both models
    members = arm("a", in_turns(NOISY, {"other": (0.943,) * 5})), arm("b", as_arm(slow, "other"))
    comparison = compare_pairs(Pairing((Pair(members),)))
    (found,) = apply_gates(comparison, [parse_gate("p95_ms > +3%")]).gates
    assert found.decision == "fail"
    assert found.interval[1] - found.interval[0] < 0.001


def test_cold_caches_are_compared_with_cold_caches():
    cold = replace(
        NOISY, changes={"schema": "edgedistill.measurement/2", "duet": {"id": "1", "arm": "b", "caches": "cold"}}
    )
    with pytest.raises(IncomparableError, match="caches warm vs cold"):
        compare_pairs(Pairing((Pair((arm("a", NOISY), arm("b", cold))),)))


def prepared(folder: Path, fake: Fake) -> Path:
    """The folder of `bench MODEL.onnx`: a measurement, and the copy with fixed shapes that it names."""
    copy = folder / "onnx" / f"{fake.name}.onnx"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(fake.name.encode())
    identity = {
        "name": fake.name,
        "sha256": "ab" * 32,
        "lineage": {"fixed_shapes": sha256(fake.name.encode()).hexdigest()},
    }
    write_measurement(folder / "measurements", replace(fake, changes={"model": identity}))
    return folder


def test_across_runs_a_line_names_the_command_that_decides(tmp_path):
    one, other = prepared(tmp_path / "one", NOISY), prepared(tmp_path / "two words", replace(NOISY, seed=5))
    comparison = compare_runs(*split(one, other))
    command = f"edgedistill compare --again {one} '{other}'"
    assert comparison.advice == f"a measurement in turns would decide: {command}"
    for shown in (repr(comparison), comparison._repr_html_().replace("&#x27;", "'"), to_markdown(comparison)):
        assert "A measurement in turns would decide" in shown
    assert f"`{command}`" in to_markdown(comparison)
    (other / "onnx" / "student.onnx").write_bytes(b"changed")
    assert compare_runs(*split(one, other)).advice.endswith(
        ": edgedistill bench BASELINE.onnx CANDIDATE.onnx --target openvino"
    )
    device = measurement_table(NOISY)["device"] | {"address": "bundle"}
    bundles = [replace(NOISY, seed=seed, changes={"device": device}) for seed in (1, 5)]
    of_bundles = [write_measurement(tmp_path / f"bundle-{one.seed}", one) for one in bundles]
    compared_bundles = compare_runs(*split(*of_bundles))
    assert compared_bundles.advice is None  # no command reaches their device
    assert advise_run(compared_bundles.groups, of_bundles[0]) is None
    fast = prepared(tmp_path / "fast", replace(STUDENT, p50_ns=STUDENT.p50_ns / 2))
    calm = prepared(tmp_path / "calm", STUDENT)
    assert compare_runs(*split(calm, fast)).advice is None


def split(*paths: Path):
    first, *others = load_results(paths)
    return first, others


def test_a_model_that_is_not_at_hand_is_named(tmp_path):
    folder = prepared(tmp_path / "one", NOISY)
    kits = find_kits()

    def found() -> MeasuredModel:
        (one,) = load_results([folder])[0].results
        return find_model(one.measurement, one.file, kits)

    with pytest.raises(ConfigError, match=r"one/onnx/io\.npz: missing"):
        found()
    np.savez(folder / "onnx" / "io.npz", **{"input.x": np.ones(3), "expected.student.y": np.ones(3)})
    assert (found().model, found().expected, found().address) == (folder / "onnx" / "student.onnx", "student", "local")
    (folder / "onnx" / "student.onnx").unlink()
    with pytest.raises(
        ConfigError, match=r"one/onnx/student\.onnx: missing or changed: the model of .*student-pc-.*json"
    ):
        found()
    (folder / "manifest.json").write_text('{"schema": "edgedistill.run/2", "name": "one", "stages": {}}')
    with pytest.raises(ConfigError, match="exported again after it was measured; run 'edgedistill bench CONFIG' first"):
        found()


def test_both_sides_take_turns_under_equal_conditions(tmp_path):
    one, other = prepared(tmp_path / "one", NOISY), prepared(tmp_path / "other", NOISY)
    for folder in (one, other):
        np.savez(folder / "onnx" / "io.npz", **{"input.x": np.ones(3)})
    file = next((other / "measurements").glob("*.json"))
    file.write_text(file.read_text().replace('"threads": 1', '"threads": 2'))
    with pytest.raises(IncomparableError, match="threads differ: one 1, other 2"):
        measure_pairs(load_results([one, other]), AgainOptions(processes=3, seconds=1), find_kits(), tmp_path, print)
    page = {"provider": "wasm", "user_agent": "a browser", "secure": True, "isolated": True, "shared_memory": True, "timer_ns": 1e5,
            "loops": 1, "heap_bytes": None, "gpu": None, "hidden": False}  # fmt: skip
    file = write_measurement(tmp_path / "page", replace(NOISY, changes={"browser": page}))
    with pytest.raises(IncomparableError, match="a browser measured it, which cannot be started from here"):
        measure_pairs(load_results([file, file]), AgainOptions(processes=3, seconds=1), find_kits(), tmp_path, print)
    assert list(tmp_path.rglob("artifacts")) == []
    result = CliRunner().invoke(cli, ["compare", "--seconds", "1", str(one), str(other)])
    assert "--seconds only applies with --again" in str(result.exception)


@pytest.mark.slow
def test_a_gate_measures_both_sides_and_the_baseline_twice(tmp_path):
    """No figure is judged, because it depends on the machine: the gate is of a size, and the answers are compared."""
    for name in ("before", "after"):
        model = build(tmp_path / f"{name}.onnx")
        done = edgedistill("bench", model, "--target", "ort", "--processes", 1, "--seconds", 0.1, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    options = (
        "--seconds",
        0.1,
        "--processes",
        3,
        "--fail-if",
        "size_bytes > +0%",
        "--fail-if",
        "p50_ms > +100000%",
        "--json",
    )
    done = edgedistill("compare", "--again", "runs/before", "runs/after", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (group,) = found["groups"]
    assert [row["label"] for row in group["rows"]] == ["before", "after"]
    assert group["itself"]["label"] == "before against itself"
    assert group["itself"]["speedup"]["processes"] == [3, 3]
    assert found["gates"][1]["least_change"] > 0
    assert [row["measurement"]["parity"]["agreement"] for row in group["rows"]] == [1.0, 1.0]


@pytest.mark.slow
def test_a_run_is_compared_with_its_teacher_on_new_measurements(copied):
    """The answer has the rows of the run, measured now; the files of the run stay as they are."""
    run = copied / "runs" / "digits"
    files = {path: path.read_bytes() for path in (run / "measurements").iterdir()}
    before = json.loads(edgedistill("compare", "runs/digits", "--json", cwd=copied).stdout)
    options = ("--again", "--processes", 2, "--seconds", 0.1, "--json")
    done = edgedistill("compare", "runs/digits", *options, cwd=copied)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    old, new = (found["groups"][0]["rows"] for found in (before, again))
    assert (
        [row["label"] for row in new]
        == [row["label"] for row in old]
        == ["teacher fp32", "student fp32", "student int8"]
    )
    for one, other in zip(old, new, strict=True):
        assert other["measurement"]["created"] > one["measurement"]["created"]
        assert len(other["measurement"]["processes"]) == 2
        assert other["measurement"]["model"] == one["measurement"]["model"]
        assert other["measurement"]["accuracy"]["value"] == one["measurement"]["accuracy"]["value"]
    assert {path: path.read_bytes() for path in (run / "measurements").iterdir()} == files
    page = edgedistill("compare", "runs/digits", *options[:-1], "--html", "again.html", cwd=copied)
    assert page.returncode == 0, page.stderr
    assert "teacher fp32" in (copied / "again.html").read_text()


def measured_models(run: Path) -> list[MeasuredModel]:
    kits = find_kits()
    return [find_model(one.measurement, one.file, kits) for one in load_results([run])[0].results]


@pytest.mark.slow
def test_a_run_is_measured_again_with_its_artifact_while_the_engine_is_the_same(copied, tmp_path):
    run = copied / "runs" / "digits"
    one = measured_models(run)[0]
    assert one.compiled.entry.is_relative_to(run / "artifacts")
    options = AgainOptions(processes=1, seconds=0.05, passes=())
    older = replace(one.compiled, engine=one.compiled.engine.model_copy(update={"version": "1.0"}))
    changed = replace(one, compiled=older)
    for name, model, compilations in (("kept", one, 0), ("older", changed, 1)):
        ((_, measured),) = measure_again([model], options, tmp_path / name, print)
        assert measured.parity.agreement == 1.0
        assert len(list((tmp_path / name).glob("artifacts/*"))) == compilations
    one.compiled.files[0].write_bytes(b"changed")
    assert measured_models(run)[0].compiled is None

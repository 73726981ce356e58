"""A card of a real run, replayed by the real engine: it holds, or it is refused, or it does not hold."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import detections
import numpy as np
import onnxruntime
import picture
import pytest
import yaml
from PIL import Image

from edgedistill.card.card import Card, read_card, require_file
from edgedistill.card.replay import ReplayedValue, ReplayOptions, check_values
from edgedistill.card.usage import detection_code, picture_code
from edgedistill.card.write import write_card
from edgedistill.data.shown import picture_of
from edgedistill.errors import ConfigError
from edgedistill.records.contract import DetectionRules, PictureRules
from edgedistill.runtime.files import seal_of
from tests.support.command import edgedistill
from tests.support.compare_builders import INT8 as BUILT_INT8
from tests.support.compare_builders import STUDENT, Fake, as_arm, in_turns, measurement, measurement_table
from tests.support.text_runs import write_text_run

INT8 = "student-int8-u8-i32.onnx"


@pytest.fixture(scope="module")
def published(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "published"
    result = edgedistill("card", "runs/digits", "-o", folder, "--license", "MIT", cwd=finished)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture
def card(published: Path, tmp_path: Path) -> Path:
    """A copy of what was published, to change."""
    return Path(shutil.copytree(published, tmp_path / "card"))


def test_a_card_says_what_was_made_of_what_and_what_it_does(published: Path) -> None:
    assert {path.name for path in published.iterdir()} == {"card.json", "card.md", "io.npz", "student-fp32.onnx", INT8}
    card = read_card(published / "card.json")
    (measurement,) = (one for one in card.measurements if one.precision.requested == "int8")
    assert (card.license, card.origin.student, card.origin.teacher) == (
        "MIT",
        "zoo:mlperf-resnet8",
        "zoo:mlperf-resnet8",
    )
    assert card.model_of(measurement).file.path == INT8
    assert measurement.model.lineage["data"] == card.data.fingerprint
    assert card.versions["onnxruntime"]
    page = (published / "card.md").read_text()
    assert card.models[0].file.sha256 in page
    assert f"n = {measurement.accuracy.n}" in page
    assert "not measured: no energy counter" in page
    assert (published / "card.json").stat().st_size + (published / "card.md").stat().st_size < 40_000


def code_of(page: str) -> str:
    return page.partition("```python\n")[2].partition("```")[0]


def test_the_page_has_metadata_for_the_hub_and_says_first_what_was_lost(finished: Path, published: Path) -> None:
    page, card = (published / "card.md").read_text(), read_card(published / "card.json")
    _, front, body = page.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert (metadata["license"], metadata["library_name"]) == ("mit", "onnx")
    assert metadata["pipeline_tag"] == "image-classification"
    (model,) = metadata["model-index"]
    values = [metric["value"] for metric in model["results"][0]["metrics"]]
    assert values == [pytest.approx(one.accuracy.value, abs=1e-6) for one in card.measurements]
    assert "datasets" not in metadata
    title, first, *_ = [line for line in body.splitlines() if line]
    assert title == f"# {card.name}"
    teacher = json.loads((finished / "runs/digits/measurements/local-ort-teacher-fp32.json").read_text())
    assert first.startswith(f"Against its teacher (accuracy {100 * teacher['accuracy']['value']:.1f} %), the student ")


def test_the_usage_runs_as_printed_and_answers_as_the_model_was_recorded(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, card = shutil.copytree(published, tmp_path / "used"), read_card(published / "card.json")
    model = card.preferred
    with np.load(folder / model.io.path) as recorded:
        request, labels = recorded["input.input"][0], recorded["labels"]
        expected = recorded[f"expected.{model.expected}.logits"][0]
    Image.fromarray(picture_of(request, model.contract.picture)).save(folder / "picture.jpg", "PNG")
    monkeypatch.chdir(folder)
    exec(code_of((folder / "card.md").read_text()), {})
    name, probability = capsys.readouterr().out.split()
    wanted = np.exp(expected - expected.max()).reshape(-1)
    assert name == card.data.classes[int(wanted.argmax())]
    assert float(probability) == pytest.approx(wanted.max() / wanted.sum(), abs=0.02)
    assert len(labels) == card.data.test


@pytest.mark.parametrize("out", [None, "published"], ids=["in the run", "in another folder"])
def test_the_usage_of_a_text_model_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str | None
) -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
    run = write_text_run(tmp_path / "texts")
    card = write_card(run, None if out is None else tmp_path / out)
    monkeypatch.chdir(card.parent)
    exec(code_of((card.parent / "card.md").read_text()), {})
    name, probability = capsys.readouterr().out.split()
    tokenizer = tokenizers.Tokenizer.from_file(str(run / "onnx" / "tokenizer.json"))
    tokenizer.no_padding()
    ids = tokenizer.encode("a text").ids
    session = onnxruntime.InferenceSession(run / "onnx" / "student-fp32.onnx")
    (logits,) = session.run(None, {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)})
    assert name == ("cat", "dog")[logits.argmax()]
    assert float(probability) == pytest.approx((np.exp(logits) / np.exp(logits).sum()).max(), rel=1e-5)


RULES = PictureRules(
    width=24, height=16, rule="crop", padding=114, colour="rgb", dtype="float32", layout="NCHW", divide_by=255.0,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4),
)  # fmt: skip


@pytest.mark.parametrize("rule", ["crop", "letterbox", "letterbox-corner", "stretch"])
@pytest.mark.parametrize("size", [(40, 31), (17, 50), (24, 16)])
def test_the_code_reads_pictures_as_devices_do(tmp_path: Path, rule: str, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    raw = {"dtype": "uint8", "layout": "NHWC", "divide_by": 1.0, "mean": None, "std": None}
    for rules in (RULES.model_copy(update={"rule": rule}), RULES.model_copy(update={"rule": rule, **raw})):
        names: dict = {}
        exec("\n".join(["import numpy as np", "from PIL import Image, ImageOps", *picture_code(rules)]), names)
        wanted = picture.prepare(pixels, {"picture": rules.model_dump()})
        found = names["read"](tmp_path / "picture.png")
        assert found.dtype == wanted.dtype
        level = 1.0 if rules.std is None else 1 / 255 / min(rules.std)  # Pillow resizes tall pictures in another order
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), atol=1.01 * level)


def test_the_code_finds_the_boxes_that_devices_find() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (40, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, (40, 3)).astype(np.float32)
    rules = DetectionRules(floor=0.001, overlap=0.5, limit=20)
    names: dict = {}
    exec("\n".join(["import numpy as np", *detection_code(rules, 0.4)]), names)
    wanted = detections.detect(scores, boxes, detections.Rules(0.4, rules.overlap, rules.limit))
    wanted = wanted[wanted[:, 0] >= 0]
    found = names["detections"](scores, boxes)
    assert 5 < len(found) <= 20
    np.testing.assert_array_equal([[kind, *boxes[place]] for place, kind in found], np.delete(wanted, 1, axis=1))


def test_a_card_written_into_its_run_names_the_files_there(copied: Path) -> None:
    assert edgedistill("card", "runs/digits", cwd=copied).returncode == 0
    card = read_card(copied / "runs" / "digits" / "card.json")
    assert {model.file.path for model in card.models} == {"onnx/student-fp32.onnx", f"onnx/{INT8}"}
    assert "No licence was stated." in card.limits


INT8_NOW = replace(BUILT_INT8, p50_ns=3 * BUILT_INT8.p50_ns, seed=9)
"""The int8 model, three times as slow."""


def values(ratios: tuple[float, ...], *now: Fake, disturbed: bool = False) -> dict[str, ReplayedValue]:
    """The values of a replay of two models that took turns when they were published, int8 being twice as fast."""
    float_then, int8_then = in_turns(STUDENT, {"b": (2.0, 2.01, 1.99)}), as_arm(BUILT_INT8, "b")
    float_now, int8_now = in_turns(now[0], {"b": ratios, "c": (1.0, 1.001, 0.999)}, "7e"), as_arm(now[1], "b", "7e")
    again = as_arm(now[0], "c", "7e")
    *pairs, extra = (measurement(fake) for fake in (float_then, float_now, int8_then, int8_now, again))
    doubt = (
        {"contaminated": disturbed, "reasons": {"contaminated": "9 of 10 inferences were preempted"}}
        if disturbed
        else {}
    )
    new = [one.model_copy(update=doubt) for one in (pairs[1], pairs[3])]
    found = check_values([(pairs[0], new[0]), (pairs[2], new[1])], extra, ReplayOptions())
    return {f"{one.model} {one.figure}": one for one in found}


def test_the_speedup_between_models_that_took_turns_is_replayed() -> None:
    name = "student int8 (openvino) speedup over student fp32 (openvino)"
    holds = values((1.99, 2.0, 2.01), STUDENT, BUILT_INT8)[name]
    assert (holds.decision, holds.found) == ("pass", "2.00x now; published: 2.00x")
    assert values((1.5, 1.51, 1.49), STUDENT, INT8_NOW)[name].decision == "fail"
    assert values((1.82, 1.9, 1.74), STUDENT, INT8_NOW)[name].decision == "undecided"
    assert (
        "this machine shows changes of 0.2% or more"
        in values((2.0, 2.0, 2.01), STUDENT, BUILT_INT8)["student fp32 (openvino) p50_ms"].found
    )


def test_what_was_disturbed_does_not_fail_unless_its_fastest_inference_was_too_slow() -> None:
    name = "student int8 (openvino) p50_ms"
    assert values((2.0, 2.0, 2.01), STUDENT, INT8_NOW)[name].decision == "fail"
    assert values((2.0, 2.0, 2.01), STUDENT, INT8_NOW, disturbed=True)[name].decision == "fail"
    once = {"latency_ns": measurement_table(INT8_NOW)["latency_ns"] | {"min": BUILT_INT8.p50_ns}}
    partly = replace(INT8_NOW, changes=once)
    assert values((2.0, 2.0, 2.01), STUDENT, partly)[name].decision == "fail"
    spared = values((2.0, 2.0, 2.01), STUDENT, partly, disturbed=True)[name]
    assert spared.decision == "undecided"
    assert "other programs disturbed it: 9 of 10 inferences were preempted" in spared.found


def test_what_was_published_holds_here(published: Path) -> None:
    # However busy the machine is, its times hold within this tolerance; the answers have none.
    result = edgedistill(
        "replay", "card.json", "--precision", "int8", "--tolerance", 1e9, "--seconds", 0.1, "--json", cwd=published
    )
    assert result.returncode == 0, result.stdout + result.stderr
    replayed = json.loads(result.stdout)
    assert replayed["schema"] == "edgedistill.replay/1"
    assert {one["figure"] for one in replayed["figures"]} >= {
        "p50_ms",
        "p95_ms",
        "memory_bytes",
        "accuracy",
        "agreement",
    }
    assert {one["decision"] for one in replayed["figures"]} == {"pass"}
    assert replayed["measurements"][0]["schema"] == "edgedistill.measurement/2"


@pytest.mark.slow
def test_figures_that_were_made_up_do_not_hold(card: Path) -> None:
    table = json.loads((card / "card.json").read_text())
    (measured,) = (one for one in table["measurements"] if one["precision"]["requested"] == "int8")
    for process in measured["processes"]:
        process["p50_ns"] /= 20
    measured["accuracy"] |= {"value": 0.999, "ci95": [0.99, 1.0]}
    (card / "card.json").write_text(json.dumps(table | {"sha256": seal_of(table)}))
    result = edgedistill("replay", "card.json", "--precision", "int8", "--tolerance", 100, cwd=card)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "p50_ms does not hold: +" in result.stdout
    assert "accuracy does not hold: " in result.stdout
    assert "size_bytes holds: " in result.stdout


@pytest.mark.slow
def test_one_process_decides_nothing(published: Path) -> None:
    result = edgedistill("replay", "card.json", "--precision", "int8", "--processes", 1, cwd=published)
    assert result.returncode == 6, result.stdout + result.stderr
    assert "p50_ms is undecided: an interval needs 3 processes, and 1 were measured" in result.stdout
    assert "accuracy holds" in result.stdout


def test_an_altered_card_is_refused(card: Path) -> None:
    text = (card / "card.json").read_text()
    (card / "card.json").write_text(text.replace('"MIT"', '"Apache-2.0"'))
    result = edgedistill("replay", "card.json", cwd=card)
    assert result.returncode == 2
    assert "card.json: was altered after it was written" in result.stderr


@pytest.mark.parametrize("name", [INT8, "io.npz"])
def test_an_altered_or_missing_file_is_refused(card: Path, name: str) -> None:
    (model,) = (model for model in read_card(card / "card.json").models if model.file.path == INT8)
    ref = {ref.path: ref for ref in (model.file, model.io)}[name]
    assert require_file(card / "card.json", ref) == card / name
    content = bytearray((card / name).read_bytes())
    content[len(content) // 2] ^= 1
    (card / name).write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}: not the file that the card lists"):
        require_file(card / "card.json", ref)
    (card / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: missing; download it together with the card"):
        require_file(card / "card.json", ref)


def test_replay_looks_at_the_files_first(card: Path) -> None:
    with (card / "io.npz").open("ab") as file:
        file.write(b"more")
    result = edgedistill("replay", "card.json", cwd=card)
    assert result.returncode == 2
    assert "io.npz: not the file that the card lists" in result.stderr


def resealed(folder: Path, changes: dict) -> Path:
    table = json.loads((folder / "card.json").read_text()) | changes
    path = folder / "changed.json"
    path.write_text(json.dumps(table | {"sha256": seal_of(table)}))
    return path


def test_a_card_cannot_reach_outside_its_folder(card: Path) -> None:
    model, *others = json.loads((card / "card.json").read_text())["models"]
    for path in ("../card.json", "/etc/hostname"):
        changed = resealed(card, {"models": [model | {"file": model["file"] | {"path": path}}, *others]})
        with pytest.raises(ConfigError, match="outside the folder of the card"):
            require_file(changed, read_card(changed).models[0].file)


def test_what_is_no_card(card: Path) -> None:
    with pytest.raises(ConfigError, match="not a card: the schema is not"):
        read_card(resealed(card, {"schema": "edgedistill.card/9"}))
    with pytest.raises(ConfigError, match="a model that it does not list"):
        read_card(resealed(card, {"models": []}))
    with pytest.raises(ConfigError, match=r"changed.json: metric: Field required|metric"):
        read_card(resealed(card, {"metric": None}))
    with pytest.raises(ConfigError, match="cannot be read as a card"):
        read_card(card / "io.npz")


def test_figures_that_a_card_does_not_have(published: Path) -> None:
    result = edgedistill("replay", "card.json", "--precision", "fp16", cwd=published)
    assert result.returncode == 2
    assert (
        "no measurement in the card matches --target and --precision; the card has: ort fp32, ort int8" in result.stderr
    )


def test_a_run_without_measurements_has_no_card(copied: Path) -> None:
    run = copied / "runs" / "digits"
    shutil.rmtree(run / "measurements")
    result = edgedistill("card", run, cwd=copied)
    assert result.returncode == 2
    assert "the student has not been measured" in result.stderr
    (run / "manifest.json").unlink()
    assert edgedistill("card", run, cwd=copied).returncode == 2


def test_a_card_reads_back_as_it_was_written(published: Path) -> None:
    text = (published / "card.json").read_text()
    assert Card.model_validate_json(text).model_dump_json(indent=2) + "\n" == text

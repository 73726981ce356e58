"""The columns of texts, labels and scores are recognised by their names, or else by their values."""

import json
from pathlib import Path

import pytest

from edgedistill.config.load import parse_text
from edgedistill.data.profile import profile_data
from edgedistill.data.template import InitOptions, render_config
from edgedistill.errors import ConfigError

WORDS = ("the cat sits", "a dog runs on the road", "a man eats cake", "the bird sings", "a woman runs")
TEXTS = [f"{one} and {other}" for one in WORDS for other in WORDS]


def written(path: Path, rows: list[tuple[object, ...]]) -> Path:
    path.write_text("\n".join("\t".join(map(str, row)) for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        ([("id", "Sentence", "Label"), *((i, text, i % 3) for i, text in enumerate(TEXTS))], {"text": "Sentence", "label": "Label"}),
        ([("ham" if i % 2 else "spam", text) for i, text in enumerate(TEXTS)], {"text": 1, "label": 0}),
        ([(text, text[::-1], i / 10) for i, text in enumerate(TEXTS)], {"text": [0, 1], "score": 2, "task": "sentence-embedding"}),
        ([("premise", "hypothesis", "label"), *((text, text, i % 2) for i, text in enumerate(TEXTS))],
         {"text": ["premise", "hypothesis"], "label": "label"}),
        ([("text", "label"), *((text, i / 7) for i, text in enumerate(TEXTS))], {"text": "text", "label": "label", "task": "regression"}),
        ([(text,) for text in TEXTS], {"text": 0, "task": "embedding"}),
        ([("text", "label"), *((text, (0, 1, "nan", "inf")[i % 4]) for i, text in enumerate(TEXTS))], {"text": "text", "label": "label"}),
    ],
)  # fmt: skip
def test_columns_of_a_table(tmp_path: Path, rows: list[tuple[object, ...]], keys: dict[str, object]) -> None:
    profile = profile_data(written(tmp_path / "train.tsv", rows), tmp_path)
    assert (profile.form, profile.train) == ("texts", len(TEXTS))
    assert profile.keys == {"train": "train.tsv"} | keys


def test_splits_of_texts_and_a_configuration(tmp_path: Path) -> None:
    for name in ("train", "dev", "test"):
        rows = (json.dumps({"message": text, "intent": f"kind{i % 2}"}) for i, text in enumerate(TEXTS))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    profile = profile_data(tmp_path, tmp_path)
    assert profile.keys == {
        "train": "train.jsonl", "val": "dev.jsonl", "test": "test.jsonl", "text": "message", "label": "intent",
    }  # fmt: skip
    assert (
        profile.summary
        == "25 rows with texts in column 'message', labels in column 'intent'; 2 classes with 12 to 13 samples each"
    )
    options = InitOptions(name="texts", kits={"ort": ("fp32", "int8")}, teacher="hf:encoder", layers=6)
    config = parse_text(render_config(profile, options), tmp_path / "edgedistill.toml")
    assert (config.student.layers, config.target[0].precisions) == (3, ("fp32", "int8"))
    assert str(config.teachers[0].model) == "hf:encoder"


def test_a_folder_of_classes_and_a_table_without_texts(tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        path = tmp_path / "mails" / f"kind{i % 2}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert profile_data(tmp_path / "mails", tmp_path).keys == {"kind": "text", "train": "mails"}
    with pytest.raises(ConfigError, match="no column holds texts of several words"):
        profile_data(written(tmp_path / "numbers.tsv", [(1, 2), (3, 4)]), tmp_path)

"""Texts of tables and folders: read, tokenized, split, cut to the longest of a batch; mistakes are named."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.config.schema import Config
from edgedistill.data.examination import examine
from edgedistill.data.settings import view_settings
from edgedistill.data.views import plain_views
from edgedistill.distill.feed import TrainingFeed, alike_order
from edgedistill.distill.predictors import Answer, ask_in_batches
from edgedistill.errors import ConfigError
from edgedistill.search.families import find_sizes
from edgedistill.search.records import SearchOptions
from edgedistill.search.settings import declare_search
from edgedistill.tasks.table import find_task
from tests.support.encoders import write_encoder, write_tokenizer
from tests.support.learning import checked, config_of, loaded, sources_of

pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")

CLASSES = {"train": "train.tsv", "test": "train.tsv", "text": "words", "label": "kind", "tokenizer": "tok"}
ROWS = ["a cat sits on the mat\tanimal", 'a "man" sings\tperson', "the dog runs\tanimal", "a woman eats cake\tperson"]
PAIRS = {
    "train": "train.csv", "val": "val.csv", "test": "test.csv", "text": ["one", "two"], "score": "score",
    "task": "sentence-embedding",
}  # fmt: skip


def written(folder: Path, **data: object) -> Config:
    write_tokenizer(folder / "tok")
    (folder / "train.tsv").write_text("words\tkind\n" + "\n".join(ROWS * 3))
    return config_of(folder, data=CLASSES | {"val_fraction": 0.34} | data)


def pairs(folder: Path, teacher: str = "hf:tok", **data: object) -> Config:
    write_tokenizer(write_encoder(folder / "tok"))
    (folder / "train.csv").write_text('one,two\n"a cat, a dog",the man\na bird sings,a bird eats\n')
    for name in ("val", "test"):
        rows = [
            f"{one},{two},{score}" for score, (one, two) in enumerate([("a cat", "a dog"), ("cake", "the road")] * 2)
        ]
        (folder / f"{name}.csv").write_text("one,two,score\n" + "\n".join(rows))
    return config_of(
        folder, data=PAIRS | data, teacher={"model": teacher}, student={"layers": 2},
        distill={"loss": "mse", "hard_weight": 0}, target=[{"name": "pc", "kit": "ort", "precisions": ["fp32"]}],
        quantize={"mode": "none"},
    )  # fmt: skip


def test_a_table_gives_token_numbers_masks_and_classes(tmp_path: Path) -> None:
    dataset = loaded(written(tmp_path))
    ids, mask = (dataset.test.inputs[name] for name in ("input_ids", "attention_mask"))
    assert ids[0].tolist() == [2, 4, 5, 10, 14, 15, 16, 3]
    assert ids[2].tolist() == [2, 15, 6, 11, 3, 0, 0, 0]
    assert ids[1].tolist()[:4] == [2, 4, 1, 8]  # a quote is a character of .tsv
    assert mask.sum(1).tolist()[:4] == [8, 7, 5, 6]
    assert dataset.record.classes == ("animal", "person")
    assert [(one.name, one.kind, one.vocabulary) for one in dataset.record.inputs] == [
        ("input_ids", "text", 20), ("attention_mask", "text", 2),
    ]  # fmt: skip


def test_a_batch_is_as_long_as_its_longest_text(tmp_path: Path) -> None:
    config = written(tmp_path)
    dataset = loaded(config)
    views = plain_views(dataset.test, dataset.record, view_settings(config))
    batch = views.batch(np.array([2, 3]), np.zeros(2, np.int64))
    assert {name: tuple(values.shape) for name, values in batch.items()} == {
        "input_ids": (2, 6),
        "attention_mask": (2, 6),
    }
    assert batch["attention_mask"].sum(1).tolist() == [5, 6]


def test_texts_of_similar_length_are_batched_together(tmp_path: Path) -> None:
    config = written(tmp_path)
    dataset = loaded(config)
    views = plain_views(dataset.train, dataset.record, view_settings(config))
    lengths = views.lengths(np.arange(len(views.split)))
    assert lengths is not None
    whole = views.batch(np.arange(len(lengths)), np.zeros(len(lengths), np.int64))
    answer = ask_in_batches(
        lambda inputs: Answer(inputs["input_ids"].sum(1)[:, None], {}), views, np.arange(len(lengths)), 0
    )
    assert torch.equal(answer.main[:, 0], whole["input_ids"].sum(1))  # in the order of the samples
    batches = [batch.inputs["attention_mask"] for batch in TrainingFeed(views, 2, None, 1, 0).epoch(0)]
    assert sum(mask.numel() - int(mask.sum()) for mask in batches) <= 4
    random = np.random.default_rng(0)
    many = random.integers(3, 40, 640)
    order = alike_order(random, many, 32)
    assert np.array_equal(np.sort(order), np.arange(640))
    assert np.ptp(many[order].reshape(-1, 32), axis=1).max() <= 10


def test_forms_of_tables_give_the_same(tmp_path: Path) -> None:
    whole = loaded(written(tmp_path))
    rows = [row.split("\t") for row in ROWS * 3]
    (tmp_path / "plain.tsv.gz").write_bytes(gzip.compress("\n".join(ROWS * 3).encode()))
    quoted = (f'"{text.replace(chr(34), chr(34) * 2)}",{kind}' for text, kind in rows)
    (tmp_path / "train.csv").write_text("words,kind\n" + "\n".join(quoted))
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"words": text, "kind": kind}) for text, kind in rows))
    for data in (
        {"train": "plain.tsv.gz", "test": "plain.tsv.gz", "text": 0, "label": 1},
        {"train": "train.csv", "test": "train.csv"},
        {"train": "train.jsonl", "test": "train.jsonl"},
    ):
        other = loaded(written(tmp_path, **data))
        np.testing.assert_array_equal(other.test.inputs["input_ids"], whole.test.inputs["input_ids"])
        np.testing.assert_array_equal(other.test.labels, whole.test.labels)


def test_a_folder_of_classes(tmp_path: Path) -> None:
    for number, row in enumerate(ROWS * 3):
        text, kind = row.split("\t")
        (tmp_path / "texts" / kind).mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / kind / f"{number:02}.txt").write_text(text)
    dataset = loaded(written(tmp_path, kind="text", train="texts", test="texts", text=None, label=None))
    assert dataset.record.classes == ("animal", "person")
    assert dataset.test.name_of(0) == "animal/00.txt"
    assert dataset.test.inputs["input_ids"][0].tolist() == [2, 4, 5, 10, 14, 15, 16, 3]


def test_two_columns_are_one_sample_with_types(tmp_path: Path) -> None:
    rows = ["a cat\tthe cat sits\tyes", "a man\ta bird\tno"] * 6
    (tmp_path / "two.tsv").write_text("\n".join(rows))
    dataset = loaded(written(tmp_path, train="two.tsv", test="two.tsv", text=[0, 1], label=2))
    assert dataset.test.inputs["input_ids"][0].tolist() == [2, 4, 5, 3, 15, 5, 10, 3]
    assert dataset.test.inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    dataset = loaded(written(tmp_path, max_length=6))
    assert dataset.train.inputs["input_ids"].shape[1] == 6
    texts = [str(one) for one in examine(dataset) if "max_length" in one.text]
    assert texts[0].startswith("warning: data.train: 6 of 12 texts have more than max_length = 6 tokens")


def test_pairs_are_two_samples_that_are_scored_together_and_not_parted(tmp_path: Path) -> None:
    config = pairs(tmp_path)
    checked(config)
    dataset = loaded(config)
    assert (dataset.record.train, dataset.record.test, len(dataset.record.classes)) == (4, 8, 16)
    assert dataset.test.labels.tolist()[:4] == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert np.isnan(dataset.train.labels[:, 1]).all()
    many = "\n".join(f"a cat {'a ' * row},a dog,{row}" for row in range(10))
    (tmp_path / "train.csv").write_text("one,two,score\n" + many)
    split = loaded(pairs_again(tmp_path, val=None, val_fraction=0.4))
    assert sorted(split.val.labels[:, 0].tolist()) == sorted(2 * sorted(set(split.val.labels[:, 0].tolist())))
    with pytest.raises(
        ConfigError, match=r"data\.val: has 1 pairs with scores, and the metric needs 3; raise data\.val_frac"
    ):
        loaded(pairs_again(tmp_path, val=None, val_fraction=0.1))


def pairs_again(folder: Path, **data: object) -> Config:
    """Return the configuration of pairs without writing the files again."""
    return config_of(folder, data=PAIRS | data, teacher={"model": "hf:tok"}, student={"layers": 2})


def test_spearman_is_that_of_scipy_and_only_counts_whole_pairs_with_scores() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 5))
    labels = np.stack([np.arange(40) // 2, np.repeat(rng.integers(0, 6, 20), 2)], 1).astype(np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = spearmanr((unit[::2] * unit[1::2]).sum(1), labels[::2, 1]).statistic
    task = find_task("sentence-embedding")
    assert task.score(vectors, labels) == pytest.approx(expected, abs=1e-12)
    order = rng.permutation(40)
    assert task.score(vectors[order], labels[order]) == pytest.approx(expected, abs=1e-12)
    more = np.concatenate([labels, [[90, 3], [91, np.nan], [91, np.nan]]])
    assert task.score(np.concatenate([vectors, vectors[:3]]), more) == pytest.approx(expected, abs=1e-12)
    assert task.agreement(vectors, 2 * vectors) == pytest.approx(1)


@pytest.mark.parametrize(
    ("data", "content", "message"),
    [
        ({}, "words\tkin\na\tb", r"train\.tsv, line 2: has no column 'kind'.*; it has: words, kin"),
        ({}, "words\tkind\na\tb\n \tb", r"train\.tsv, line 3, column 'words': the text is empty"),
        ({}, "words\tkind", r"train\.tsv has no rows"),
        (
            {},
            "words\tkind\na\tb\tc",
            r"train\.tsv, line 2: has 3 fields, but the header has 2; remove the tabs from its texts",
        ),
        ({"label": 1}, "words\tkind\na\tb", r"name all columns, or number all of them"),
        ({"tokenizer": None}, "words\tkind\na\tb", r"data\.tokenizer: names no tokenizer for the texts"),
        ({"tokenizer": "train.tsv"}, "words\tkind\na\tb", r"data\.tokenizer: train\.tsv is not readable"),
        ({"task": "multi-label"}, "words\tkind\na\tb", r"data\.task: texts have the tasks classification"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, data: dict, content: str, message: str) -> None:
    config = written(tmp_path, **data)
    (tmp_path / "train.tsv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        loaded(config)


def test_commas_without_quotes_and_missing_labels_are_named(tmp_path: Path) -> None:
    config = written(tmp_path, train="a.csv", test="a.csv")
    (tmp_path / "a.csv").write_text("kind,words\nham,one\nham,two,,\nspam,first, second\n")
    with pytest.raises(
        ConfigError, match=r"line 4: has 3 fields, but the header has 2; surround texts that hold commas"
    ):
        loaded(config)
    config = written(tmp_path, train="a.jsonl", test="a.jsonl")
    for value in ("null", "NaN"):
        (tmp_path / "a.jsonl").write_text(f'{{"kind": "ham", "words": "one"}}\n{{"kind": {value}, "words": "two"}}\n')
        with pytest.raises(ConfigError, match=r"data\.label: a\.jsonl, line 2: has no label; remove the row"):
            loaded(config)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": None}, r"text names the column of the texts in train\.tsv"),
        ({"train": "train.npz", "text": None, "tokenizer": None}, r"label only applies to texts"),
        ({"score": "kind"}, r"score only applies to task 'sentence-embedding'"),
        ({"kind": "image"}, r"kind is 'image', but this is a table of texts"),
    ],
)
def test_keys_that_do_not_apply(tmp_path: Path, data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        written(tmp_path, **data)


def test_pairs_need_scores_and_no_loss_on_labels(tmp_path: Path) -> None:
    config = pairs(tmp_path)
    (tmp_path / "test.csv").write_text("one,two\na cat,a dog\n")
    with pytest.raises(ConfigError, match=r"data\.test: task 'sentence-embedding' is judged on pairs with scores"):
        loaded(config)
    with pytest.raises(ConfigError, match=r"hard_weight: is 0\.1, but the scores of pairs are not learnt; set it to 0"):
        checked(pairs(tmp_path).model_copy(update={"distill": config.distill.model_copy(update={"hard_weight": 0.1})}))


def test_what_does_not_run_texts_is_refused(tmp_path: Path) -> None:
    config = pairs(tmp_path)
    for keys, message in (
        (
            {"quantize": config.quantize.model_copy(update={"mode": "qat"})},
            r"quantize.mode: 'qat' fine-tunes rounded models of inputs of one length",
        ),
        (
            {"target": (config.target[0].model_copy(update={"kit": "tensorrt"}),)},
            r"kit 'tensorrt' does not run models of",
        ),
        (
            {"target": (config.target[0].model_copy(update={"device": "adb://1"}),)},
            r"kit 'ort' on a phone does not run",
        ),
        ({"export": config.export.model_copy(update={"bake": ("normalize",)})}, r"texts are not normalised"),
    ):
        with pytest.raises(ConfigError, match=message):
            checked(config.model_copy(update=keys))


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    config = pairs(tmp_path)
    write_encoder(tmp_path / "tok", vocab_size=19)
    with pytest.raises(ConfigError, match=r"embeddings of 19 tokens, but the tokenizer has 20; set data\.tokenizer"):
        checked(config)


def test_a_search_tries_fewer_layers_and_narrower_ones(tmp_path: Path) -> None:
    config = pairs(tmp_path)
    settings = declare_search(sources_of(config, loaded(config).record))
    sizes, left_out = find_sizes(settings, SearchOptions(models=("layers", "width")))
    titles = {family: [settings.title(plan) for plan, _ in found] for family, found in sizes.items()}
    assert titles == {
        "layers": ["1 layer of hf:tok", "2 layers of hf:tok"],
        "width": ["3 layers of hf:tok at width 0.5"],  # of two heads
    }
    assert left_out == []
    assert sizes["layers"][0][1] > sizes["width"][0][1]

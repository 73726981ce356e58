"""Texts become the inputs of a model as its contract says."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import text
from answers import answer_texts
from kit import EngineError

from tests.support.encoders import write_tokenizer

pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tokenizer(tmp_path) / "tokenizer.json"


def rules(file: Path, **other: Any) -> dict[str, Any]:
    known = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "max_length": 6, "texts": 1, "truncation": "longest_first",
        "inputs": ["input_ids", "attention_mask"],
    }  # fmt: skip
    return known | other


def test_a_text_is_cut_at_its_end_and_not_padded(file: Path) -> None:
    known = rules(file)
    tokenizer = text.load(file, known)
    short, cut = (text.prepare(tokenizer, [one], known) for one in ("a cat", "a cat sits on the mat"))
    assert short.tolist() == [[2, 4, 5, 3], [1] * 4]
    assert cut.tolist() == [[2, 4, 5, 10, 14, 3], [1] * 6]
    assert {name: one.shape for name, one in text.inputs_of(cut, known).items()} == {
        "input_ids": (1, 6), "attention_mask": (1, 6),
    }  # fmt: skip


def test_the_longer_text_of_a_pair_is_cut_first(file: Path) -> None:
    known = rules(file, texts=2, inputs=["input_ids", "attention_mask", "token_type_ids"])
    request = text.prepare(text.load(file, known), ["a", "cat sits on the mat"], known)
    assert request.tolist() == [[2, 4, 3, 5, 10, 3], [1] * 6, [0, 0, 0, 1, 1, 1]]
    with pytest.raises(ValueError, match="takes 2 text"):
        text.prepare(text.load(file, known), ["a"], known)


def test_another_tokenizer_and_another_contract_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match="not the tokenizer of the contract"):
        text.load(file, rules(file, sha256="0" * 64))
    with pytest.raises(EngineError, match="takes no texts"):
        answer_texts(None, [np.zeros((2, 3))], {"text": None}, "kit", None)  # type: ignore[arg-type]  # it is refused before

"""The page makes the same tokens as the harness, of texts in many scripts, alone and in pairs, cut or not."""

import hashlib
import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import text

from edgedistill.errors import ConfigError
from edgedistill.serve.runtime import page_folder, read_web_kit, runtime_folder

tokenizers = pytest.importorskip("tokenizers", reason="the optional package tokenizers is not installed")
pytestmark = [
    pytest.mark.slow,  # it may download the library
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no node"),
]

SCRIPT = """
import { readFileSync } from "node:fs";
const { tokenizerOf } = await import("PAGE/tokens.mjs");
const library = await import("LIBRARY");
const { file, cases } = JSON.parse(readFileSync(0, "utf8"));
const json = JSON.parse(readFileSync(file, "utf8"));
console.log(JSON.stringify(cases.map(({ rules, samples }) => {
    const tokenize = tokenizerOf(library, json, rules);
    return samples.map((texts) => {
        const inputs = tokenize(texts);
        return rules.inputs.map((name) => Array.from(inputs[name], Number));
    });
})));
"""
SCRIPTS = (
    (32, 127),
    (0xA0, 0x250),
    (0x370, 0x400),
    (0x400, 0x500),
    (0x4E00, 0x4F00),
    (0xAC00, 0xAD00),
    (0x1F300, 0x1F6D0),
    (0x20000, 0x20100),
)
FIXED = (
    "ΟΔΟΣ ΑΣ", "İstanbul straße ẞ", "naïve café résumé", "😀👨‍👩‍👧 🏳️‍🌈", "北京大学 日本語 𠀀𠀁abc", "[CLS] hi [SEP] [MASK] x", "don't stop... $3.50/kg!",
    "a" * 120, "zero\u200bwidth\u00ad\ufeff \x00\ufffd", "नमस्ते مرحبا",
)  # fmt: skip


def samples() -> list[str]:
    rng = random.Random(0)
    words = lambda: "".join(chr(rng.randrange(*rng.choice(SCRIPTS))) for _ in range(rng.randrange(1, 6)))  # noqa: E731
    return [*FIXED, *(" ".join(words() for _ in range(rng.randrange(1, 12))) for _ in range(150))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of BERT's kind: WordPiece of letters, with pieces that continue words."""
    letters = sorted({one for text in samples() for one in text.lower() if one.isalnum()})[::2]
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *(f"##{one}" for one in letters),
        "don",
        "hi",
        "stop",
    ]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    made.add_special_tokens(words[:5])
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    made.save(str(path))
    return path


def test_the_page_makes_the_tokens_of_the_harness(file: Path) -> None:
    try:
        library = runtime_folder(read_web_kit().tokenizer, (), print) / "tokenizers.min.mjs"
    except ConfigError as error:
        pytest.skip(f"the tokenizer of the page is not here, and npm cannot be reached: {error}")
    known = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "truncation": "longest_first"}
    alone = {"texts": 1, "inputs": ["input_ids", "attention_mask"]}
    pairs = {"texts": 2, "inputs": ["input_ids", "attention_mask", "token_type_ids"]}
    texts = samples()
    cases: list[dict[str, Any]] = []
    for length in (128, 21, 8):
        cases.append({"rules": known | alone | {"max_length": length}, "samples": [[one] for one in texts]})
        two = [list(pair) for pair in zip(texts, texts[::-1], strict=True)]
        cases.append({"rules": known | pairs | {"max_length": length}, "samples": two})
    script = SCRIPT.replace("PAGE", page_folder().as_uri()).replace("LIBRARY", library.as_uri())
    command = ["node", "--input-type=module", "--eval", script]
    given = json.dumps({"file": str(file), "cases": cases})
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=True)
    for case, found in zip(cases, json.loads(done.stdout), strict=True):
        tokenizer = text.load(file, case["rules"])
        for sample, request in zip(case["samples"], found, strict=True):
            assert request == text.prepare(tokenizer, sample, case["rules"]).tolist(), sample

"""The tokens of the page (@huggingface/tokenizers, in node) beside those of `tokenizers`: real texts, mixtures, each character of Unicode.

EDGEDISTILL_MINILM=FOLDER python benchmarks/encoders/tokens.py

The result is in tokens.json: how many texts of each kind there are, how many differ, and the ranges of characters that differ.
"""

import csv
import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
sys.path += [str(REPOSITORY), str(REPOSITORY / "targets" / "harness")]

import text  # noqa: E402

from edgedistill.serve.runtime import page_folder, read_web_kit, runtime_folder  # noqa: E402
from tests.serve.test_tokens import FIXED, SCRIPT, SCRIPTS  # noqa: E402

DATA = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data")) / "text"
MORE = ((0x600, 0x700), (0x900, 0x980), (0x3040, 0x3100))
SPACES = " \t\n\r\u200b\u200d\ufe0f\u00ad\x00\ufffd\u0301\u0085\u2028\u3000\ufeff"


def real_texts():
    found = []
    for path in sorted((DATA / "stsb").glob("*.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            found += [one for row in csv.reader(file) for one in row[:2]]
    with gzip.open(DATA / "sms_spam.tsv.gz", "rt", encoding="utf-8") as file:
        found += [line.rstrip("\n").partition("\t")[2] for line in file]
    return found


def mixtures(count):
    rng = random.Random(0)  # noqa: S311 - not a secret
    ranges = [*SCRIPTS, *MORE]
    for _ in range(count):
        words = []
        for _ in range(rng.randrange(1, 40)):
            begin, end = rng.choice(ranges)
            words.append("".join(chr(rng.randrange(begin, end)) for _ in range(rng.randrange(1, 6))))
            words.append(rng.choice(SPACES))
        yield "".join(words)


def characters():
    return [f"a{chr(code)}b" for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


def in_page(file, rules, texts):
    library = runtime_folder(read_web_kit().tokenizer, (), print) / "tokenizers.min.mjs"
    script = SCRIPT.replace("PAGE", page_folder().as_uri()).replace("LIBRARY", library.as_uri())
    given = json.dumps({"file": str(file), "cases": [{"rules": rules, "samples": [[one] for one in texts]}]})
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as answer:
        asked.write(given)
        asked.seek(0)
        command = ["node", "--max-old-space-size=4096", "--input-type=module", "--eval", script]
        subprocess.run(command, stdin=asked, stdout=answer, check=True)
        answer.seek(0)
        return json.load(answer)[0]


def differing(file, rules, texts):
    tokenizer = text.load(file, rules)
    found = in_page(file, rules, texts)
    return [
        one
        for one, request in zip(texts, found, strict=True)
        if request != text.prepare(tokenizer, [one], rules).tolist()
    ]


def ranges_of(codes):
    found = []
    for code in codes:
        if found and found[-1][1] == code - 1:
            found[-1][1] = code
        else:
            found.append([code, code])
    return [f"{first:04X}-{last:04X}" if last > first else f"{first:04X}" for first, last in found]


def main():
    file = Path(os.environ["EDGEDISTILL_MINILM"]) / "tokenizer.json"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    rules = {"sha256": sha256, "truncation": "longest_first", "max_length": 128, "texts": 1, "inputs": ["input_ids"]}
    others = differing(file, rules, characters())
    unlike = {one[1] for one in others}
    mixed = ["".join(one for one in each if one not in unlike) for each in [*FIXED, *mixtures(3000)]]
    kinds = {"real": real_texts(), "mixtures_without_the_characters": mixed}
    found = {name: {"texts": len(texts), "differ": len(differing(file, rules, texts))} for name, texts in kinds.items()}
    found["characters"] = {
        "texts": len(characters()),
        "differ": len(others),
        "ranges": ranges_of(sorted(map(ord, unlike))),
    }
    print({name: (one["texts"], one["differ"]) for name, one in found.items()})
    result = {
        "tokenizer": "all-MiniLM-L6-v2",
        "library": read_web_kit().tokenizer.version,
        "unicode_of_python": unicodedata.unidata_version,
        **found,
    }
    (HERE / "tokens.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

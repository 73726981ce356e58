"""What a folder for app developers has for a model of texts: the tokenizer, examples and a README."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from edgedistill.data.sources import Array
from edgedistill.data.text import IDS, MASK, TYPES, load_tokenizer, parts_of
from edgedistill.mobile.readme import shape_in_words, variable_name
from edgedistill.records.contract import TextRules
from edgedistill.runtime.files import write_atomic, write_json
from edgedistill.tasks.table import find_task

KOTLIN: Final = {IDS: "ids", MASK: "attentionMask", TYPES: "typeIds"}
"""The names of inputs in DJL's class Encoding."""


def write_text_files(
    folder: Path, tokenizer: Path, rules: TextRules, inputs: Mapping[str, Array], outputs: Mapping[str, Array]
) -> int:
    """Write the tokenizer and examples into a folder, and return how many examples there are.

    `inputs` are padded requests (N, 1, tokens), and `outputs` (N, 1, ...).
    """
    write_atomic(folder / rules.tokenizer, tokenizer.read_bytes())
    examples = list(_examples(load_tokenizer(tokenizer), inputs, outputs))
    write_json(folder / "examples" / "texts.json", {"samples": examples})
    return len(examples)


def _examples(tokenizer: Any, inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """Yield samples whose texts, decoded from their tokens, have the same tokens again."""
    for row in range(len(inputs[IDS])):
        length = int(inputs[MASK][row].sum())
        given = {name: values[row, 0, :length] for name, values in inputs.items()}
        texts = [tokenizer.decode(part.tolist()) for part in parts_of(given)]
        if tokenizer.encode(*texts).ids == given[IDS].tolist():
            answers = {name: values[row].ravel().tolist() for name, values in outputs.items()}
            yield {
                "texts": texts,
                "inputs": {name: values.tolist() for name, values in given.items()},
                "outputs": answers,
            }


def text_readme(mobile: dict[str, Any], examples: int) -> str:
    """Return the README's text for a manifest (edgedistill.mobile/1, as a table) of a model of texts."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - Markdown
    environment.filters["quoted"] = "`{}`".format
    template = environment.from_string((files("edgedistill.mobile") / "readme_texts.md.j2").read_text(encoding="utf-8"))
    text = template.render(
        m=mobile, rules=mobile["contract"]["text"], best=mobile["models"][-1], examples=examples, shape=shape_in_words,
        variable=variable_name, kotlin=KOTLIN, meaning=find_task(mobile["task"]).describe_answer(scores=mobile["probabilities"]),
    )  # fmt: skip
    return text.rstrip() + "\n"

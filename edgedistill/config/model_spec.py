"""Names of models in a configuration: an architecture of the zoo or timm, a user function, an ONNX file, or saved outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, PlainSerializer

from edgedistill.records.base import Record
from edgedistill.runtime.user_code import is_function

Source = Literal["zoo", "timm", "hf", "function", "onnx", "logits"]
HUB: Final = re.compile(r"([\w.-]+/[\w.-]+)@([\w./-]+)")
"""A repository of the Hugging Face hub, ORG/NAME, and a revision of it."""
FILES: dict[str, Source] = {".onnx": "onnx", ".npy": "logits"}


class ModelSpec(Record):
    """A model by name: `text` is the text in the configuration; `name` is the architecture, the function or the file.

    `source` is "zoo" or "timm" for architectures, "hf" for a Hugging Face folder or hub repository, "function" for package.module:function, "onnx" for
    an ONNX file, and "logits" for a .npy file of saved outputs.
    """

    text: str
    source: Source
    name: str

    @property
    def is_module(self) -> bool:
        """Whether the model is a torch module, which has layers and weights."""
        return self.source not in FILES.values()

    @property
    def hub(self) -> tuple[str, str] | None:
        """The repository ORG/NAME of the Hugging Face hub and its revision, None for a model from elsewhere."""
        found = HUB.fullmatch(self.name) if self.source == "hf" else None
        return None if found is None else (found[1], found[2])

    def __str__(self) -> str:
        """Return the text in the configuration."""
        return self.text


def parse_model_spec(text: str) -> ModelSpec:
    """Parse zoo:NAME, timm:NAME, hf:FOLDER, hf:ORG/NAME@REVISION, package.module:function, FILE.onnx or FILE.npy; raises ValueError for anything else."""
    if text.startswith("hf:") and text != "hf:":
        return _hugging_face(text, text.removeprefix("hf:"))
    suffix = Path(text).suffix
    if suffix in FILES:
        return ModelSpec(text=text, source=FILES[suffix], name=text)
    prefix, _, name = text.partition(":")
    if prefix == "zoo" and name:
        return ModelSpec(text=text, source="zoo", name=name)
    if prefix == "timm" and name:
        return ModelSpec(text=text, source="timm", name=name)
    if is_function(text):
        return ModelSpec(text=text, source="function", name=text)
    raise ValueError(
        f"'{text}' is not a model: write zoo:NAME, timm:NAME, hf:FOLDER, package.module:function, FILE.onnx or FILE.npy"
    )


def _hugging_face(text: str, name: str) -> ModelSpec:
    """Return a folder, or a model of the hub; raises ValueError for a name with @ that is not ORG/NAME@REVISION."""
    if "@" in name and not HUB.fullmatch(name):
        raise ValueError(f"'{text}' is not a model: write hf:FOLDER, or hf:ORG/NAME@REVISION with a commit or a tag")
    return ModelSpec(text=text, source="hf", name=name)


def _parsed(value: Any) -> Any:
    return parse_model_spec(value) if isinstance(value, str) else value


Spec = Annotated[ModelSpec, BeforeValidator(_parsed), PlainSerializer(str, return_type=str)]
"""A model in a configuration: parsed from a string, and written as the same string."""

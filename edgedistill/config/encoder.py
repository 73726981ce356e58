"""What a Hugging Face folder says about its encoder of texts: sizes in config.json, pooling in 1_Pooling/config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from edgedistill.errors import ConfigError
from edgedistill.records.base import Record

Pooling = Literal["mean", "cls", "pooler"]
"""How the vectors of all tokens become one: their mean, the first one, or the first one behind a dense layer with an activation."""

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
NAMES: Final[dict[str, dict[str, str]]] = {
    "bert": {
        "hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads",
        "intermediate": "intermediate_size", "activation": "hidden_act", "types": "type_vocab_size",
    },
    "distilbert": {
        "hidden": "dim", "layers": "n_layers", "heads": "n_heads", "intermediate": "hidden_dim", "activation": "activation",
    },
}  # fmt: skip
"""The names of the sizes in config.json, by its model_type."""


class EncoderConfig(Record):
    """The sizes of an encoder; `types` is 0 without embeddings of token types, `pooling` is None where the folder names none.

    `classifies` is whether the folder's architecture ends in a classifier.
    """

    model_type: Literal["bert", "distilbert"]
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    intermediate: int
    positions: int
    types: int = 0
    epsilon: float = 1e-12
    pooling: Pooling | None = None
    classifies: bool = False


def read_encoder_config(folder: Path) -> EncoderConfig:
    """Read the sizes of a BERT or DistilBERT encoder from a Hugging Face folder; raises ConfigError for anything else."""
    table = read_table(folder, CONFIG)
    kind = table.get("model_type")
    if kind not in NAMES:
        raise ConfigError(
            f"model 'hf:{folder.name}': {CONFIG} has model_type '{kind}'; edgedistill supports {' and '.join(NAMES)} for texts, vit "
            "and deit for images; for another model, name a function that builds it: package.module:function"
        )
    names = NAMES[kind] | {"vocabulary": "vocab_size", "positions": "max_position_embeddings"}
    values = required_values(folder, table, names)
    _require_plain(folder, table, values.pop("activation"))
    architectures = " ".join(table.get("architectures") or ())
    return EncoderConfig(
        model_type=kind, epsilon=table.get("layer_norm_eps", 1e-12), pooling=_pooling(folder),
        classifies="ForSequenceClassification" in architectures, **values,
    )  # fmt: skip


def required_values(folder: Path, table: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of config.json under the names of this package; raises ConfigError for a missing one."""
    if missing := [name for name in names.values() if name not in table]:
        raise ConfigError(f"model 'hf:{folder.name}': {CONFIG} has no '{missing[0]}'; download the folder again")
    return {ours: table[theirs] for ours, theirs in names.items()}


def _require_plain(folder: Path, table: dict[str, Any], activation: str) -> None:
    """Raise ConfigError for variants of the architecture that would give other outputs."""
    position = table.get("position_embedding_type", "absolute")
    if activation != "gelu":
        raise ConfigError(f"model 'hf:{folder.name}': the activation '{activation}' is not supported; only 'gelu' is")
    if position != "absolute":
        raise ConfigError(f"model 'hf:{folder.name}': positions are '{position}'; only 'absolute' ones are supported")


def _pooling(folder: Path) -> Pooling | None:
    """Return the pooling of a sentence-transformers folder, None for other folders."""
    if not (folder / "1_Pooling" / CONFIG).is_file():
        return None
    table = read_table(folder, f"1_Pooling/{CONFIG}")
    modes = [key.removeprefix("pooling_mode_") for key, value in table.items() if value is True and "mode_" in key]
    known: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls"}
    if len(modes) != 1 or modes[0] not in known:
        raise ConfigError(
            f"model 'hf:{folder.name}': 1_Pooling/{CONFIG} asks for {' and '.join(modes) or 'no pooling'}; mean and cls are supported"
        )
    return known[modes[0]]


def read_table(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file of a Hugging Face folder; raises ConfigError for a file that is missing, or no object."""
    try:
        table = json.loads((folder / name).read_bytes())
    except OSError as error:
        raise ConfigError(
            f"model 'hf:{folder.name}': {folder / name}: {error.strerror}; a Hugging Face folder has {CONFIG}, {WEIGHTS} and, "
            f"for texts, {TOKENIZER}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"model 'hf:{folder.name}': {name} is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise ConfigError(f"model 'hf:{folder.name}': {name} is not an object of keys and values")
    return table

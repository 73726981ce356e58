"""Turn texts into a model's inputs as its contract says, with Hugging Face's `tokenizers` and the tokenizer.json beside the model.

The contract is the JSON object of edgedistill's records/contract.py. A request is (inputs, tokens), int64: the inputs of the contract, in
its order, below each other.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""The inputs of encoders, and their names in `tokenizers`."""


def is_available() -> bool:
    """Return whether this device has the package `tokenizers`."""
    try:
        import tokenizers
    except ImportError:
        return False
    return hasattr(tokenizers, "Tokenizer")


def load(file: Path, rules: Dict[str, Any]) -> Any:
    """Load the tokenizer of a contract's rules for texts; raises ValueError for another file, and ImportError without the package."""
    from tokenizers import Tokenizer

    content = file.read_bytes()
    if hashlib.sha256(content).hexdigest() != rules["sha256"]:
        raise ValueError(f"{file.name} is not the tokenizer of the contract: its hash is another one")
    tokenizer = Tokenizer.from_str(content.decode("utf-8"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(rules["max_length"], strategy=rules["truncation"])
    return tokenizer


def prepare(tokenizer: Any, texts: List[str], rules: Dict[str, Any]) -> np.ndarray:
    """Return the request of a text, or of a pair of texts; raises ValueError for another number of texts."""
    if len(texts) != rules["texts"]:
        raise ValueError(f"the model takes {rules['texts']} text(s) at once, not {len(texts)}")
    encoded = tokenizer.encode(*texts)
    return np.array([getattr(encoded, INPUTS[name]) for name in rules["inputs"]], dtype=np.int64)


def inputs_of(request: np.ndarray, rules: Dict[str, Any]) -> Dict[str, np.ndarray]:
    """Return the inputs (1, tokens) of a model by name."""
    return {name: np.ascontiguousarray(row[None]) for name, row in zip(rules["inputs"], request)}

"""Load weights of modules from files, and name what does not belong to them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError, nearest
from edgedistill.models.encoder import Encoder, published

PREFIXES: Final = ("module.", "_orig_mod.", "model.", "bert.", "distilbert.")
"""What DataParallel, torch.compile, Lightning and Hugging Face put before the names of all weights, or of those of the encoder."""


def load_weights(model: nn.Module, path: Path, untrained: tuple[str, ...] = ()) -> list[str]:
    """Load a state dict from .safetensors, or from .pt or .pth with weights_only, and return what was changed or left out.

    Prefixes of wrappers are removed, and the names of published encoders are translated. Weights whose names begin with one of
    `untrained` may be missing: they stay as they are. Raises ConfigError for any other mismatch.
    """
    expected = model.state_dict()
    state, notes = _without_prefixes(read_state(path), expected)
    if isinstance(model, Encoder):
        state, spare = published(state, model)
        notes += [f"left out, because the model has no such layers: {', '.join(spare)}"] if spare else []
    missing = [key for key in expected if key not in state and not key.startswith(untrained)]
    problems = [f"has no '{key}'" for key in missing if not key.endswith("num_batches_tracked")]
    problems += [f"has '{key}', which the model lacks{nearest(key, expected)}" for key in state if key not in expected]
    problems += [
        f"'{key}' is {tuple(state[key].shape)}, the model's is {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"weights {path.name}: {problems[0]}{more}; check that the weights belong to this model")
    model.load_state_dict(state, strict=False)  # what may be absent is checked above
    return [f"weights {path.name}: {note}" for note in notes]


def _without_prefixes(state: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Remove known prefixes from the names that a model does not have, and return which were removed."""
    result, removed = {}, dict[str, int]()
    for key, value in state.items():
        name = key
        while name not in expected and (prefix := next((one for one in PREFIXES if name.startswith(one)), None)):
            name, removed[prefix] = name.removeprefix(prefix), removed.get(prefix, 0) + 1
        result[name] = value
    return result, [f"prefix '{prefix}' of {count} names removed" for prefix, count in removed.items()]


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict without running code from the file."""
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"weights {path.name}: no such file (looked for {path})")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConfigError(f"weights {path.name}: not readable: {error}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"weights {path.name}: not a plain state dict ({reason}); save model.state_dict()") from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"weights {path.name}: not a state dict; save model.state_dict()")
    return state

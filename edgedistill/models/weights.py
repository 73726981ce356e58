"""Load weights of modules from files, and name what does not belong to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError, nearest
from edgedistill.models.encoder import Encoder, published
from edgedistill.models.vit import Vit, published_vit

PREFIXES: Final = ("module.", "_orig_mod.", "model.", "net.", "bert.", "distilbert.", "vit.", "deit.")
"""What DataParallel, torch.compile, Lightning and Hugging Face put before the names of all weights, or of those of the encoder."""

NESTED: Final = ("state_dict", "model_state_dict")
"""The keys of checkpoints, as Lightning and many training scripts save them, that hold the state dict."""

SHOWN: Final = 3
"""The most mismatches that a message names."""


def load_weights(
    model: nn.Module, path: Path, untrained: tuple[str, ...] = (), head: tuple[str, ...] = (), reason: str = ""
) -> list[str]:
    """Load a state dict from .safetensors, or from .pt or .pth with weights_only, and return what was changed or left out.

    Prefixes of wrappers are removed, and the names of published encoders are translated. Weights whose names begin with one of
    `untrained` may be missing: they stay as they are. So do those that `head` names if they are missing or have another shape, and
    in any case with a `reason` why the head in the file does not fit. Raises ConfigError for any other mismatch.
    """
    expected = model.state_dict()
    state, notes = _without_prefixes(*read_state(path), expected, path)
    if isinstance(model, Encoder):
        state, spare = published(state, model)
        notes += [f"left out, because the model has no such layers: {', '.join(spare)}"] if spare else []
    if isinstance(model, Vit):
        state, changes = published_vit(state, model)
        notes += changes
    left_out = dict(_left_out(state, expected, head, is_forced=bool(reason)))
    why = f", because it is {reason}" if reason else ""
    notes += [f"head left out and trained anew{why}: {', '.join(left_out.values())}"] if left_out else []
    state = {key: value for key, value in state.items() if key not in left_out}
    problems = list(_mismatches(state, expected, (*untrained, *left_out)))
    if problems:
        more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
        shown = "; ".join(problems[:SHOWN])
        raise ConfigError(f"weights {path.name}: {shown}{more}; check that the weights belong to this model")
    model.load_state_dict(state, strict=False)  # what may be absent is checked above
    return [f"weights {path.name}: {note}" for note in notes]


def _left_out(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], head: tuple[str, ...], *, is_forced: bool
) -> Iterator[tuple[str, str]]:
    """Yield the names of a head's weights that are not loaded, each with its shapes as text."""
    for name in head:
        wanted = tuple(expected[name].shape)
        if name not in state:
            yield name, f"'{name}' {wanted}, which the file lacks"
        elif state[name].shape != expected[name].shape:
            yield name, f"'{name}', which is {tuple(state[name].shape)} in the file and {wanted} in the model"
        elif is_forced:
            yield name, f"'{name}' {wanted}"


def _mismatches(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], untrained: tuple[str, ...]
) -> Iterator[str]:
    """Yield what does not match: missing weights, unless they begin with one of `untrained`, unknown ones, and other shapes.

    Tied weights need one of their names: safetensors and Hugging Face leave the others out.
    """
    there = {_memory(value) for key, value in expected.items() if key in state}
    for key, value in expected.items():
        is_needed = not key.startswith(untrained) and not key.endswith("num_batches_tracked")
        if key not in state and is_needed and _memory(value) not in there:
            yield f"has no '{key}'"
    for key in state:
        if key not in expected:
            yield f"has '{key}', which the model lacks{nearest(key, expected)}"
    for key, value in expected.items():
        if key in state and state[key].shape != value.shape:
            yield f"'{key}' is {tuple(state[key].shape)}, the model's is {tuple(value.shape)}"


def _memory(weight: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    """Return where the values of a weight are; tied weights have them at the same place."""
    return weight.data_ptr(), weight.shape, weight.stride()


def _without_prefixes(
    state: Mapping[str, Tensor], notes: list[str], expected: Mapping[str, Tensor], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Remove known prefixes from the names that a model does not have, and return `notes` with those that were removed."""
    result, removed = dict[str, Tensor](), dict[str, int]()
    for key, value in state.items():
        name = key
        while name not in expected and (prefix := next((one for one in PREFIXES if name.startswith(one)), None)):
            name, removed[prefix] = name.removeprefix(prefix), removed.get(prefix, 0) + 1
        if name in result:
            raise ConfigError(
                f"weights {path.name}: several weights are '{name}' without their prefixes, one of them '{key}'; save the "
                "state dict of the model alone"
            )
        result[name] = value
    return result, [*notes, *(f"prefix '{prefix}' of {count} names removed" for prefix, count in removed.items())]


def read_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read a state dict without running code from the file, and return it with a note on where in the file it was."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ConfigError(f"weights {path.name}: no such file (looked for {path})")
    try:
        if path.suffix == ".safetensors":
            return load_file(path), []
        content = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ConfigError(f"weights {path.name}: not readable: {error}") from None
    except Exception as error:  # noqa: BLE001 - a damaged file lets torch raise whatever its parts do not agree on
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"weights {path.name}: not a plain state dict ({reason}); save model.state_dict()") from None
    nested = next((key for key in NESTED if isinstance(content, dict) and isinstance(content.get(key), dict)), None)
    state = content if nested is None else content[nested]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"weights {path.name}: not a state dict; save model.state_dict()")
    return state, [] if nested is None else [f"state dict taken from '{nested}'"]

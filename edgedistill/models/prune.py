"""Structured pruning: remove the channels of smallest norm; all other weights are inherited.

torch-pruning determines which layers share channels and must be pruned together ("DepGraph", Fang et al. 2023). It analyses
some operations incorrectly, such as heads that a reshape folds. A group is therefore only pruned if, in a trial, removing its
channels has the same effect as zeroing them. Trials use random weights, and all layers of a group lose the same number of
channels, so the resulting architecture does not depend on the weights.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn

from edgedistill.data.kinds import kind_of
from edgedistill.errors import ConfigError
from edgedistill.models.interface import Interface
from edgedistill.models.layout import arrange
from edgedistill.models.outputs import named_outputs
from edgedistill.records.stages import InputRecord

CHANNELWISE: Final = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d,
)  # fmt: skip
"""Layers whose channel i is exactly row i of the weight; a group with any other layer, such as a layer norm, is not pruned."""

# The errors that torch-pruning and wrongly pruned models raise; neither has its own error types.
FAILURES: Final = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


def prune_channels(model: nn.Module, interface: Interface, fraction: float, kept: tuple[str, ...]) -> nn.Module:
    """Remove, in place, `fraction` (rounded up) of the channels of each group of layers, those of smallest L2 norm.

    Groups of the layers in `kept`, from `unprunable`, are not pruned: the logits, channels of a layer norm, attention heads,
    and the trunk of a ResNet whose shortcuts pad with zeros (as in Li et al. 2017).
    """
    pruner = _pruner(model.eval(), example_of(interface), fraction, [model.get_submodule(name) for name in kept])
    for group in pruner.step(interactive=True):
        group.prune()
    return arrange(model, interface)


def unprunable(model: nn.Module, interface: Interface, fraction: float) -> tuple[str, ...]:
    """Return the first layer of each group that fails its trial; raises ConfigError if no group passes."""
    try:
        kept, passed = _try_groups(model.eval(), example_of(interface), fraction)
    except FAILURES as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"student.prune: torch-pruning cannot trace this teacher: {reason}; set student.model instead"
        ) from error
    if not passed:
        raise ConfigError(
            f"student.prune: {fraction} removes no channel; {', '.join(kept) or 'no layer'} cannot lose any without "
            "changing other channels; prune less, or set student.model instead"
        )
    return kept


def example_of(interface: Interface) -> tuple[Tensor, ...]:
    """Return one random sample (1, ...) of each input, channels first, always the same."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_example_of(one, generator) for one in interface.inputs)


def _example_of(one: InputRecord, generator: torch.Generator) -> Tensor:
    shape = kind_of(one).model_shape(one.shape)
    if one.vocabulary is not None:
        return torch.randint(one.vocabulary, (1, *shape), generator=generator)
    return torch.randn(1, *shape, generator=generator)


def _pruner(model: nn.Module, example: tuple[Tensor, ...], fraction: float, kept: list[nn.Module]) -> Any:
    import torch_pruning

    with warnings.catch_warnings():
        # Parameters outside of layers; groups that hold one are kept whole.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected", category=UserWarning)
        return torch_pruning.BasePruner(
            model, example[0] if len(example) == 1 else example, torch_pruning.importance.GroupMagnitudeImportance(p=2), pruning_ratio=fraction,
            ignored_layers=kept, in_channel_groups={}, out_channel_groups={},  # its default dictionaries are shared between calls
        )  # fmt: skip


def _try_groups(model: nn.Module, example: tuple[Tensor, ...], fraction: float) -> tuple[tuple[str, ...], int]:
    """Return the first layer of each failing group, and the number of passing groups; trials run on a float64 copy."""
    trial = copy.deepcopy(model).double()
    _draw_weights(trial)
    example = tuple(part.double() if part.is_floating_point() else part for part in example)
    pruner = _pruner(trial, example, fraction, [])
    with torch.no_grad():
        whole = _main(trial(*example))
    names = {module: name for name, module in trial.named_modules()}
    kept, passed = [], 0
    for group in pruner.step(interactive=True):
        before = _parts(trial)
        if _is_even(pruner.DG, group) and _passes(trial, example, whole, group, _channels(pruner.DG, group)):
            passed += 1
        else:
            kept.append(names[group[0].dep.target.module])
        for module, parts in before:
            module.__dict__.update(parts)
    return tuple(kept), passed


def _channels(graph: Any, group: Any) -> list[tuple[Any, list[int]]]:
    """Return the layers, parameters and operations that a group prunes, each with its channel indices."""
    return [(item.dep.target.module, item.idxs) for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]


def _is_even(graph: Any, group: Any) -> bool:
    """Return whether all layers of a group lose the same number of channels, independent of the weights."""
    root, handler = group[0].dep.target.module, group[0].dep.handler
    count = graph.get_out_channels(root)
    full = graph.get_pruning_group(root, handler, list(range(count)))
    return all(
        len(indices) % count == 0
        for module, indices in _channels(graph, full)
        if isinstance(module, nn.Module) and [*module.parameters()]
    )


def _passes(
    trial: nn.Module, example: tuple[Tensor, ...], whole: Tensor, group: Any, channels: list[tuple[Any, list[int]]]
) -> bool:
    """Return whether removing a group's channels has the same effect as zeroing them, and zeroing changes the output."""
    layers = [module for module, _ in channels if isinstance(module, nn.Parameter) or [*module.parameters()]]
    if not all(isinstance(layer, CHANNELWISE) for layer in layers):
        return False
    try:
        with torch.no_grad():
            expected = _main(torch.func.functional_call(trial, _zeroed(trial, channels), example))
            group.prune()
            got = _main(trial(*example))
    except FAILURES:
        return False
    scale = float(whole.abs().max())
    return (
        got.shape == expected.shape
        and bool((got - expected).abs().max() < 1e-9 * scale)
        and bool((expected - whole).abs().max() > 1e-6 * scale)
    )


def _main(value: Any) -> Tensor:
    """Return all outputs of a module as one row per sample."""
    return torch.cat([output.flatten(1) for output in named_outputs(value).values()], 1)


def _zeroed(model: nn.Module, channels: list[tuple[nn.Module, list[int]]]) -> dict[str, Tensor]:
    """Return the parameters of pruned layers, with zeros in the pruned channels."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    zeroed: dict[str, Tensor] = {}
    for module, indices in channels:
        for parameter in module.parameters():
            values = zeroed.setdefault(names[parameter], parameter.clone())
            values[indices] = 0
    return zeroed


def _parts(model: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Return the attributes and parameters of a model's layers, which pruning can replace."""
    return [
        (module, module.__dict__ | {"_parameters": {**module._parameters}, "_buffers": {**module._buffers}})  # noqa: SLF001 - torch has no other way to put a parameter back
        for module in model.modules()
    ]


def _draw_weights(model: nn.Module) -> None:
    """Draw random weights, never zero, with which every channel affects the output at a similar scale."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                continue
            if value.ndim > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                value.normal_(0, 0.1, generator=generator)
            else:
                value.uniform_(0.5, 1.5, generator=generator)

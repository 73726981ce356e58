"""Structured pruning: channels of a model removed by their norm, all other weights inherited.

torch-pruning finds which layers share their channels and must lose them together ("DepGraph", Fang et al. 2023). It
misreads some operations, such as heads folded by a reshape, so a group of channels is pruned only where a trial shows
that removing channels from the model gives what zeroing them gives. Trials use weights of their own, and layers that
share channels lose as many each: the shape of the result follows from the structure alone, whatever the weights.
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
"""Layers where channel i is row i of the weight and nothing else: a group with any other, such as a layer norm, stays."""

# What torch-pruning and a wrongly pruned model raise; neither has errors of its own.
FAILURES: Final = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, AssertionError)


def prune_channels(model: nn.Module, interface: Interface, fraction: float, kept: tuple[str, ...]) -> nn.Module:
    """Remove `fraction`, rounded up, of the channels of each group of layers that share them, in place: those of least L2 norm.

    Left whole are the groups of the layers in `kept`, as `unprunable` names them: the logits, channels that cross a layer
    norm, the heads of an attention, and the trunk of a ResNet whose shortcuts pad with zeros (so do Li et al. 2017).
    """
    pruner = _pruner(model.eval(), example_of(interface), fraction, [model.get_submodule(name) for name in kept])
    for group in pruner.step(interactive=True):
        group.prune()
    return arrange(model, interface)


def unprunable(model: nn.Module, interface: Interface, fraction: float) -> tuple[str, ...]:
    """Return the names of the first layers of the groups that fail their trial; raises ConfigError when none passes."""
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
    """Return one sample (1, ...) of each input, channels first, the same every time."""
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
            ignored_layers=kept, in_channel_groups={}, out_channel_groups={},  # its defaults are shared between calls
        )  # fmt: skip


def _try_groups(model: nn.Module, example: tuple[Tensor, ...], fraction: float) -> tuple[tuple[str, ...], int]:
    """Return the first layers of the groups that fail, and how many pass, on a copy in float64: rounding hides nothing there."""
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
    """Return the layers, parameters and operations whose channels a group removes, and which of each."""
    return [(item.dep.target.module, item.idxs) for item in group if graph.is_out_channel_pruning_fn(item.dep.handler)]


def _is_even(graph: Any, group: Any) -> bool:
    """Tell whether a group's layers lose as many channels each: of layers that only together are one, weights would decide."""
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
    """Tell whether removing a group's channels gives what zeroing them gives, and zeroing them is seen in the output."""
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
    """Return all outputs of a module in one row for each sample."""
    return torch.cat([output.flatten(1) for output in named_outputs(value).values()], 1)


def _zeroed(model: nn.Module, channels: list[tuple[nn.Module, list[int]]]) -> dict[str, Tensor]:
    """Return the parameters of the layers that lose channels, with zeros there."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    zeroed: dict[str, Tensor] = {}
    for module, indices in channels:
        for parameter in module.parameters():
            values = zeroed.setdefault(names[parameter], parameter.clone())
            values[indices] = 0
    return zeroed


def _parts(model: nn.Module) -> list[tuple[nn.Module, dict[str, Any]]]:
    """Return all that pruning may replace in a model's layers: their attributes, and which parameters they hold."""
    return [
        (module, module.__dict__ | {"_parameters": {**module._parameters}, "_buffers": {**module._buffers}})  # noqa: SLF001 - torch has no other way to put a parameter back
        for module in model.modules()
    ]


def _draw_weights(model: nn.Module) -> None:
    """Draw weights under which every channel counts: none zero, and signals of like size in every layer."""
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

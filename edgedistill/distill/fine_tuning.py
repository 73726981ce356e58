"""How the weights that a student starts with learn: what is frozen, for how long, and which learning rate they have."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from edgedistill.models.interface import Interface
from edgedistill.models.source import StudentSource
from edgedistill.models.transfer import backbone, frozen_names


@dataclass(frozen=True, slots=True)
class FineTuning:
    """What is frozen for `epochs`, None for all, and the weights, by identity, whose learning rate is multiplied by `scale`."""

    frozen: tuple[nn.Parameter, ...] = ()
    norms: tuple[nn.Module, ...] = ()
    epochs: int | None = None
    slow: frozenset[int] = frozenset()
    scale: float = 1.0

    @property
    def thaws(self) -> bool:
        """Whether what is frozen learns later."""
        return bool(self.frozen) and self.epochs is not None

    def apply(self, epoch: int) -> None:
        """Freeze or release weights for an epoch, counted from 0; frozen batch norms use their statistics and keep them.

        Call it after `model.train()`, which puts batch norms into training.
        """
        learns = self.epochs is not None and epoch >= self.epochs
        for parameter in self.frozen:
            parameter.requires_grad_(learns)
        if not learns:
            for norm in self.norms:
                norm.eval()

    def release(self) -> None:
        """Let all weights learn again."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)  # noqa: FBT003 - torch's signature


def fine_tuning(model: nn.Module, source: StudentSource, interface: Interface) -> FineTuning | None:
    """Return how the weights that a student starts with learn, None if as all others; raises ConfigError for unknown names."""
    start = source.start
    if start is None or (not start.freeze and start.lr_scale == 1.0):
        return None
    names = frozen_names(model, source, interface) if start.freeze else frozenset[str]()
    slow = backbone(model, source, interface) if start.lr_scale != 1.0 else frozenset[str]()
    weights = dict(model.named_parameters())
    return FineTuning(
        frozen=tuple(weights[name] for name in sorted(names)), norms=_norms(model, names), epochs=start.freeze_epochs,
        slow=frozenset(id(weights[name]) for name in slow), scale=start.lr_scale,
    )  # fmt: skip


def _norms(model: nn.Module, frozen: frozenset[str]) -> tuple[nn.Module, ...]:
    """Return the batch norms with weights, all of which are frozen."""
    found = []
    for name, module in model.named_modules():
        own = [f"{name}.{one}" if name else one for one, _ in module.named_parameters(recurse=False)]
        if isinstance(module, _BatchNorm) and own and frozen.issuperset(own):
            found.append(module)
    return tuple(found)

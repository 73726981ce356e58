"""ViT and DeiT: from images to logits, or to the vector of the class token.

Modules have the names of Hugging Face's files, so that weights are exchanged as they are. Dropout is left out: students learn from
outputs that are the same in each epoch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedistill.config.vit import VitConfig
from edgedistill.models.encoder import LayerStack, SelfAttention

POSITIONS: Final = "embeddings.position_embeddings"
PROJECTION: Final = "embeddings.patch_embeddings.projection"
SPARE: Final = re.compile(r"^(pooler\.|decoder\.|embeddings\.mask_token$)")
"""The weights of other uses of a ViT, such as the reconstruction of masked patches."""


class Embeddings(nn.Module):
    """Patches through one dense layer behind the class token and, for a DeiT, the distillation token, plus positions."""

    def __init__(self, config: VitConfig, image: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = config.grid(image)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden))
        self.distillation_token = nn.Parameter(torch.zeros(1, 1, config.hidden)) if config.tokens == 2 else None
        self.position_embeddings = nn.Parameter(torch.zeros(1, config.tokens + rows * columns, config.hidden))
        projection = nn.Conv2d(config.channels, config.hidden, config.patch, config.patch)
        self.patch_embeddings = nn.ModuleDict({"projection": projection})

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, tokens, hidden)."""
        patches = self.patch_embeddings["projection"](x).flatten(2).transpose(1, 2)
        own = [self.cls_token] if self.distillation_token is None else [self.cls_token, self.distillation_token]
        return torch.cat([*(token.expand(x.shape[0], -1, -1) for token in own), patches], 1) + self.position_embeddings


class Dense(nn.Module):
    """A dense layer, one level below the names of its block."""

    def __init__(self, values: int, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(values, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, values) to (B, T, hidden)."""
        y: Tensor = self.dense(x)
        return y


class Layer(nn.Module):
    """Attention and a GELU network, each normalised first (pre-LN)."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        hidden, inner, epsilon = config.hidden, config.intermediate, config.epsilon
        self.attention = nn.ModuleDict(
            {"attention": SelfAttention(hidden, config.heads, bias=config.bias), "output": Dense(hidden, hidden)}
        )
        self.intermediate, self.output = Dense(hidden, inner), Dense(inner, hidden)
        self.layernorm_before, self.layernorm_after = nn.LayerNorm(hidden, epsilon), nn.LayerNorm(hidden, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, hidden) to (B, T, hidden)."""
        x = x + self.attention["output"](self.attention["attention"](self.layernorm_before(x)))
        inner = functional.gelu(self.intermediate(self.layernorm_after(x)))
        y: Tensor = x + self.output(inner)
        return y


class Vit(LayerStack):
    """A ViT or DeiT for images (height, width) with, for `classes`, a classifier on the class token.

    A DeiT with two classifiers gives the mean of their logits.
    """

    def __init__(self, config: VitConfig, image: tuple[int, int], classes: int | None) -> None:
        super().__init__()
        self.config, self.image = config, image
        self.embeddings = Embeddings(config, image)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self.layernorm = nn.LayerNorm(config.hidden, config.epsilon)
        self.heads = () if classes is None else head_names(config)
        for name in self.heads:
            setattr(self, name, nn.Linear(config.hidden, classes or 1))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to logits (B, classes), or to vectors (B, hidden)."""
        x = self.embeddings(x)
        for layer in self.layers:
            x = layer(x)
        x = self.layernorm(x)
        answers = [getattr(self, name)(x[:, token]) for token, name in enumerate(self.heads)]
        return sum(answers[1:], answers[0]) / len(answers) if answers else x[:, 0]


def head_names(config: VitConfig) -> tuple[str, ...]:
    """Return the names of the classifiers, of the class token and then of the distillation token."""
    return ("classifier",) if config.heads_out == 1 else ("cls_classifier", "distillation_classifier")


def _initialise(module: nn.Module) -> None:
    """Draw weights as ViT does: normal with a deviation of 0.02, cut at two deviations."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Embeddings):
        nn.init.trunc_normal_(module.position_embeddings, std=0.02, a=-0.04, b=0.04)
        nn.init.trunc_normal_(module.cls_token, std=0.02, a=-0.04, b=0.04)


def published_vit(state: Mapping[str, Tensor], model: Vit) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights of a file for a ViT, and what was changed or left out; position embeddings are resized to the ViT's grid."""
    expected, notes = model.state_dict(), list[str]()
    spare = [key for key in state if key not in expected and SPARE.match(key)]
    kept = {key: value for key, value in state.items() if key not in spare}
    if spare:
        notes.append(f"left out, because the model has no such layers: {', '.join(spare)}")
    positions, config = kept.get(POSITIONS), model.config
    before, after = config.grid(config.image), config.grid(model.image)
    trained = (1, config.tokens + before[0] * before[1], config.hidden)
    if positions is not None and positions.shape == trained != expected[POSITIONS].shape:
        kept[POSITIONS] = resized_positions(positions, config.tokens, before, after)
        notes.append(
            f"position embeddings resized from {before[0]}x{before[1]} to {after[0]}x{after[1]} patches (bicubic), for images of "
            f"{model.image[0]}x{model.image[1]}"
        )
    return kept, notes


def resized_positions(positions: Tensor, tokens: int, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return position embeddings (1, tokens + patches, hidden) for another grid of patches, by bicubic interpolation.

    Those of the first `tokens` tokens stay. Corners of pixels are not aligned, as in `transformers` (interpolate_pos_encoding).
    """
    if before == after:
        return positions
    own, patches = positions[:, :tokens], positions[:, tokens:]
    grid = patches.reshape(1, *before, -1).permute(0, 3, 1, 2)
    resized = functional.interpolate(grid.float(), after, mode="bicubic", align_corners=False)
    return torch.cat([own, resized.flatten(2).transpose(1, 2).to(positions.dtype)], 1)

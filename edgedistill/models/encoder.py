"""BERT and DistilBERT encoders of sentences: from token numbers and masks to a vector, or to logits.

Modules have the names of Hugging Face's BERT, so that weights are exchanged as they are; DistilBERT's names are translated. Dropout
is left out: students learn from outputs that are the same in each epoch.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Final

from torch import Tensor, nn
from torch.nn import functional

from edgedistill.config.encoder import EncoderConfig, Pooling
from edgedistill.errors import ConfigError

HIDDEN: Final = -10_000.0
"""What is added to the scores of padding: the softmax gives it a weight of 0, in float16 too."""


class Embeddings(nn.Module):
    """The sum of the embeddings of tokens, positions and, where the encoder has them, types, normalised."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocabulary, config.hidden)
        self.position_embeddings = nn.Embedding(config.positions, config.hidden)
        self.token_type_embeddings = nn.Embedding(config.types, config.hidden) if config.types else None
        self.LayerNorm = nn.LayerNorm(config.hidden, config.epsilon)

    def forward(self, ids: Tensor, types: Tensor | None) -> Tensor:
        """Map token numbers (B, T), and types (B, T) or None for type 0, to (B, T, hidden)."""
        x = self.word_embeddings(ids) + self.position_embeddings.weight[: ids.shape[1]]
        if self.token_type_embeddings is not None:
            table = self.token_type_embeddings
            x = x + (table.weight[0] if types is None else table(types))
        y: Tensor = self.LayerNorm(x)
        return y


class SelfAttention(nn.Module):
    """Scaled dot-product attention of several heads (Vaswani et al. 2017)."""

    def __init__(self, hidden: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden, bias) for _ in range(3))

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, T, hidden) to (B, T, hidden); `bias` (B, 1, 1, T) is added to the scores."""
        query, key, value = (self._by_head(layer(x)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(2, 3) * (1 / math.sqrt(query.shape[3]))
        scores = scores if bias is None else scores + bias
        return (scores.softmax(3) @ value).transpose(1, 2).flatten(2)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class Output(nn.Module):
    """A dense layer, added to the input of its block and normalised."""

    def __init__(self, values: int, hidden: int, epsilon: float) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(values, hidden), nn.LayerNorm(hidden, epsilon)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Map (B, T, values) and (B, T, hidden) to (B, T, hidden)."""
        y: Tensor = self.LayerNorm(self.dense(x) + before)
        return y


class Layer(nn.Module):
    """Attention and a GELU network, each normalised after it is added (post-LN)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        hidden, inner, epsilon = config.hidden, config.intermediate, config.epsilon
        self.attention = nn.ModuleDict(
            {"self": SelfAttention(hidden, config.heads), "output": Output(hidden, hidden, epsilon)}
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(hidden, inner)})
        self.output = Output(inner, hidden, epsilon)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map (B, T, hidden) to (B, T, hidden)."""
        x = self.attention["output"](self.attention["self"](x, bias), x)
        y: Tensor = self.output(functional.gelu(self.intermediate["dense"](x)), x)
        return y


class LayerStack(nn.Module):
    """A transformer whose layers are `encoder.layer`, of which a student can keep some; `heads` are the names of its classifiers."""

    encoder: nn.ModuleDict
    heads: tuple[str, ...]

    @property
    def layers(self) -> nn.ModuleList:
        """The layers, in their order."""
        kept = self.encoder["layer"]
        assert isinstance(kept, nn.ModuleList)
        return kept


class Encoder(LayerStack):
    """An encoder of sentences with its pooling and, with `classes`, a classifier; embeddings have length 1 with `normalize`.

    `projection` is the dense layer behind the pooling of an encoder that is narrower than its vectors.
    """

    def __init__(self, config: EncoderConfig, pooling: Pooling, classes: int | None, *, normalize: bool) -> None:
        super().__init__()
        self.pooling, self.normalize, self.tanh = pooling, normalize, config.model_type == "bert"
        self.embeddings = Embeddings(config)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(Layer(config) for _ in range(config.layers))})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(config.hidden, config.hidden)}) if pooling == "pooler" else None
        self.classifier = None if classes is None else nn.Linear(config.hidden, classes)
        self.heads = () if classes is None else ("classifier",)
        self.projection: nn.Linear | None = None
        self.apply(_initialise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Map token numbers, masks (1 for tokens, 0 for padding) and types, (B, T), int64, to vectors or logits (B, D)."""
        kept = attention_mask.to(self.embeddings.LayerNorm.weight.dtype)
        bias = (1 - kept)[:, None, None] * HIDDEN
        x = self.embeddings(input_ids, token_type_ids)
        for layer in self.layers:
            x = layer(x, bias)
        x = self._pooled(x, kept)
        if self.classifier is not None:
            y: Tensor = self.classifier(x)
            return y
        x = x if self.projection is None else self.projection(x)
        return functional.normalize(x, dim=1) if self.normalize else x

    def _pooled(self, x: Tensor, kept: Tensor) -> Tensor:
        if self.pooling == "mean":
            return (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        first = x[:, 0]
        if self.pooler is None:
            return first
        dense: Tensor = self.pooler["dense"](first)
        return dense.tanh() if self.tanh else dense.relu()


def _initialise(module: nn.Module) -> None:
    """Draw weights as BERT does: normal with a deviation of 0.02."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def spread(count: int, total: int) -> tuple[int, ...]:
    """Return the numbers of `count` of `total` layers, spread evenly from the first to the last and rounded down: 0, 2, 5 of six."""
    return tuple(place * (total - 1) // max(1, count - 1) for place in range(count))


def keep_layers(model: LayerStack, wanted: int | Sequence[int]) -> LayerStack:
    """Return a copy of a transformer with some of its layers, the embeddings and the head; raises ConfigError for layers it lacks."""
    total = len(model.layers)
    if isinstance(wanted, int):
        if wanted > total:
            raise ConfigError(f"student.layers: {wanted} layers; the teacher has {total}; keep fewer")
        wanted = spread(wanted, total)
    if wanted[-1] >= total:
        raise ConfigError(
            f"student.layers: there is no layer {wanted[-1]}; the teacher has the layers 0 to {total - 1}"
        )
    result = copy.deepcopy(model)
    result.encoder["layer"] = nn.ModuleList(result.layers[number] for number in wanted)
    return result


DISTILBERT: Final = (
    (r"^transformer\.layer\.", "encoder.layer."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
    (r"^pre_classifier\.", "pooler.dense."),
)
"""Patterns in the names of DistilBERT's weights, and BERT's names."""

OLD_NORMS: Final = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))
SPARE: Final = re.compile(r"^(embeddings\.position_ids|pooler\.|cls\.|vocab_)")
"""The weights of other uses of the encoder, such as the prediction of masked words, and positions that are counted here."""


def published(state: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Return weights under the names of an encoder here, without those of other heads, and what was left out of them."""
    renamed = {_renamed(key): value for key, value in state.items()}
    expected = model.state_dict()
    spare = [key for key in renamed if key not in expected and SPARE.match(key)]
    return {key: value for key, value in renamed.items() if key not in spare}, spare


def _renamed(key: str) -> str:
    for pattern, name in (*DISTILBERT, *OLD_NORMS):
        key = re.sub(pattern, name, key)
    return key

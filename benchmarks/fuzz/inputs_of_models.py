"""Sound configurations, weights, ONNX files, samples for them, tokenizers and texts, and how they are read."""

import io
from pathlib import Path

import numpy as np
import onnx
from small_files import REPOSITORY, RNG, Files, arrays, small_onnx


def configurations() -> list[Files]:
    folders = ("edgedistill/config", "benchmarks/cifar10", "benchmarks/dense", "benchmarks/sms", "benchmarks/fsdd")
    found = [path for folder in folders for path in sorted((REPOSITORY / folder).glob("*.toml"))]
    return [{"edgedistill.toml": path.read_bytes()} for path in found]


def read_configuration(folder: Path) -> object:
    from edgedistill.config.load import load_config

    return load_config(folder / "edgedistill.toml")


def state_dicts() -> list[Files]:
    import torch
    from safetensors.torch import save

    state = {"layer.weight": torch.zeros(3, 4), "layer.bias": torch.zeros(3)}
    saved = io.BytesIO()
    torch.save({"state_dict": state}, saved)
    return [{"weights.safetensors": save(state)}, {"weights.pt": saved.getvalue()}]


def read_weights(folder: Path) -> object:
    from edgedistill.models.weights import read_state

    return read_state(next(folder.glob("weights.*")))


def onnx_files() -> list[Files]:
    stored = small_onnx()
    onnx.external_data_helper.convert_model_to_external_data(stored, location="weights.bin", size_threshold=0)
    folder = Path(__import__("tempfile").mkdtemp())
    onnx.save(stored, folder / "model.onnx")
    outside = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [{"model.onnx": small_onnx(opset).SerializeToString()} for opset in (9, 13, 18, 21)] + [outside]


def read_onnx(folder: Path) -> object:
    from edgedistill.export.lint.report import lint
    from edgedistill.graphs.read import read_sound_onnx
    from edgedistill.kits.kits import find_kits

    return lint(read_sound_onnx(folder / "model.onnx"), find_kits()["ort"])


def sample_files() -> list[Files]:
    return [{"samples.npz": arrays(inputs=RNG.normal(size=(4, 3, 8, 8)).astype(np.float32), labels=np.arange(4))}]


def read_requests(folder: Path) -> object:
    from edgedistill.data.requests import read_samples

    return read_samples(folder / "samples.npz", small_onnx())


def tokenizers() -> list[Files]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "##c"])}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))  # noqa: S106 - not a password
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    return [{"tokenizer.json": tokenizer.to_str().encode()}]


def read_tokenizer(folder: Path) -> object:
    from edgedistill.data.text import TextSettings, tokenize

    settings = TextSettings(
        columns=(), label=None, score=None, tokenizer="", max_length=8, file=folder / "tokenizer.json"
    )
    return tokenize([("a b bc",), ("c",)], settings)


def text_tables() -> list[Files]:
    rows = b'text,label\nhello there,1\n"quoted, with comma",0\n'
    lines = b'{"text": "hello", "label": 1}\n{"text": "there", "label": 0}\n'
    return [{"texts.csv": rows}, {"texts.tsv": rows.replace(b",", b"\t")}, {"texts.jsonl": lines}]


def read_table(folder: Path) -> object:
    from edgedistill.data.text import TextSettings, read_texts

    file = next(folder.glob("texts.*"))
    settings = TextSettings(columns=("text",), label="label", score=None, tokenizer="", max_length=8, file=file)
    return read_texts(file, settings, "classification")

"""The kinds of input that edgedistill reads: small sound files of each, and the function that reads them."""

import contextlib
import io
import json
import sys
import tarfile
import wave
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
Files = dict[str, bytes]
"""The files of one input by relative path; those whose names begin with an underscore stay as they are."""


class Kind(NamedTuple):
    """A kind of input: sound examples, and a function that reads the files in a folder as a command does."""

    examples: Callable[[], list[Files]]
    read: Callable[[Path], object]


RNG = np.random.default_rng(0)


def arrays(**values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    return file.getvalue()


def picture(form: str = "png", mode: str = "RGB", size: tuple[int, int] = (12, 9)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(file, form)
    return file.getvalue()


def clip(width: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(width)
        sound.setframerate(8000)
        sound.writeframes(RNG.integers(0, 255, 400 * width, dtype=np.uint8).tobytes())
    return file.getvalue()


def small_onnx(opset: int = 18) -> onnx.ModelProto:
    weight = numpy_helper.from_array(RNG.normal(size=(4, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"), helper.make_node("Flatten", ["p"], ["y"], name="flat"),
    ]  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 4]))
    ]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def reading(**settings: object) -> object:
    from edgedistill.data.geometry import Resizing
    from edgedistill.data.reading import Reading

    return Reading(resizing=Resizing(8, 8), **settings)


def configurations() -> list[Files]:
    folders = ("edgedistill/config", "benchmarks/cifar10", "benchmarks/dense", "benchmarks/sms", "benchmarks/fsdd")
    found = [path for folder in folders for path in sorted((REPOSITORY / folder).glob("*.toml"))]
    return [{"edgedistill.toml": path.read_bytes()} for path in found]


def read_configuration(folder: Path) -> object:
    from edgedistill.config.load import load_config

    return load_config(folder / "edgedistill.toml")


def read_data(name: str, **settings: object) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from edgedistill.data.sources import load_source

        return load_source(name, folder, reading(**settings))

    return read


def numpy_files() -> list[Files]:
    inputs, labels = RNG.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8), np.arange(6) % 2
    classes = np.array(["a", "b"])
    return [
        {"data.npz": arrays(inputs=inputs, labels=labels, classes=classes)},
        {"data.npz": arrays(inputs=inputs, labels=labels)},
    ]


def picture_folders() -> list[Files]:
    forms = (
        ("png", "RGB"),
        ("jpeg", "RGB"),
        ("png", "L"),
        ("png", "RGBA"),
        ("gif", "P"),
        ("webp", "RGB"),
        ("tiff", "RGB"),
        ("bmp", "RGB"),
    )
    return [{f"data/a/1.{form}": picture(form, mode), "data/b/_2.png": picture()} for form, mode in forms]


def wave_folders() -> list[Files]:
    return [{"data/a/1.wav": clip(width), "data/b/_2.wav": clip()} for width in (1, 2, 3, 4)]


def tar_shards() -> list[Files]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(4):
            for name, content in ((f"{number:03}.png", picture()), (f"{number:03}.cls", str(number % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return [{"data-000.tar": file.getvalue()}]


def parquet_shards() -> list[Files]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    columns = {"image": [{"bytes": picture(), "path": None} for _ in range(4)], "label": [0, 1, 0, 1]}
    pq.write_table(pa.table(columns), file)
    return [{"data.parquet": file.getvalue()}]


def coco_files() -> list[Files]:
    table = {
        "images": [{"id": 1, "file_name": "_1.png", "width": 12, "height": 9}, {"id": 7, "file_name": "_2.png", "width": 12, "height": 9}],
        "categories": [{"id": 1, "name": "cell"}, {"id": 3, "name": "other"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 5, 4], "area": 20, "iscrowd": 0},
                        {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 3.5, 3], "area": 10, "iscrowd": 1}],
    }  # fmt: skip
    return [{"boxes.json": json.dumps(table).encode(), "_1.png": picture(), "_2.png": picture()}]


def yolo_folders() -> list[Files]:
    described = b"path: .\ntrain: images\nval: images\nnames:\n  0: cell\n  1: other\n"
    return [{"data.yaml": described, "labels/1.txt": b"0 0.5 0.5 0.2 0.3\n1 0.1 0.1 0.1 0.1\n", "images/_1.png": picture(),
             "images/1.png": picture()}]  # fmt: skip


def voc_folders() -> list[Files]:
    box = "<object><name>cell</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>7</xmax><ymax>8</ymax></bndbox></object>"
    text = f"<annotation><filename>1.png</filename><size><width>12</width><height>9</height><depth>3</depth></size>{box}</annotation>"
    return [{"Annotations/1.xml": text.encode(), "JPEGImages/1.png": picture()}]


def mask_folders() -> list[Files]:
    mask = io.BytesIO()
    Image.fromarray(RNG.integers(0, 3, (9, 12), dtype=np.uint8)).save(mask, "png")
    return [{"data/images/1.png": picture(), "data/masks/1.png": mask.getvalue()}]


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


@cache
def results() -> list[Path]:
    return [
        path for path in sorted((REPOSITORY / "benchmarks").glob("*/result/*.json")) if path.name != "manifest.json"
    ][:12]


def measurements() -> list[Files]:
    return [{"one.json": path.read_bytes(), "_two.json": results()[0].read_bytes()} for path in results()]


def compare_measurements(folder: Path) -> object:
    from edgedistill.compare.comparison import compare_runs
    from edgedistill.compare.load import load_results
    from edgedistill.compare.markdown import to_markdown

    first, second = load_results([folder / "one.json", folder / "_two.json"])
    return to_markdown(compare_runs(first, [second]))


def run_folders() -> list[Files]:
    manifest = REPOSITORY / "benchmarks/cifar10/result/manifest.json"
    return [
        {"manifest.json": manifest.read_bytes(), "measurements/one.json": path.read_bytes()} for path in results()[:4]
    ]


def read_run(folder: Path) -> object:
    from edgedistill.compare.load import load_run

    return load_run(folder)


def cards() -> list[Files]:
    """Return cards whose seals fit any content: the seal is made anew before a card is read, as who forges a card would."""
    return [{"card.json": path.read_bytes()} for path in sorted(Path(__file__).parent.glob("card*.json"))]


def read_a_card(folder: Path) -> object:
    from edgedistill.card.card import read_card, seal

    path = folder / "card.json"
    try:
        table = json.loads(path.read_bytes())
        path.write_text(json.dumps(table | {"sha256": seal(table)}))
    except (ValueError, TypeError, RecursionError):
        pass  # it stays as it is
    return read_card(path)


def kits() -> list[Files]:
    return [
        {"kit/target.toml": path.read_bytes(), "kit/engine.py": b""}
        for path in sorted((REPOSITORY / "targets").glob("[!w]*/target.toml"))
    ]


def read_a_kit(folder: Path) -> object:
    from edgedistill.kits.kits import read_kit

    return read_kit(folder / "kit")


def device_outputs() -> list[Files]:
    answers = [
        {"engine": {"name": "onnxruntime", "version": "1"}, "facts": {}, "files": ["model.ort"]},
        [{"name": "a", "error": "failed"}],
    ]
    answers += [[{"name": "one", "measurement": json.loads(path.read_bytes())}] for path in results()[:4]]
    return [{"out": json.dumps(one).encode()} for one in answers]


def read_answer(folder: Path) -> object:
    from edgedistill.deploy import harness
    from edgedistill.deploy.devices.transport import Finished

    text = (folder / "out").read_bytes().decode("utf-8", "replace")
    return harness._answer("harness bench on a device", Finished(0, text, ""))  # noqa: SLF001 - what a device sends is read here


@cache
def offer() -> object:
    """Return a model as the page is offered it."""
    from edgedistill.records.measurement import ModelIdentity
    from edgedistill.serve.offer import Block, ModelSummary, Offer, Requests

    block = Block(name="y", dtype="float32", shape=(1, 4), offset=0, bytes=128)
    requests = Requests(count=8, total=8, inputs=(), outputs=(block,))
    summary = ModelSummary(
        key="student-fp32", title="student", name="student", precision="fp32", encoding=None, sha256="0" * 64, bytes=1,
        metric="accuracy", output="y", min_agreement=0.9, requests=requests,
    )  # fmt: skip
    identity = ModelIdentity(name="student", sha256="0" * 64)
    return Offer(summary, Path("student.onnx"), bytes(128), identity, Path("io.npz"), "expected")


def uploads() -> list[Files]:
    sys.path.insert(0, str(REPOSITORY))
    from tests.support.uploads import upload_of

    return [{"upload.json": json.dumps(upload_of(offer())).encode()}]


def read_an_upload(folder: Path) -> object:
    from edgedistill.errors import ConfigError
    from edgedistill.serve.upload import UploadError, read_upload

    try:
        return read_upload((folder / "upload.json").read_bytes(), (offer(),))
    except UploadError as error:  # which the server answers with, as code 400
        raise ConfigError(str(error)) from None


def energy_logs() -> list[Files]:
    recorded = REPOSITORY / "tests/targets/recorded"
    return [
        {"log": path.read_bytes()}
        for path in sorted(recorded.rglob("*"))
        if path.is_file() and path.stat().st_size < 100_000
    ]


def read_log(folder: Path) -> object:
    sys.path.insert(0, str(REPOSITORY / "targets/harness"))
    import energy

    text = (folder / "log").read_bytes().decode("utf-8", "replace")
    for parse in energy.LOGS.values():
        with contextlib.suppress(KeyError, ValueError, TypeError, energy.NoSourceError):  # which the harness reports
            parse(text, 100)
    return text


KINDS = {
    "configuration": Kind(configurations, read_configuration),
    "npz": Kind(numpy_files, read_data("data.npz")),
    "pictures": Kind(picture_folders, read_data("data")),
    "wav": Kind(wave_folders, read_data("data")),
    "tar shards": Kind(tar_shards, read_data("data-000.tar")),
    "parquet": Kind(parquet_shards, read_data("data.parquet")),
    "coco": Kind(coco_files, read_data("boxes.json", task="detection", images=".")),
    "yolo": Kind(yolo_folders, read_data("data.yaml", task="detection")),
    "voc": Kind(voc_folders, read_data(".", task="detection")),
    "masks": Kind(mask_folders, read_data("data", task="segmentation")),
    "weights": Kind(state_dicts, read_weights),
    "onnx": Kind(onnx_files, read_onnx),
    "samples for a file": Kind(sample_files, read_requests),
    "tokenizer": Kind(tokenizers, read_tokenizer),
    "texts": Kind(text_tables, read_table),
    "measurement": Kind(measurements, compare_measurements),
    "run folder": Kind(run_folders, read_run),
    "kit": Kind(kits, read_a_kit),
    "card": Kind(cards, read_a_card),
    "upload": Kind(uploads, read_an_upload),
    "answer of a device": Kind(device_outputs, read_answer),
    "energy log": Kind(energy_logs, read_log),
}

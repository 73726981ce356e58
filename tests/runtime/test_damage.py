"""Files that others made: a bomb, a header that lies, and damage are sentences before anything is inflated."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from edgedistill.compare.load import load_run
from edgedistill.config.load import parse_text
from edgedistill.data.coco import read_coco
from edgedistill.data.reading import Reading
from edgedistill.data.sources import load_source
from edgedistill.data.text import TextSettings, read_texts, tokenize
from edgedistill.data.yolo import read_yolo
from edgedistill.errors import ConfigError
from edgedistill.models.weights import read_state
from edgedistill.runtime.arrays import array_names, read_arrays
from edgedistill.runtime.folder import Run
from edgedistill.runtime.memory import available_bytes


def member(header: str, content: bytes = b"") -> bytes:
    """Return an .npy file with a header of any content (NEP 1)."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


def archive(path, compression=zipfile.ZIP_STORED, **members: bytes):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_any_form_are_read(tmp_path, save):
    given = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array(["x", "yz"]),
        "c": np.zeros((0, 4)),
        "f": np.asfortranarray(np.eye(3)),
    }
    save(tmp_path / "data.npz", **given)
    read = read_arrays(tmp_path / "data.npz", "data")
    assert list(read) == array_names(tmp_path / "data.npz", "data") == list(given)
    for name, array in given.items():
        np.testing.assert_array_equal(read[name], array)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path):
    free = available_bytes()
    assert free is not None
    path = archive(tmp_path / "data.npz", zipfile.ZIP_DEFLATED, inputs=bytes(1000))
    content = bytearray(path.read_bytes())
    sizes = content.rindex(b"PK\x01\x02") + 24  # of the central directory (APPNOTE.TXT 4.3.12): the size when inflated
    content[sizes : sizes + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(content)
    if free > 0xFFFFFFF0:
        with pytest.raises(ConfigError, match="is not a readable"):
            read_arrays(path, "data")
    else:
        with pytest.raises(ConfigError, match=r"declares 4\.3 GB of compressed arrays"):
            read_arrays(path, "data")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", b"1234"), "declares 4,000,000,000,000 bytes"),
        (member("{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }"), "declares -12 bytes"),
        (member("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"12345678"), "Python objects"),
        (member("{'descr': '<f4', 'fortran_order': False, 'shape': ("), "is not a readable .npz file"),
        (member("{'descr': '<f4', 'fortran_order': False, 'shape': ('x',), }"), "is not a readable .npz file"),
        (b"no array", "is not a readable .npz file"),
        (b"", "is not a readable .npz file"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_header_that_lies_is_refused(tmp_path, content, reason, compression):
    with pytest.raises(ConfigError, match=reason):
        read_arrays(archive(tmp_path / "data.npz", compression, inputs=content), "data: data.npz")


def test_damage_inside_a_compressed_array_is_a_sentence(tmp_path):
    file = io.BytesIO()
    np.savez_compressed(file, inputs=np.random.default_rng(0).integers(0, 255, 5000, dtype=np.uint8))
    content = bytearray(file.getvalue())
    content[2000] ^= 0xFF
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not a readable \.npz file"):
        read_arrays(tmp_path / "data.npz", "data: data.npz")


def test_a_configuration_nested_too_deeply_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nested too deeply"):
        parse_text(f"name = {'[' * 5000}", tmp_path / "edgedistill.toml")


@pytest.mark.parametrize("stages", [None, [], {"data": 1}, {"data": {}}, {"data": {"record": {}, "config": 3}}])
def test_a_manifest_with_damaged_stages_is_named(tmp_path, stages):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": "edgedistill.run/2", "stages": stages}))
    with pytest.raises(ConfigError, match=r"manifest\.json: the entry of stage .* is damaged"):
        Run(tmp_path)


def test_findings_of_a_manifest_that_are_no_tables_are_named(tmp_path):
    stages = {"quantize": {"record": {"findings": [3]}}}
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": "edgedistill.run/2", "stages": stages}))
    with pytest.raises(ConfigError, match=r"manifest\.json: its settings or findings are damaged"):
        load_run(tmp_path)


def test_weights_that_torch_cannot_parse_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as file:
        for name, content in (("data.pkl", b"\x80\x02}q\x00."), ("version", b"3\n"), ("byteorder", b"litt")):
            file.writestr(f"weights/{name}", content)
    with pytest.raises(ConfigError, match=r"weights weights\.pt: not a plain state dict"):
        read_state(tmp_path / "weights.pt")


def test_category_numbers_of_any_size_are_no_list_of_holes(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}]
    table = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2**62, "name": "b"}]}
    (tmp_path / "boxes.json").write_text(json.dumps(table))
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    found = read_coco(tmp_path / "boxes.json", None, Reading(task="detection"))
    assert found.oddities["sparse numbers"] == [f"boxes.json, category 2 to {2**62 - 1}"]


def test_a_line_of_a_table_nested_too_deeply_is_named(tmp_path):
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "a"}\n' + "[" * 100_000)
    settings = TextSettings(columns=("text",), label=None, score=None, tokenizer="", max_length=8, file=file)
    with pytest.raises(ConfigError, match=r"texts\.jsonl, line 2: not JSON"):
        read_texts(file, settings, "sentence-embedding")


def test_names_of_classes_that_are_no_text_are_named(tmp_path):
    names = np.array(["a"])
    names.view(np.uint32)[0] = 0xFFFFFFFF
    np.savez(tmp_path / "data.npz", inputs=np.zeros((1, 4, 4, 3), np.uint8), labels=[0], classes=names)
    with pytest.raises(ConfigError, match=r"data\.npz: 'classes' are no names of classes"):
        load_source("data.npz", tmp_path)


def test_a_yaml_nested_too_deeply_is_named(tmp_path):
    (tmp_path / "data.yaml").write_text("names: " + "[" * 3000)
    with pytest.raises(ConfigError, match=r"data\.yaml is not valid YAML"):
        read_yolo(tmp_path / "data.yaml", Reading(task="detection"))


def test_token_numbers_that_no_model_takes_are_named(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    file = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(str(file), pretty=False)
    text = file.read_text()  # tokenizers 0.20 would list each number below 2**31 that has no token
    file.write_text(text.replace('"a":0', f'"a":{2**31}'))
    assert str(2**31) in file.read_text()
    settings = TextSettings(columns=(), label=None, score=None, tokenizer="", max_length=8, file=file)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot encode the texts: .*out of bounds"):
        tokenize([("a",)], settings)


def test_a_tokenizer_that_cannot_encode_is_named(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    file = tmp_path / "tokenizer.json"
    tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0}, unk_token="[UNK]")).save(str(file))
    settings = TextSettings(columns=(), label=None, score=None, tokenizer="", max_length=8, file=file)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot encode the texts: .*Missing \[UNK\]"):
        tokenize([("b",)], settings)

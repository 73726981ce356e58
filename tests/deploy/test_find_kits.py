from pathlib import Path

import pytest

from edgedistill.errors import ConfigError
from edgedistill.kits.kits import find_kit, find_kits, targets_folder

TOML = """
name = "{name}"
title = "Mine"
engine = "numpy"
package = "numpy"
precisions = ["fp32"]
opset = 17
install = "python3 -m pip install numpy"

[encoding]
x86_64 = "u8-i32"
aarch64 = "s8-i32"
"""


def write_kit(folder: Path, name="mine", text=TOML) -> Path:
    kit = folder / name
    kit.mkdir(parents=True)
    (kit / "target.toml").write_text(text.format(name=name), encoding="utf-8")
    (kit / "engine.py").write_text("", encoding="utf-8")
    return kit


@pytest.mark.parametrize("kit", find_kits().values(), ids=lambda kit: kit.name)
def test_every_kit_of_the_project_is_complete(kit):
    engine = (kit.folder / "engine.py").read_text(encoding="utf-8")
    for contract in ("def describe()", "def compile(model", "def load(entry"):
        assert contract in engine
    assert kit.name == kit.folder.name
    assert kit.package in kit.install
    assert {"x86_64", "aarch64"} <= set(kit.encoding)


def test_the_harness_is_not_a_kit():
    assert {"openvino", "ort"} <= set(find_kits())
    assert "harness" not in find_kits()
    assert (targets_folder() / "harness" / "__main__.py").is_file()


def test_what_people_call_a_kit_is_understood():
    kits = find_kits()
    assert [find_kit(name, kits).name for name in ("onnxruntime", "jetson", "ort")] == ["ort", "tensorrt", "ort"]


def test_a_misspelt_kit_gets_the_nearest_name():
    with pytest.raises(ConfigError, match=r"unknown kit 'openvno'; perhaps 'openvino'"):
        find_kit("openvno", find_kits())


@pytest.mark.parametrize(("arch", "encoding"), [("x86_64", "u8-i32"), ("AMD64", "u8-i32"), ("arm64", "s8-i32")])
def test_encodings_go_by_any_usual_name_of_an_architecture(tmp_path, arch, encoding):
    write_kit(tmp_path)
    assert find_kits((tmp_path,))["mine"].encoding_for(arch) == encoding


def test_an_architecture_without_an_encoding_is_named(tmp_path):
    write_kit(tmp_path)
    with pytest.raises(ConfigError, match=r"target\.toml: \[encoding\] has no 'riscv64'; it has: aarch64, x86_64"):
        find_kits((tmp_path,))["mine"].encoding_for("riscv64")


FORMS = (
    TOML
    + """
[[form]]
from = "11"
encoding = "s8-f16"
opset = 19

[[form]]
from = "10.12"
encoding = "s8-f32"
opset = 18
"""
)


@pytest.mark.parametrize(
    ("version", "encoding", "opset"),
    [
        ("8.5.2.2", "s8-i32", 17),
        ("10.3.0", "s8-i32", 17),
        ("10.12", "s8-f32", 18),
        ("10.16.2.10", "s8-f32", 18),
        ("11.0.0", "s8-f16", 19),
        ("12.1+cu13", "s8-f16", 19),
        ("", "s8-i32", 17),
        ("unknown", "s8-i32", 17),
    ],
)
def test_the_form_goes_by_the_engines_version(tmp_path, version, encoding, opset):
    write_kit(tmp_path, text=FORMS)
    form = find_kits((tmp_path,))["mine"].form_for("aarch64", version)
    assert (form.encoding, form.opset) == (encoding, opset)


def test_a_kit_without_forms_has_the_same_one_for_every_version(tmp_path):
    write_kit(tmp_path)
    kit = find_kits((tmp_path,))["mine"]
    assert kit.form_for("x86_64", "1.0") == kit.form_for("x86_64", "99")
    assert [form.encoding for form in kit.forms()] == ["s8-i32", "u8-i32"]


def test_for_unsigned_activations_a_kit_takes_its_unsigned_encoding_everywhere(tmp_path):
    write_kit(tmp_path, text=FORMS)
    kit = find_kits((tmp_path,))["mine"]
    assert kit.for_activations("signed") is kit
    taking = kit.for_activations("unsigned")
    assert taking.encoding == {"x86_64": "u8-i32", "aarch64": "u8-i32"}
    assert [form.encoding for form in taking.forms()] == ["u8-i32"]
    with pytest.raises(ConfigError, match=r"kit 'tensorrt' takes no unsigned activations, only s8-f32: quantize with"):
        find_kits()["tensorrt"].for_activations("unsigned")


def test_a_folder_of_kits_and_a_kit_itself_can_both_be_named(tmp_path):
    kit = write_kit(tmp_path)
    assert find_kits((tmp_path,))["mine"] == find_kits((kit,))["mine"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("opset = 17", "opsett = 17"), "unknown key 'opsett'; perhaps 'opset'?"),
        (("opset = 17", ""), "key 'opset' is missing"),
        (("opset = 17", "opset = 'new'"), "opset: .*, not 'new'"),
        (("u8-i32", "u8-f16"), "encoding.x86_64: .*, not 'u8-f16'"),
        (("opset = 17", "opset = "), "not valid TOML"),
        (('["fp32"]', "[]"), "precisions: "),
    ],
)
def test_a_malformed_target_toml_names_the_file_and_the_key(tmp_path, change, words):
    path = write_kit(tmp_path, text=TOML.replace(*change)) / "target.toml"
    with pytest.raises(ConfigError, match=words) as caught:
        find_kits((tmp_path,))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("opset = 19", "opset = 18"), "form.0: .*encoding s8-f16 needs opset 19 or later"),
        (('from = "11"', 'from = "new"'), "form.0.from: .*, not 'new'"),
        (('from = "11"', ""), "key 'form.0.from' is missing"),
    ],
)
def test_a_malformed_form_names_the_key(tmp_path, change, words):
    write_kit(tmp_path, text=FORMS.replace(*change))
    with pytest.raises(ConfigError, match=words):
        find_kits((tmp_path,))


def test_a_folder_without_kits_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"contains no kit"):
        find_kits((tmp_path,))


def test_two_kits_of_one_name_are_refused(tmp_path):
    write_kit(tmp_path, "openvino")
    with pytest.raises(ConfigError, match=r"kit 'openvino' is already in"):
        find_kits((tmp_path,))


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """An installed distribution with an entry point for a package that must not be run to be found."""
    package = tmp_path / "acme_edge_kits"
    write_kit(package, "acme")
    (package / "__init__.py").write_text("raise SystemExit('a kit is read, not run')", encoding="utf-8")
    info = tmp_path / "acme_edge_kits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-edge-kits\nVersion: 1.0\n", encoding="utf-8")
    points = info / "entry_points.txt"
    points.write_text("[edgedistill.targets]\nacme = acme_edge_kits\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return points


def test_a_plug_in_brings_its_kits_without_being_run(plugin):
    assert find_kits()["acme"].folder == plugin.parent.parent / "acme_edge_kits" / "acme"


def test_a_broken_plug_in_is_named(plugin):
    plugin.write_text("[edgedistill.targets]\nacme = no_such_package\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"entry point 'acme' of edgedistill.targets: 'no_such_package'"):
        find_kits()

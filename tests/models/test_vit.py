"""Vision transformers of a Hugging Face folder: equal to independent outputs, for other sizes, other classes and as students."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedistill.config.vit import read_preprocessing, read_vit_config
from edgedistill.distill.loading import build_student, load_teacher
from edgedistill.errors import ConfigError
from edgedistill.models.build import build_model
from edgedistill.models.folder import load_folder
from edgedistill.models.source import ModelSource, student_source, teacher_source
from edgedistill.models.transfer import load_start
from edgedistill.models.vit import Vit
from edgedistill.models.weights import load_weights
from edgedistill.runtime.files import sha256_of
from tests.support.encoders import DEIT, images, write_vit
from tests.support.learning import config_of, interface

# The logits of `transformers` 5.24 for the models that write_vit makes, of two images of 8, and of 12 with interpolate_pos_encoding;
# for the one without classifier, the first values of the class token.
GOLDEN = {
    "vit": (
        [[0.346405, 0.14182, 0.35668], [0.574029, 0.156705, 0.117461]],
        [[0.354605, 0.261231, 0.402326], [0.301234, 0.204181, 0.327552]],
    ),
    "deit": (
        [[-0.299977, 0.061765, 0.010952], [-0.361989, 0.088615, 0.004692]],
        [[-0.357083, 0.083596, -0.056281], [-0.295886, 0.051136, -0.110219]],
    ),
    "bare": (
        [[0.545557, 0.46773, 0.253779], [0.49351, 0.443863, 0.227009]],
        [[0.508264, 0.453968, 0.232488], [0.48532, 0.455969, 0.258756]],
    ),
    "nobias": (
        [[-0.428687, -1.157778, -0.328014], [-0.096629, -1.13872, -0.467615]],
        [[-0.421288, -0.930433, -0.360852], [-0.380273, -1.062933, -0.338137]],
    ),
}
KEYS = {"vit": {}, "deit": DEIT, "bare": {"architectures": ["ViTModel"]}, "nobias": {"qkv_bias": False}}


def built(folder: Path, side: int = 8) -> tuple[Vit, list[str]]:
    config = read_vit_config(folder)
    model = Vit(config, (side, side), len(config.labels) or None)
    return model.eval(), load_weights(model, folder / "model.safetensors")


@pytest.mark.parametrize("name", GOLDEN)
def test_outputs_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    write_vit(tmp_path, **KEYS[name])
    for side, expected in zip((8, 12), GOLDEN[name], strict=True):
        model, notes = built(tmp_path, side)
        with torch.no_grad():
            np.testing.assert_allclose(model(images(side))[:, :3], expected, rtol=0, atol=2e-6)
        resized = [note for note in notes if "position embeddings resized from 2x2 to 3x3 patches (bicubic)" in note]
        assert len(resized) == (side == 12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_act": "quick_gelu"}, r"the activation 'quick_gelu' is not supported"),
        ({"patch_size": None}, r"config\.json has no 'patch_size'"),
    ],
)
def test_other_variants_are_refused(tmp_path: Path, changed: dict, message: str) -> None:
    write_vit(tmp_path)
    table = json.loads((tmp_path / "config.json").read_text()) | changed
    (tmp_path / "config.json").write_text(json.dumps({key: one for key, one in table.items() if one is not None}))
    with pytest.raises(ConfigError, match=message):
        read_vit_config(tmp_path)


def test_labels_of_several_outputs_get_their_numbers(tmp_path: Path) -> None:
    write_vit(tmp_path, id2label={"1": "crane", "0": "ant", "2": "crane"})
    assert read_vit_config(tmp_path).labels == ("ant", "crane (1)", "crane (2)")
    write_vit(tmp_path, id2label=None)
    assert read_vit_config(tmp_path).labels == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    ("table", "mean", "std", "size"),
    [
        ({"image_mean": [0.5], "image_std": [0.25], "size": {"height": 8, "width": 12}}, 0.5, 0.25, (12, 8)),
        # levels * 1/127.5 - 1 are the levels in [-1, 1]: (x - 0.5) / 0.5 of levels in [0, 1]
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0], "image_std": [1.0], "size": 8}, 0.5, 0.5, (8, 8)),
        ({"do_rescale": False, "do_normalize": False, "do_resize": False, "size": 8}, 0.0, 1 / 255, None),
        ({"image_mean": [0.5], "image_std": [0.5], "size": {"shortest_edge": 9}, "do_center_crop": True, "crop_size": 8}, 0.5, 0.5, (8, 8)),
        ({"image_mean": [0.5], "image_std": [0.5], "size": {"shortest_edge": 9}}, 0.5, 0.5, None),
    ],
)  # fmt: skip
def test_preprocessing_is_that_of_levels_in_0_to_1(
    tmp_path: Path, table: dict, mean: float, std: float, size: tuple[int, int] | None
) -> None:
    assert read_preprocessing(tmp_path) is None
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(table))
    found = read_preprocessing(tmp_path)
    assert found is not None
    assert (found.mean[0], found.std[0]) == pytest.approx((mean, std))
    assert found.size == size


OWN = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": {"height": 12, "width": 12}}
DATA = {"train": "train.npz", "test": "test.npz", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
CLASSES = ("bee", "cat", "ant")
FACE = interface("image", (8, 8, 3), 3).model_copy(update={"classes": CLASSES})


def teacher_of(folder: Path, names: tuple[str, ...], **keys: object) -> ModelSource:
    config = config_of(folder, data=DATA, teacher={"model": "hf:vit", **keys}, student={"layers": 2})
    return teacher_source(config, 0, sha256_of, names)


def normalised(raw: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    return (raw - torch.tensor(mean).reshape(1, 3, 1, 1)) / torch.tensor(std).reshape(1, 3, 1, 1)


def test_a_teacher_has_the_preprocessing_and_the_labels_of_its_folder(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(OWN))
    source = teacher_of(tmp_path, CLASSES)
    assert source.weights is not None
    model, raw = load_teacher(source, FACE, 0, source.weights.path), images(8).abs()
    plain, _ = built(tmp_path / "vit", 12)
    with torch.no_grad():
        larger = torch.nn.functional.interpolate(raw, (12, 12), mode="bilinear")
        expected = plain(normalised(larger, OWN["image_mean"], OWN["image_std"]))[:, [1, 2, 0]]
        torch.testing.assert_close(model(normalised(raw, DATA["mean"], DATA["std"])), expected, rtol=0, atol=1e-5)
    assert (view := teacher_of(tmp_path, CLASSES, size=8, mean=[0.1, 0.2, 0.3]).view) is not None
    assert (view.sides, view.mean, view.std) == ((8, 8), (0.1, 0.2, 0.3), (0.2, 0.3, 0.4))


def test_a_head_for_other_classes_is_left_out_and_the_teacher_is_trained(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    others = ("ant", "bee", "dog")
    face = FACE.model_copy(update={"classes": others})
    source = teacher_of(tmp_path, others)
    assert source.weights is None
    model = build_model(source, face, 0)
    note = load_folder(model, source, face)[-1]
    assert note.startswith(
        "weights model.safetensors: head left out and trained anew, because it is for the classes ant, bee"
    )
    assert "'classifier.weight' (3, 16)" in note
    assert teacher_of(tmp_path, others, classes=["ant", "bee", "dog"]).weights is not None  # the user names the outputs
    write_vit(tmp_path / "vit", id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    assert teacher_of(tmp_path, others).weights is not None


def test_a_student_with_layers_of_a_vit_starts_from_what_its_teacher_computes(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    own = {**OWN, "size": {"height": 8, "width": 8}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(own))
    source = teacher_of(tmp_path, CLASSES, channels="bgr")
    assert source.weights is not None
    teacher = load_teacher(source, FACE, 0, source.weights.path)
    config = config_of(tmp_path, data=DATA, teacher={"model": "hf:vit", "channels": "bgr"}, student={"layers": [0, 2]})
    student = build_student(student_source(config, sha256_of, CLASSES), FACE, 0, teacher).eval()
    assert isinstance(student, Vit)
    assert len(student.layers) == 2
    del teacher.layers[1]
    seen = normalised(images(8).abs(), DATA["mean"], DATA["std"])
    with torch.no_grad():
        torch.testing.assert_close(student(seen), teacher(seen), rtol=0, atol=1e-5)
        assert student(seen).std() > 0.01


def test_a_student_of_a_folder_says_what_it_starts_with(tmp_path: Path) -> None:
    write_vit(tmp_path / "vit")
    config = config_of(tmp_path, data=DATA, student={"model": "hf:vit"})
    source = student_source(config, sha256_of, CLASSES)
    notes = load_start(build_student(source, FACE, 0), source, FACE)
    assert "head left out and trained anew, because it is for the classes ant, bee, cat" in notes[-1]


@pytest.mark.parametrize(
    ("face", "message"),
    [
        (interface("image", (8, 8, 1), 3), r"takes images of 3 channel\(s\); the data has 1"),
        (interface("image", (2, 8, 3), 3), r"cuts images into patches of \(4, 4\); those of 2x8 are smaller"),
        (interface("image", (4, 16, 3), 3), r"images of 4x16 have as many in 1x4; use another size"),
        (interface("signal", (16, 3), 3), r"takes images; this is signal data"),
    ],
)
def test_data_that_a_vit_cannot_take_is_refused(tmp_path: Path, face: object, message: str) -> None:
    write_vit(tmp_path / "vit")
    with pytest.raises(ConfigError, match=message):
        build_model(teacher_of(tmp_path, ()), face, 0)

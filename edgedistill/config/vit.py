"""The sizes of a ViT or DeiT in a Hugging Face folder, and how its images are preprocessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from edgedistill.config.encoder import CONFIG, read_table, required_values
from edgedistill.errors import ConfigError
from edgedistill.records.base import Record

PREPROCESSOR: Final = "preprocessor_config.json"
TYPES: Final = ("vit", "deit")
HEADS: Final = ("ForImageClassification", "ForImageClassificationWithTeacher")
NAMES: Final = {
    "hidden": "hidden_size", "layers": "num_hidden_layers", "heads": "num_attention_heads", "intermediate": "intermediate_size",
    "channels": "num_channels", "image": "image_size", "patch": "patch_size", "activation": "hidden_act",
}  # fmt: skip
"""The names of the sizes in config.json."""
LEVELS: Final = 255
"""What the levels of images are divided by before `mean` and `std` of [data] and [teacher] apply."""


class VitConfig(Record):
    """The sizes of a vision transformer (Dosovitskiy et al. 2021); `image` and `patch` are (height, width) in pixels.

    `labels` are the names of the outputs in their order, empty for a folder without classifier. `heads_out` is 2 for a DeiT whose
    logits are the mean of two classifiers, that of the class token and that of the distillation token (Touvron et al. 2021).
    """

    model_type: Literal["vit", "deit"]
    hidden: int
    layers: int
    heads: int
    intermediate: int
    channels: int
    image: tuple[int, int]
    patch: tuple[int, int]
    epsilon: float = 1e-12
    bias: bool = True
    labels: tuple[str, ...] = ()
    heads_out: Literal[1, 2] = 1

    @property
    def tokens(self) -> int:
        """The number of tokens before those of patches: the class token and, for a DeiT, the distillation token."""
        return 2 if self.model_type == "deit" else 1

    def grid(self, image: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of patches of an image (height, width); pixels beyond the last whole patch are left out."""
        return image[0] // self.patch[0], image[1] // self.patch[1]


class ImagePreprocessing(Record):
    """What a model's images are normalised with, for values in [0, 1], and their size as (width, height)."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None


def is_vit(folder: Path) -> bool:
    """Return whether the model of a Hugging Face folder is a vision transformer."""
    return read_table(folder, CONFIG).get("model_type") in TYPES


def read_vit_config(folder: Path) -> VitConfig:
    """Read the sizes of a ViT or DeiT from a Hugging Face folder; raises ConfigError for variants that are not supported."""
    table = read_table(folder, CONFIG)
    values = required_values(folder, table, NAMES)
    activation = values.pop("activation")
    if activation != "gelu":
        raise ConfigError(f"model 'hf:{folder.name}': the activation '{activation}' is not supported; only 'gelu' is")
    image, patch = (_pair(values.pop(key)) for key in ("image", "patch"))
    architecture = next(iter(table.get("architectures") or ()), "")
    classifies = architecture.endswith(HEADS)
    return VitConfig(
        model_type=table["model_type"], epsilon=table.get("layer_norm_eps", 1e-12), bias=table.get("qkv_bias", True),
        labels=_labels(table) if classifies else (), heads_out=2 if architecture.endswith("WithTeacher") else 1,
        image=image, patch=patch, **values,
    )  # fmt: skip


def _labels(table: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the outputs; a config.json without them has two outputs, as `transformers` writes it.

    Names that several outputs have, such as ImageNet's two "crane", get the numbers of the outputs.
    """
    named = table.get("id2label")
    if not named:
        return _numbered(table.get("num_labels", 2))
    names = [str(named[key]) for key in sorted(named, key=int)]
    return tuple(name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names))


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"LABEL_{number}" for number in range(count))


def fits_classes(labels: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    """Return whether outputs are those of classes in their order: they have the same names, or none (LABEL_0, LABEL_1, ...)."""
    return labels in (classes, _numbered(len(classes)))


def _pair(value: Any) -> tuple[int, int]:
    height, width = value if isinstance(value, list) else (value, value)
    return height, width


def read_preprocessing(folder: Path) -> ImagePreprocessing | None:
    """Read preprocessor_config.json of a Hugging Face folder; None for a folder without it.

    Levels are multiplied by `rescale_factor` and then normalised; the result is the `mean` and `std` of levels divided by 255. The
    size is that of the crop, if there is one.
    """
    if not (folder / PREPROCESSOR).is_file():
        return None
    table = read_table(folder, PREPROCESSOR)
    scale = LEVELS * table.get("rescale_factor", 1 / LEVELS) if table.get("do_rescale", True) else LEVELS
    normalises = table.get("do_normalize", True)
    mean, std = (table["image_mean"], table["image_std"]) if normalises else ([0.0] * 3, [1.0] * 3)
    crops = table.get("do_center_crop", False) and "crop_size" in table
    resized = table.get("size") if table.get("do_resize", True) else None
    return ImagePreprocessing(
        mean=tuple(value / scale for value in mean), std=tuple(value / scale for value in std),
        size=_size(table["crop_size"] if crops else resized),
    )  # fmt: skip


def _size(value: Any) -> tuple[int, int] | None:
    """Return the (width, height) of images; None for a size that depends on the image."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return value["width"], value["height"]
    return None

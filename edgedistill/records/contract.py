"""The contract of a model: how a picture file or a text becomes its input, and how its outputs become answers.

It travels with the model: in the metadata of the ONNX file, in the run folder, and to every device. targets/harness/picture.py and
answers.py carry it out in numpy.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from edgedistill.records.base import Record

JOIN: Final = "+"
"""Between the names of outputs that are the labelled output together, side by side along their last axis: "scores+boxes"."""

KEY: Final = "edgedistill.contract"
"""The key of the contract in the metadata of an ONNX file."""


class PictureRules(Record):
    """How a picture becomes an input, in this order.

    The file is decoded to 8 bits, upright (EXIF), over white where it is transparent, to `colour`. It is resized to `width` x
    `height` by `rule` with borders of the grey level `padding`; with no rule, it must have that size. For an input of type
    float32, values are divided by `divide_by`, then (x - mean) / std; None means no change. Then comes the `layout`.
    """

    width: int
    height: int
    rule: Literal["crop", "letterbox", "letterbox-corner", "stretch"] | None
    padding: int
    colour: Literal["rgb", "grey"]
    dtype: Literal["uint8", "float32"]
    layout: Literal["NHWC", "NHW", "NCHW"]
    divide_by: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


class DetectionRules(Record):
    """How scores and boxes become detections: score floor, the overlap (IoU) that suppresses a box of the same class, and the most boxes."""

    floor: float
    overlap: float
    limit: int


class TextRules(Record):
    """How a text becomes the inputs, and the vectors of its tokens one.

    The text, or the `texts` of a pair, are tokenized by the `tokenizer`, a file of Hugging Face's tokenizers that lies beside the model
    and has the hash `sha256`. More than `max_length` tokens are cut off at the end, from the longer text of a pair first: this is
    the `truncation` "longest_first" of that library. There is no padding: the `inputs`, `input_ids`, `attention_mask` and, for
    pairs, `token_type_ids`, are (1, tokens), int64, and the mask is 1. `pooling` is None for models that are no encoders of a
    Hugging Face folder; embeddings have length 1 if `normalized`. The pooling and the normalization are part of the model.
    """

    tokenizer: str
    sha256: str
    max_length: int
    texts: int
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    truncation: Literal["longest_first"] = "longest_first"
    pooling: str | None
    normalized: bool


class Contract(Record):
    """The contract of one model; `picture` is None, with a `reason`, if the model does not take pictures from files.

    `output` is the labelled output, "scores+boxes" for two; `probabilities` is whether it holds probabilities already.
    """

    schema_: Literal["edgedistill.contract/1"] = Field(default="edgedistill.contract/1", alias="schema")
    task: str
    classes: tuple[str, ...]
    input: str
    picture: PictureRules | None
    reason: str | None = None
    output: str
    probabilities: bool
    threshold: float | None = None
    detection: DetectionRules | None = None
    text: TextRules | None = None

    model_config = ConfigDict(
        frozen=True, extra="forbid", serialize_by_alias=True, validate_by_name=True, validate_by_alias=True
    )

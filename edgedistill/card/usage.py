"""The usage of a model as Python code that runs as printed, beside the files of the card: from a picture, a text or a sample to an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgedistill.card.card import Card, CardModel
from edgedistill.records.contract import JOIN, Contract, DetectionRules, PictureRules, TextRules
from edgedistill.records.details import DetectionDetails

PACKAGES = "onnxruntime numpy"
FEW = 20
"""More classes are read from the card, not listed in the code."""


def usage(card: Card) -> str | None:
    """Return the code for the model to use, or None for a card of a version that did not record the contract."""
    model = card.preferred
    if model.contract is None or model.signature is None:
        return None
    return "\n".join(_lines(card, model, model.contract)) + "\n"


def packages(card: Card) -> str:
    """Return the packages that the code needs, as arguments of pip install."""
    contract = card.preferred.contract
    if contract is None or (contract.picture is None and contract.text is None):
        return PACKAGES
    return f"{PACKAGES} {'pillow' if contract.picture is not None else 'tokenizers'}"


def _lines(card: Card, model: CardModel, contract: Contract) -> Iterator[str]:
    yield from _imports(card, contract)
    yield ""
    yield from _classes(contract)
    if contract.picture is not None:
        yield from picture_code(contract.picture)
    if contract.detection is not None:
        yield from detection_code(contract.detection, _threshold(card, model))
    yield f'session = onnxruntime.InferenceSession("{model.file.path}")'
    yield from _inputs(card, model, contract)
    names = contract.output.split(JOIN)
    yield (
        f"{', '.join(names_of(names))} = session.run({_list(names)}, inputs)"
        if len(names) > 1
        else (f"({names_of(names)[0]},) = session.run({_list(names)}, inputs)")
    )
    yield from _answer(contract, names_of(names))


def _imports(card: Card, contract: Contract) -> Iterator[str]:
    if len(contract.classes) > FEW and contract.task in NAMED:
        yield "import json"
        yield "from pathlib import Path"
        yield ""
    yield "import numpy as np"
    yield "import onnxruntime"
    if contract.picture is not None:
        yield "from PIL import Image, ImageOps"
    if contract.text is not None and card.tokenizer is not None:
        yield "from tokenizers import Tokenizer"


NAMED = frozenset({"classification", "multi-label", "detection", "segmentation"})
"""The tasks whose answers are classes."""


def _classes(contract: Contract) -> Iterator[str]:
    if contract.task not in NAMED:
        return
    if len(contract.classes) > FEW:
        yield 'CLASSES = json.loads(Path("card.json").read_text())["data"]["classes"]'
    else:
        yield f"CLASSES = {_list(contract.classes)}"
    yield ""


def names_of(names: Sequence[str]) -> list[str]:
    """Return the names of outputs as names of variables."""
    return [name if name.isidentifier() else f"output{place}" for place, name in enumerate(names)]


def _list(values: Sequence[str]) -> str:
    quoted = ('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values)
    return f"[{', '.join(quoted)}]"


# --- inputs -----------------------------------------------------------------------------------------------------------------------


def picture_code(rules: PictureRules) -> Iterator[str]:
    """Yield the function `read`, which turns a picture file into the input."""
    mode = "RGB" if rules.colour == "rgb" else "L"
    yield from ("", "def read(path):", '    """Return the input of the model for a picture file."""')
    yield f'    picture = ImageOps.exif_transpose(Image.open(path)).convert("{mode}")'
    yield from (f"    {line}" for line in _resized(rules, mode))
    if rules.dtype == "uint8":
        yield "    return np.asarray(picture, np.uint8)[None]"
    else:
        yield f"    values = np.asarray(picture, np.float32) / {rules.divide_by:g}"
        if rules.mean is not None:
            yield f"    values = values - np.array({list(rules.mean)}, np.float32)"
        if rules.std is not None:
            yield f"    values = values / np.array({list(rules.std)}, np.float32)"
        yield f"    return {_arranged(rules)}"
    yield from ("", "")


def _arranged(rules: PictureRules) -> str:
    if rules.layout == "NCHW":
        return "values[None, None]" if rules.colour == "grey" else "values.transpose(2, 0, 1)[None]"
    return "values[None]"


def _resized(rules: PictureRules, mode: str) -> Iterator[str]:
    size = f"({rules.width}, {rules.height})"
    if rules.rule is None:
        yield f"assert picture.size == {size}  # (width, height); the model was trained on pictures of this size"
    elif rules.rule == "stretch":
        yield f"picture = picture.resize({size}, Image.Resampling.BILINEAR)"
    elif rules.rule == "crop":
        yield f"picture = ImageOps.fit(picture, {size}, Image.Resampling.BILINEAR)"
    else:
        grey = f"({rules.padding},) * 3" if mode == "RGB" else str(rules.padding)
        corner = (
            "(0, 0)"
            if rules.rule == "letterbox-corner"
            else f"(({rules.width} - small.width) // 2, ({rules.height} - small.height) // 2)"
        )
        yield f"small = ImageOps.contain(picture, {size}, Image.Resampling.BILINEAR)"
        yield f'picture = Image.new("{mode}", {size}, {grey})'
        yield f"picture.paste(small, {corner})"


def _inputs(card: Card, model: CardModel, contract: Contract) -> Iterator[str]:
    if contract.picture is not None:
        yield f'inputs = {{"{contract.input}": read("picture.jpg")}}'
    elif contract.text is not None and card.tokenizer is not None:
        yield from _text(contract.text, card.tokenizer.path)
    else:
        assert model.signature is not None
        yield f'with np.load("{model.io.path}") as recorded:  # test samples as the model takes them'
        pairs = (f'"{one.name}": recorded["input.{one.name}"][0]' for one in model.signature.inputs)
        yield f"    inputs = {{{', '.join(pairs)}}}"


def _text(rules: TextRules, tokenizer: str) -> Iterator[str]:
    texts = '"a first text", "a second text"' if rules.texts == 2 else '"a text"'
    yield f'tokenizer = Tokenizer.from_file("{tokenizer}")'
    yield "tokenizer.no_padding()"
    yield f"tokenizer.enable_truncation({rules.max_length})"
    yield f"text = tokenizer.encode({texts})"
    yield 'inputs = {"input_ids": np.array([text.ids]), "attention_mask": np.array([text.attention_mask])}'
    if rules.texts == 2:
        yield 'inputs["token_type_ids"] = np.array([text.type_ids])'


# --- answers ----------------------------------------------------------------------------------------------------------------------


def _answer(contract: Contract, names: Sequence[str]) -> Iterator[str]:
    first = names[0]
    if contract.task == "classification":
        if not contract.probabilities:
            yield f"{first} = np.exp({first} - {first}.max())"
        yield f"probabilities = {first}.reshape(-1) / {first}.sum()"
        yield "print(CLASSES[probabilities.argmax()], probabilities.max())"
    elif contract.task == "multi-label":
        yield f"found = {first}.reshape(-1) > {contract.threshold or 0:g}"
        yield "print([name for name, is_there in zip(CLASSES, found) if is_there])"
    elif contract.task == "segmentation":
        yield f"mask = {first}[0].argmax(axis=0)  # the class of each place; resize the map first for a mask in the size of the input"
        yield "print({CLASSES[kind]: int((mask == kind).sum()) for kind in np.unique(mask)})"
    elif contract.task == "detection":
        yield f"for place, kind in detections({names[0]}[0], {names[1]}[0]):"
        yield f"    print(CLASSES[kind], {names[0]}[0, place, kind], {names[1]}[0, place])  # left, top, right, bottom in pixels of the input"
    elif contract.task in ("embedding", "sentence-embedding"):
        yield f"print({first}.shape)  # the vector"
    else:
        yield f"print({first}.reshape(-1))"


def _threshold(card: Card, model: CardModel) -> float:
    """Return the score threshold of the best F1 that was measured, or 0.3."""
    details = (m.details for m in card.measurements if m.model.sha256 == model.file.sha256)
    return next((one.threshold.value for one in details if isinstance(one, DetectionDetails)), 0.3)


def detection_code(rules: DetectionRules, threshold: float) -> Iterator[str]:
    """Yield the function `detections`, which suppresses boxes greedily, class by class."""
    yield from DETECTIONS.format(threshold=f"{threshold:.3g}", overlap=f"{rules.overlap:g}", limit=rules.limit).split(
        "\n"
    )


DETECTIONS = '''
def detections(scores, boxes):
    """Return the places and classes of at most {limit} boxes that no better box of their class covers, the best first."""
    kept = []
    for place, kind in sorted(np.argwhere(scores > {threshold}).tolist(), key=lambda found: -scores[tuple(found)]):
        if all(kind != other_kind or overlap(boxes[place], boxes[other]) <= {overlap} for other, other_kind in kept):
            kept.append((place, kind))
    return kept[:{limit}]


def overlap(one, other):
    """Return the intersection over union of two boxes."""
    sides = np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0)
    return sides.prod() / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - sides.prod())

'''

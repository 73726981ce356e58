"""Read annotations in Pascal VOC's format: an XML file for each picture (Everingham et al., IJCV 2010).

Corners are pixels counted from 1, and inclusive, so that x1 = xmin - 1 and x2 = xmax. Classes are numbered in alphabetical order.

    DATA/Annotations/a.xml   DATA/JPEGImages/a.jpg   DATA/ImageSets/Main/train.txt   the source is DATA, or the .txt
    DATA/annotations/a.xml   DATA/images/a.png                                       the source is DATA
    DATA/train/a.xml         DATA/train/a.jpg                                        the source is DATA/train
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree as ET

from edgedistill.data.boxes import Annotation, Annotations, Box, Oddities
from edgedistill.data.images import IMAGE_SUFFIXES
from edgedistill.data.reading import Reading
from edgedistill.errors import ConfigError

XML_FOLDERS: Final = ("Annotations", "annotations", "xmls", "labels")
PICTURE_FOLDERS: Final = ("JPEGImages", "images", "Images")
SETS: Final = Path("ImageSets", "Main")


def is_voc(source: Path) -> bool:
    """Return whether a folder, or a list of pictures, has annotations in this format."""
    if source.is_file():
        return source.suffix == ".txt"
    return _xml_folder(source) is not None


def read_voc(source: Path, reading: Reading) -> Annotations:
    """Read the annotations of a folder or of the pictures in a list; raises ConfigError for files that are not in this format."""
    is_list = source.is_file()
    root = source.parents[2] if is_list and source.parent.parts[-2:] == SETS.parts else source
    folder = _xml_folder(root)
    if folder is None:
        raise ConfigError(
            f"data: {source.name} has no Pascal VOC annotations; expected {root.name}/Annotations/NAME.xml, {root.name}/JPEGImages/NAME.jpg "
            f"and {root.name}/{SETS}/train.txt"
        )
    oddities = Oddities()
    lists = _lists_of(source, root, reading, oddities)
    files = _chosen(lists, folder)
    roots = {file: _parse(file) for file in files}
    pictures = {path.stem: path for path in _pictures_of(root, folder)}
    named = sorted({_text(one, "name", file) for file, tree in roots.items() for one in tree.iter("object")})
    classes = reading.classes or tuple(named)
    annotations = []
    for file, tree in roots.items():
        picture = pictures.get(file.stem)
        boxes = tuple(_boxes(file, tree, classes, oddities))
        if picture is None:
            oddities.add("missing picture", f"{file.name}")
        else:
            annotations.append(Annotation(picture, boxes, _size(tree)))
    if not annotations:
        raise ConfigError(
            f"data: {root.name} has no picture for any of {len(files):,} annotations, for example {files[0].name}"
        )
    return Annotations(tuple(annotations), classes, root, (*files, *lists), oddities)


def _xml_folder(root: Path) -> Path | None:
    folders = (root / name for name in (*XML_FOLDERS, "."))
    return next((folder for folder in folders if folder.is_dir() and next(folder.glob("*.xml"), None)), None)


def _pictures_of(root: Path, xml_folder: Path) -> Iterator[Path]:
    folders = (root / name for name in PICTURE_FOLDERS)
    folder = next((one for one in folders if one.is_dir()), xml_folder)
    return (path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES)


def _lists_of(source: Path, root: Path, reading: Reading, oddities: Oddities) -> list[Path]:
    """Return the list of the pictures of the split: the source itself, or the one in the folder; none if there are no lists.

    Where there is a list val.txt but no test.txt, it takes the place of test.txt.
    """
    if source.is_file():
        return [source]
    lists = sorted((root / SETS).glob("*.txt"))
    own, val = (root / SETS / f"{split}.txt" for split in (reading.split, "val"))
    if reading.split == "test" and own not in lists and val in lists:
        oddities.add("val as test", f"{SETS.as_posix()}/{val.name}")
        own = val
    if lists and own not in lists:
        raise ConfigError(
            f"data: {root.name}/{SETS} has no {own.name}; it has {', '.join(path.name for path in lists)}; name one as data.{reading.split}"
        )
    return [own] if lists else []


def _chosen(lists: Sequence[Path], folder: Path) -> list[Path]:
    """Return the annotation files of the pictures in the list, or all of them without a list."""
    if not lists:
        return sorted(folder.glob("*.xml"))
    names = [
        line.split()[0] for line in lists[0].read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    files = [folder / f"{name}.xml" for name in dict.fromkeys(names)]
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        what = f"lists {len(absent):,} pictures without an annotation, first {absent[0]}" if absent else "is empty"
        raise ConfigError(f"data: {lists[0].name} {what}; add the files to {folder.name}, or correct the list")
    return files


class _Builder(ET.TreeBuilder):
    """A tree of a document without a document type, which could define entities that expand to gigabytes."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it has a document type (<!DOCTYPE>), which annotations do not need; remove it")


def _parse(file: Path) -> ET.Element:
    try:
        # Without a document type there are no entities, and expat loads nothing from elsewhere.
        return ET.fromstring(file.read_bytes(), ET.XMLParser(target=_Builder()))  # noqa: S314
    except (ET.ParseError, ValueError) as error:
        raise ConfigError(f"data: {file.parent.name}/{file.name} is not a readable XML file: {error}") from None


def _text(element: ET.Element, path: str, file: Path) -> str:
    text = element.findtext(path)
    if text is None:
        raise ConfigError(f"data: {file.parent.name}/{file.name}: an <{element.tag}> has no <{path}>")
    return text.strip()


def _size(tree: ET.Element) -> tuple[int, int] | None:
    """Return the stated width and height; some programs leave them out, or write 0."""
    width, height = (tree.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
    return (
        (int(width), int(height)) if width.isdecimal() and height.isdecimal() and int(width) and int(height) else None
    )


def _boxes(file: Path, tree: ET.Element, classes: tuple[str, ...], oddities: Oddities) -> Iterator[Box]:
    for number, one in enumerate(tree.iter("object"), 1):
        name = _text(one, "name", file)
        if name not in classes:
            oddities.add("unknown class", f"{file.name}, object {number}, '{name}'")
            continue
        texts = [_text(one, f"bndbox/{key}", file) for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x1, y1, x2, y2 = map(float, texts)
        except ValueError:
            raise ConfigError(
                f"data: {file.parent.name}/{file.name}, object {number}: {' '.join(texts)} are not numbers"
            ) from None
        difficult = one.findtext("difficult", "0").strip() == "1"
        if difficult:
            oddities.add("difficult", f"{file.name}, object {number}")
        # Equal corners are a click without a box, not a box of one pixel.
        shift = 1 if x2 > x1 and y2 > y1 else 0
        yield Box(classes.index(name), (x1 - shift, y1 - shift, x2, y2), crowd=difficult)

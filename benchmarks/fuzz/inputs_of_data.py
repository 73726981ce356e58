"""Sound data in each form that [data] takes, and how it is read."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from small_files import RNG, Files, arrays, clip, picture

if TYPE_CHECKING:
    from edgedistill.data.reading import Reading


def reading(**settings: Any) -> "Reading":
    from edgedistill.data.geometry import Resizing
    from edgedistill.data.reading import Reading

    return Reading(resizing=Resizing(8, 8), **settings)


def read_data(name: str, **settings: Any) -> Callable[[Path], object]:
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

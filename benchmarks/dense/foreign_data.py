"""Write COCO files of the cars and people in CamVid's photos: the connected parts of its masks of cars and pedestrians.

python benchmarks/dense/foreign_data.py ../shared/data/segmentation/camvid FOLDER [EVERY]

Every nth photo is taken, by default each. FOLDER gets train, val and test with annotations.json and links to the photos, and coco.txt with the names of COCO's 80 classes.
Neighbouring cars are one part of a mask, so that the average precision of a good detector is far from 1.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

KINDS = {8: 1, 9: 2}
"""The classes of the masks: cars are category 1, pedestrians category 2."""
LEAST_AREA = 150
COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter bench bird cat dog "
    "horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis snowboard sports_ball kite "
    "baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork knife spoon bowl banana apple sandwich "
    "orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed dining_table toilet tv laptop mouse remote keyboard "
    "cell_phone microwave oven toaster sink refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)


def boxes_of(mask: np.ndarray, image: int) -> list[dict]:
    """Return the annotations of the connected parts of a mask (H, W)."""
    found = []
    for number, category in KINDS.items():
        parts, _ = ndimage.label(mask == number)
        for place, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            area = int((parts[rows, columns] == place).sum())
            if area >= LEAST_AREA:
                box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
                found.append({"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": 0})
    return found


def main() -> None:
    camvid, folder, every = Path(sys.argv[1]).resolve(), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 1
    for split in ("train", "val", "test"):
        images, annotations = [], []
        (folder / split).mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(sorted((camvid / split / "images").iterdir())[::every]):
            link = folder / split / photo.name
            link.unlink(missing_ok=True)
            link.symlink_to(photo)
            mask = np.asarray(Image.open(next((camvid / split / "masks").glob(f"{photo.stem}*"))))
            images.append({"id": number, "file_name": photo.name, "width": mask.shape[1], "height": mask.shape[0]})
            annotations += boxes_of(mask, number)
        annotations = [one | {"id": place} for place, one in enumerate(annotations, 1)]
        categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
        table = {"images": images, "annotations": annotations, "categories": categories}
        (folder / split / "annotations.json").write_text(json.dumps(table))
        print(f"{split}: {len(images)} photos, {len(annotations)} boxes")
    (folder / "coco.txt").write_text("\n".join(name.replace("_", " ") for name in COCO.split()))


if __name__ == "__main__":
    main()

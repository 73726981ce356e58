"""Each form of a detector's outputs is recognised, and gives the scores and boxes that it was made of."""

import filecmp
import json

import numpy as np
import pytest

import edgedistill.tasks.decoders
from edgedistill.errors import ConfigError
from edgedistill.tasks.decoders import decode, decoder_of
from edgedistill.tasks.detector_forms import decoder_array, describe_decoder, object_names, recognise
from tests.support.jobs import TARGETS

NAMES = ("cat", "dog", "cow")
HEIGHT, WIDTH = 96, 128
WHOLE = np.array([WIDTH, HEIGHT] * 2)


def cells(strides, offset=0.5):
    """Return the centres (A, 2) and strides (A, 1) of cells, one after the other."""
    found = [
        ((x + offset) * stride, (y + offset) * stride, stride)
        for stride in strides for y in range(-(-HEIGHT // stride)) for x in range(-(-WIDTH // stride))
    ]  # fmt: skip
    table = np.array(found, float)
    return table[:, :2], table[:, 2:]


def truth(count, seed=0, classes=3):
    """Return scores (count, classes) and boxes (count, 4) within the input."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (count, 2))
    return rng.uniform(0.01, 0.99, (count, classes)), np.concatenate(
        [corner, corner + rng.uniform(5, 30, (count, 2))], 1
    )


def around_cells(strides, offset=0.5):
    """Return boxes (A, 4) around each cell, and the distances of their sides in strides, at most 7."""
    centres, steps = cells(strides, offset)
    sides = np.random.default_rng(1).uniform(0.3, 6.5, (len(centres), 4))
    boxes = np.concatenate([centres - sides[:, :2] * steps, centres + sides[:, 2:] * steps], 1)
    return np.clip(boxes, 0, WHOLE), sides


def centred(boxes):
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def logit(scores):
    return np.log(scores / (1 - scores))


def distributed(sides, bins=8):
    """Return logits (A, 4 * bins) whose mean is each distance, from its two next bins."""
    shares = np.maximum(0, 1 - np.abs(sides[..., None] - np.arange(bins)))
    return np.log(np.maximum(shares, 1e-12)).reshape(len(sides), -1)


def with_background(scores, place):
    """Return logits for a softmax that gives the scores, scaled to a sum below 1, and a background."""
    shares = scores / (scores.sum(1, keepdims=True) + 0.5)
    return np.log(np.insert(shares, place, 1 - shares.sum(1), axis=1)), shares


def split(values, strides):
    counts = [-(-HEIGHT // stride) * -(-WIDTH // stride) for stride in strides]
    return np.split(values, np.cumsum(counts)[:-1])


def check(outputs, scores, boxes, form, names=NAMES, wanted=None):
    answers = [{name: np.asarray(value, np.float32) for name, value in outputs.items()}]
    found, decoder = recognise(answers, names, (HEIGHT, WIDTH), wanted)
    assert found == form
    sent = decoder_of(json.loads(str(decoder_array(decoder)["decoder"][0])))
    assert sent == decoder
    got_scores, got_boxes = decode(answers[0], sent)
    np.testing.assert_allclose(got_scores, scores, atol=1e-4)
    np.testing.assert_allclose(got_boxes, boxes, atol=0.02)
    return decoder


def test_the_host_has_the_file_of_the_device():
    assert filecmp.cmp(edgedistill.tasks.decoders.__file__, TARGETS / "harness" / "decoders.py", shallow=False)


@pytest.mark.parametrize("values", [lambda scores: scores, logit], ids=["scores", "logits"])
def test_scores_beside_corners(values):
    scores, boxes = truth(50)
    check({"scores": values(scores)[None], "boxes": boxes[None]}, scores, boxes, "scores+boxes")
    check({"boxes": boxes[None] / WHOLE, "scores": values(scores)[None]}, scores, boxes, "scores+boxes")


def test_the_background_of_a_softmax_is_the_first_class_beside_corners_and_the_last_beside_centres():
    scores, boxes = truth(50)
    first, shares = with_background(scores, 0)
    check({"scores": first[None], "boxes": boxes[None] / WHOLE}, shares, boxes, "scores+boxes")
    last, shares = with_background(scores, 3)
    decoder = check({"logits": last[None], "pred_boxes": centred(boxes / WHOLE)[None]}, shares, boxes, "detr")
    assert describe_decoder("detr", decoder) == (
        "detr: logits for a softmax, boxes are centres and sizes in shares of the input, class 3 is the background, suppression is "
        "part of the model"
    )
    named = ("cat", "background", "dog", "cow")
    middle, shares = with_background(scores, 1)
    check({"scores": middle[None], "boxes": boxes[None]}, shares, boxes, "scores+boxes", names=named)
    assert object_names(named) == NAMES


def test_centres_before_scores_in_either_order_of_axes():
    scores, boxes = truth(200)
    joined = np.concatenate([centred(boxes), scores], 1)
    check({"output0": joined.T[None]}, scores, boxes, "yolo")
    check({"output0": joined[None]}, scores, boxes, "yolo")


def test_objectness_multiplies_the_scores_of_classes():
    scores, boxes = truth(200)
    objectness = np.random.default_rng(2).uniform(0.1, 0.9, (200, 1))
    joined = np.concatenate([centred(boxes), objectness, scores], 1)
    check({"output": joined[None]}, objectness * scores, boxes, "yolo-objectness")


def test_yolox_without_its_decoding():
    centres, steps = cells((8, 16, 32), 0.0)
    scores, boxes = truth(len(centres))
    middle = centred(boxes)
    raw = np.concatenate([(middle[:, :2] - centres) / steps, np.log(middle[:, 2:] / steps)], 1)
    check({"output": np.concatenate([raw, np.ones((len(raw), 1)), scores], 1)[None]}, scores, boxes, "yolox")


def test_distributions_of_levels_of_all_levels_and_joined():
    strides = (8, 16, 32)
    boxes, sides = around_cells(strides)
    scores, _ = truth(len(boxes))
    raw = distributed(sides)
    levels = zip(split(scores, strides), split(raw, strides), strict=True)
    outputs = {
        f"{kind}_{i}": part[None] for i, pair in enumerate(levels) for kind, part in zip("cb", pair, strict=True)
    }
    check(dict(reversed(outputs.items())), scores, boxes, "gfl")
    check({"classes": logit(scores)[None], "boxes": raw[None]}, scores, boxes, "gfl")
    check({"output": np.concatenate([scores, raw], 1)[None]}, scores, boxes, "gfl")


def test_nanodet_plus_measures_from_the_corners_of_cells():
    strides = (8, 16, 32, 64)
    boxes, sides = around_cells(strides, 0.0)
    scores, _ = truth(len(boxes))
    outputs = {"output": np.concatenate([scores, distributed(sides)], 1)[None]}
    check(outputs, scores, boxes, "nanodet-plus", wanted="nanodet-plus")
    with pytest.raises(
        ConfigError, match=r"output \(1, 256, 35\) fit several forms: gfl, nanodet-plus; choose one with decode"
    ):
        check(outputs, scores, boxes, "gfl")


def final(count=20):
    scores, boxes = truth(count, classes=1)
    kinds = np.random.default_rng(3).integers(0, 3, count)
    one_hot = np.zeros((count, 3))
    one_hot[np.arange(count), kinds] = scores[:, 0]
    return scores, kinds, boxes, one_hot


def test_detections_as_rows():
    scores, kinds, boxes, one_hot = final()
    rows = np.concatenate([boxes, scores, kinds[:, None]], 1)
    assert check({"maps": np.zeros((1, 8, 8, 2)), "found": rows[None]}, one_hot, boxes, "rows").suppressed


def test_detections_as_lists():
    scores, kinds, boxes, one_hot = final()
    check({"boxes": boxes, "labels": kinds, "scores": scores[:, 0]}, one_hot, boxes, "lists")
    share = boxes[:, [1, 0, 3, 2]] / WHOLE[[1, 0, 3, 2]]
    tensorflow = {
        "detection_boxes": share[None], "detection_classes": kinds[None], "detection_scores": scores[None, :, 0],
        "num_detections": [7],
    }  # fmt: skip
    check(tensorflow, one_hot[:7], boxes[:7], "lists-yx")


def test_outputs_of_no_known_form_and_forms_that_do_not_exist_are_refused():
    outputs = {"logits": np.zeros((1, 10))}
    with pytest.raises(
        ConfigError, match=r"no known form of outputs for 3 classes: logits \(1, 10\); known forms are scores\+boxes: "
    ):
        recognise([outputs], NAMES, (HEIGHT, WIDTH))
    with pytest.raises(ConfigError, match=r"no form 'yolow'; perhaps 'yolo'\?"):
        recognise([outputs], NAMES, (HEIGHT, WIDTH), "yolow")
    with pytest.raises(ConfigError, match=r"finds nothing in the first 1 inputs, so the unit of its boxes is unknown"):
        recognise([{"found": np.zeros((1, 5, 6))}], NAMES, (HEIGHT, WIDTH))

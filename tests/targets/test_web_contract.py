"""The page carries out the contract as the harness does: the same input in every byte, and the same answers."""

import base64
import json
import shutil
import subprocess
from typing import Any

import answers
import detections
import numpy as np
import picture
import pytest

from tests.support.jobs import TARGETS

SCRIPT = """
import { readFileSync } from "node:fs";
const { answerOf } = await import("WEB/answers.mjs");
const { prepare } = await import("WEB/picture.mjs");
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const does = {
    prepare({ pixels, width, height, rules }) {
        const { data, shape } = prepare({ data: bytes(pixels), width, height }, rules);
        return { data: text(data), shape };
    },
    answer({ outputs, contract, size }) {
        const given = Object.entries(outputs).map(([name, { data, dims }]) => [name, { data: new Float32Array(bytes(data).buffer), dims }]);
        const found = answerOf(Object.fromEntries(given), contract, size);
        return Array.from(found, (one) => (typeof one === "number" ? one : Array.from(one)));
    },
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(({ step, ...given }) => {
    try {
        return does[step](given);
    } catch (error) {
        return { error: error.message };
    }
})));
"""
RNG = np.random.default_rng(0)


def page(*cases: dict[str, Any]) -> list[Any]:
    """Return what the page's modules make of cases, all in one process."""
    if shutil.which("node") is None:
        pytest.skip("there is no node")
    script = SCRIPT.replace("WEB", (TARGETS / "web").as_uri())
    command = ["node", "--input-type=module", "--eval", script]
    done = subprocess.run(command, input=json.dumps(cases), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def encoded(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def rules(width: int, height: int, rule: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "width": width, "height": height, "rule": rule, "padding": 114, "colour": "rgb", "dtype": "uint8", "layout": "NHWC",
        "divide_by": 1.0, "mean": None, "std": None,
    } | changes  # fmt: skip


FLOATS = {"dtype": "float32", "layout": "NCHW", "divide_by": 255.0}
COLOURS = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def picture_cases() -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Return pictures of many sizes, with the rules for each."""
    found = [
        (RNG.integers(0, 256, (height, width, 3)).astype(np.uint8), rules(to_width, to_height, rule))
        for rule in ("crop", "letterbox", "letterbox-corner", "stretch")
        for height, width, to_height, to_width in RNG.integers(1, 90, (12, 4)).tolist()
    ]
    photo = RNG.integers(0, 256, (480, 640, 3)).astype(np.uint8)
    found += [(photo, rules(416, 416, "letterbox", **FLOATS, **COLOURS)), (photo, rules(224, 224, "crop", **FLOATS))]
    small = RNG.integers(0, 256, (17, 40, 3)).astype(np.uint8)
    found += [(small, rules(40, 17, None)), (small, rules(20, 20, "stretch", **FLOATS, mean=[0.5], std=None))]
    grey = np.repeat(RNG.integers(0, 256, (30, 21, 1)).astype(np.uint8), 3, axis=2)
    found += [(grey, rules(28, 28, "letterbox", colour="grey", layout="NHW"))]
    return [*found, (grey, rules(28, 28, "stretch", colour="grey", **FLOATS, mean=[0.13], std=[0.31]))]


def test_the_inputs_equal_the_reference_in_every_byte() -> None:
    cases = picture_cases()
    given = [
        {
            "step": "prepare", "width": pixels.shape[1], "height": pixels.shape[0], "rules": ours,
            "pixels": encoded(np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], axis=2)),
        }
        for pixels, ours in cases
    ]  # fmt: skip
    for (pixels, ours), found in zip(cases, page(*given), strict=True):
        decoded = pixels[:, :, 0] if ours["colour"] == "grey" else pixels
        wanted = picture.prepare(decoded, {"picture": ours})
        assert tuple(found["shape"]) == wanted.shape, ours
        got = np.frombuffer(base64.b64decode(found["data"]), wanted.dtype).reshape(wanted.shape)
        np.testing.assert_array_equal(got, wanted, err_msg=str(ours))


def test_grey_is_that_of_pillow_and_a_size_without_a_rule_is_an_error() -> None:
    from PIL import Image

    pixels = RNG.integers(0, 256, (50, 60, 4)).astype(np.uint8)
    given = {"step": "prepare", "width": 60, "height": 50, "pixels": encoded(pixels)}
    ours = rules(60, 50, None, colour="grey", layout="NHW")
    found, refused = page(given | {"rules": ours}, given | {"rules": ours | {"width": 61}})
    wanted = np.asarray(Image.fromarray(pixels[:, :, :3]).convert("L"))
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(found["data"]), np.uint8).reshape(50, 60), wanted)
    assert refused["error"].startswith("the picture is 60x50; the model takes 61x50, and its contract has no rule")


def contract(task: str, output: str, **changes: Any) -> dict[str, Any]:
    return {
        "task": task, "output": output, "probabilities": False, "picture": rules(96, 64, "letterbox"),
        "detection": detections.RULES._asdict(),
    } | changes  # fmt: skip


def outputs_of(task: str) -> dict[str, np.ndarray]:
    """Return random outputs (1, ...) of a model for a task, scores with ties."""
    if task == "detection":
        corners = RNG.uniform(-5, 80, (1, 600, 2))
        ends = corners + RNG.uniform(-3, 40, (1, 600, 2))
        scores = np.round(RNG.uniform(0, 1, (1, 600, 3)) ** 3, 2)
        found = {"scores": scores, "boxes": np.concatenate([corners, ends], 2)}
    elif task == "segmentation":
        found = {"maps": RNG.normal(0, 3, (1, 5, 16, 24))}
    else:
        found = {"logits": RNG.normal(0, 4, (1, 7))}
    return {name: values.astype(np.float32) for name, values in found.items()}


ANSWERED: list[tuple[str, dict[str, Any]]] = [
    ("detection", {}), ("detection", {"detection": {"floor": 0.2, "overlap": 0.3, "limit": 20}}),
    ("detection", {"picture": rules(96, 64, "crop")}), ("detection", {"picture": rules(96, 64, None)}),
    ("segmentation", {}), ("segmentation", {"picture": rules(24, 16, "crop")}), ("classification", {}),
    ("classification", {"probabilities": True}), ("multi-label", {}), ("multi-label", {"probabilities": True}), ("regression", {}),
]  # fmt: skip


def sent(outputs: dict[str, np.ndarray], ours: dict[str, Any]) -> dict[str, Any]:
    given = {name: {"data": encoded(values), "dims": values.shape} for name, values in outputs.items()}
    return {"step": "answer", "outputs": given, "contract": ours, "size": {"width": 120, "height": 50}}


def test_the_answers_equal_the_reference() -> None:
    made = [(task, outputs_of(task), changes) for task, changes in ANSWERED]
    cases = [(outputs, contract(task, "+".join(outputs), **changes)) for task, outputs, changes in made]
    for (outputs, ours), found in zip(cases, page(*(sent(*case) for case in cases)), strict=True):
        labelled = [values[0] for values in outputs.values()]
        wanted = answers.ANSWERS[ours["task"]](labelled, ours, np.zeros((50, 120, 3), np.uint8))
        got = np.array(found).reshape(wanted.shape)
        if ours["task"] == "segmentation":
            assert (got == wanted).mean() > 0.9999  # two classes may be equal but for the rounding of a sum
        elif ours["task"] == "detection":
            assert len(wanted) > 10
            np.testing.assert_array_equal(got.astype(np.float32), wanted)
        else:
            np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_outputs_that_are_not_finite_give_no_detections() -> None:
    outputs = outputs_of("detection")
    outputs["scores"][0, 5, 1] = np.nan
    known, unknown = contract("detection", "scores+boxes"), contract("detection", "scores+corners")
    found, refused = page(sent(outputs, known), sent(outputs, unknown))
    assert found == []
    assert refused == {"error": "the contract names output 'corners', but the model has scores, boxes"}

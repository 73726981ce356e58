"""The models that a server offers: what pages download, measure and send."""

import base64
import json
import shutil
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from edgedistill.errors import ConfigError
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.runtime.folder import Run
from edgedistill.serve.offer import MOST_UPLOAD_BYTES, Offer, offers, pack_requests
from edgedistill.serve.runtime import read_web_kit
from tests.support.command import edgedistill
from tests.support.serving import Served
from tests.support.uploads import upload_of


def make_again(student: Offer, teacher: Offer) -> None:
    """Replace a student by its teacher, with the teacher's answers, as the stage `export` writes them."""
    write_atomic(student.path, teacher.path.read_bytes())
    with np.load(teacher.io) as answers, np.load(student.io) as recorded:
        old, new = f"expected.{student.expected}.", f"expected.{teacher.expected}."
        arrays = {
            name: answers[name.replace(old, new)] if name.startswith(old) else recorded[name] for name in recorded
        }
    with atomic_path(student.io) as scratch:
        write_arrays(scratch, arrays)


def test_a_run_that_is_made_again_is_served_as_it_was(run: Path, tmp_path: Path, serve: Callable[..., Served]) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "digits"))
    student, _, teacher = offers(Run(folder), read_web_kit())
    link = serve(folder, "--http").links[0]
    make_again(student, teacher)
    with urllib.request.urlopen(f"{link}models/{student.summary.key}.onnx") as answer:
        assert sha256(answer.read()).hexdigest() == student.summary.sha256
    body = json.dumps(upload_of(student)).encode()
    with urllib.request.urlopen(f"{link}api/measurement", body) as answer:
        assert json.loads(answer.read())["parity"]["max_abs_diff"] == 0


def recorded(path: Path, *outputs: tuple[int, ...]) -> Path:
    """Write ten recorded requests with outputs of these shapes, float32."""
    arrays = {f"expected.fp32.{i}": np.zeros((10, *shape), np.float32) for i, shape in enumerate(outputs)}
    np.savez_compressed(path, **arrays, **{"input.x": np.zeros((10, 1, 3, 8, 8), np.float32)})
    return path


@pytest.mark.parametrize(
    ("outputs", "count"),
    [
        (((1, 11, 60, 80),), 10),
        (((1, 8400, 80), (1, 8400, 4)), 3),
        (((1, 11, 360, 480),), 1),
    ],
)
def test_the_outputs_of_all_requests_leave_half_of_an_upload_for_samples(outputs, count, tmp_path):
    layout, _ = pack_requests(tmp_path / "model.onnx", recorded(tmp_path / "io.npz", *outputs), "fp32")
    assert layout.count == count
    assert sum(len(base64.b64encode(bytes(block.bytes))) for block in layout.outputs) <= MOST_UPLOAD_BYTES / 2


def test_outputs_that_no_upload_can_hold_are_refused_before_a_phone_measures(tmp_path):
    io = recorded(tmp_path / "io.npz", (1, 21, 360, 480))
    with pytest.raises(
        ConfigError, match=r"model\.onnx: the outputs of one request have 14,515,200 bytes, .* 9,000,000"
    ):
        pack_requests(tmp_path / "model.onnx", io, "fp32")


@pytest.mark.parametrize("missing", ["manifest", "export"])
def test_a_folder_that_has_nothing_to_serve(run: Path, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "digits"))
    manifest = json.loads((folder / "manifest.json").read_text())
    if missing == "manifest":
        (folder / "manifest.json").unlink()
    else:
        del manifest["stages"]["export"]
        (folder / "manifest.json").write_text(json.dumps(manifest))
    refused = edgedistill("serve", folder, cwd=tmp_path)
    assert refused.returncode == 2
    assert ("not a run folder" if missing == "manifest" else "stage 'export' has not run") in refused.stderr

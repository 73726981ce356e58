"""The models that a server offers: what pages download, measure and send."""

import json
import shutil
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import atomic_path, write_atomic
from edgedistill.runtime.folder import Run
from edgedistill.serve.offer import Offer, offers
from edgedistill.serve.runtime import read_web_kit
from tests.support.serving import Served
from tests.support.uploads import upload_of


def make_again(student: Offer, teacher: Offer) -> None:
    """Replace a student by its teacher, with the teacher's answers, as the stage `export` writes them."""
    write_atomic(student.path, teacher.path.read_bytes())
    with np.load(teacher.io) as answers, np.load(student.io) as recorded:
        old, new = f"expected.{student.expected}.", f"expected.{teacher.expected}."
        arrays = {name: answers[name.replace(old, new)] if name.startswith(old) else recorded[name] for name in recorded}
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

"""What tests share: one thread a process, one finished run, and where the real data lies."""

import os
import shutil
import signal
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.support import runs

torch.set_num_threads(1)  # two threads collapse when anything else runs beside them
os.environ["OMP_NUM_THREADS"] = "1"

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it

hypothesis.settings.register_profile("suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("suite")  # no test depends on how busy the machine is

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and teachers, which is not part of this repository."""
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data is not here; EDGEDISTILL_DATA names its folder")
    return folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run of the suite, which its processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def finished(shared_folder: Path) -> Path:
    """The folder of a finished run, `runs/digits`, for reading only; `copied` is one to change."""
    return runs.finished_run(shared_folder)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture(scope="session")
def elsewhere(shared_folder: Path) -> Path:
    """The folder of the same run exported for a device that cannot be asked, and not measured, for reading only."""
    return runs.exported_elsewhere(shared_folder)

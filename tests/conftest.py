"""What tests share: one thread a process, and where the real data lies."""

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # two threads collapse when anything else runs beside them
os.environ["OMP_NUM_THREADS"] = "1"

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and what they start, ignore it

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and teachers, which is not part of this repository."""
    folder = Path(os.environ.get("EDGEDISTILL_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data is not here; EDGEDISTILL_DATA names its folder")
    return folder

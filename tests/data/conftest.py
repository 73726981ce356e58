"""Decoded images of these tests are cached in a folder of their own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, shared_folder: Path) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(shared_folder / "decoded-by-tests"))

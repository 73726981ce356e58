"""Turn a checked upload into a measurement of the run, with the statistics of the harness in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.compare.load import read_measurement
from edgedistill.deploy.stage import OF_PAGES
from edgedistill.errors import ConfigError
from edgedistill.kits.kits import targets_folder
from edgedistill.records.measurement import Measurement
from edgedistill.runtime.arrays import write_arrays
from edgedistill.runtime.files import write_atomic
from edgedistill.runtime.scratch import scratch_folder
from edgedistill.serve.offer import Offer
from edgedistill.serve.runtime import WebKit, page_folder
from edgedistill.serve.upload import Upload, UploadError

TIMEOUT_S = 120
"""The most seconds that reading and evaluating one upload takes."""


def keep(run_folder: Path, kit: WebKit, upload: Upload, offer: Offer, outputs: dict[str, np.ndarray]) -> Measurement:
    """Write the measurement of an upload into a run's measurements, atomically, and return it.

    Raises UploadError when the upload gives no valid measurement, and RuntimeError when the process fails.
    """
    name = file_name(upload)
    with scratch_folder() as folder:
        (folder / "spec.json").write_text(json.dumps(_spec(folder, kit, upload, offer, name)), encoding="utf-8")
        write_arrays(folder / "outputs.npz", outputs)
        _assemble(folder)
        measured = folder / f"{name}.json"
        try:
            measurement = read_measurement(measured)
        except ConfigError as error:
            raise UploadError(str(error).replace(f"{measured}: ", "")) from None
        _move(folder, run_folder / "measurements", name)
    return measurement


def file_name(upload: Upload) -> str:
    """Name a measurement after its device, model and provider, so that a repeated measurement replaces it."""
    slug = re.sub(r"[^a-z0-9]+", "-", upload.device.name.lower()).strip("-")[:24] or "device"
    return f"{OF_PAGES}{slug}-{upload.device.id[:8]}-{arm_name(upload)}"


def arm_name(upload: Upload) -> str:
    """Name a model with its provider and threads, as the page does in the ratios of models that took turns."""
    return f"{upload.model}-{upload.browser.provider}-{upload.threads}t"


def _spec(folder: Path, kit: WebKit, upload: Upload, offer: Offer, name: str) -> dict[str, Any]:
    device, provider = upload.device, upload.browser.provider
    address = f"browser://{device.id}/{provider}-{upload.threads}"
    return {
        "out": str(folder), "io": str(offer.io.resolve()), "count": offer.summary.requests.count,
        "total": offer.summary.requests.total, "upload": upload.model_dump(mode="json"), "name": arm_name(upload),
        "arm": {
            "name": name, "target": f"{device.name} {provider}-{upload.threads}", "address": address,
            "kit": kit.name, "precision": offer.summary.precision, "threads": upload.threads,
            "size_bytes": offer.summary.bytes, "model": offer.identity.model_dump(), "expected": offer.expected,
            "metric": offer.summary.metric, "output": offer.summary.output,
            **({} if offer.threshold is None else {"threshold": offer.threshold}),
        },
        "device": {
            "address": address, "id": device.id,
            "arch": device.arch, "os": device.platform, "kernel": None, "python": None,
            "engine": {"name": kit.runtime.package, "version": kit.runtime.version},
            "cpu": f"{device.name} ({device.browser})", "cores": device.cores, "memory_bytes": device.memory_bytes,
            "governor": None, "power_mode": None, "load_average": None, "virtualised": None,
        },
    }  # fmt: skip


def _assemble(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(targets_folder() / "harness"), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        str(page_folder() / "assemble.py"),
        str(folder / "spec.json"),
        str(folder / "outputs.npz"),
    ]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=TIMEOUT_S / 2, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the measurement could not be evaluated: it took too long") from None
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise RuntimeError(
            f"the measurement could not be evaluated: {lines[-1] if lines else f'exit code {done.returncode}'}"
        )


def _move(folder: Path, target: Path, name: str) -> None:
    """Move the samples and then the measurement that refers to them, each atomically."""
    for suffix in (".npz", ".json"):
        write_atomic(target / f"{name}{suffix}", (folder / f"{name}{suffix}").read_bytes())

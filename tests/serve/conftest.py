"""A small real run, and the server of it as a user starts it."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgedistill.errors import ConfigError
from edgedistill.serve.runtime import read_web_kit, runtime_folder
from tests.support.serving import Served, listen


@pytest.fixture(scope="session")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has exported its models, and measured nothing."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("serve") / "whole"))
    shutil.rmtree(folder / "runs" / "digits" / "measurements")
    return folder / "runs" / "digits"


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The engine's files, fetched once on a machine."""
    try:
        runtime_folder(read_web_kit().tokenizer, (), print)
        return runtime_folder(read_web_kit().runtime, (), print)
    except ConfigError as error:
        if "fetched" in str(error) or "urlopen" in str(error) or "timed out" in str(error):
            pytest.skip(f"onnxruntime-web is not here, and npm cannot be reached: {error}")
        raise


@pytest.fixture
def serve(runtime: Path) -> Iterator[Callable[..., Served]]:
    """Start servers, and end them."""
    started = []

    def start(run: Path, *options: str) -> Served:
        command = [
            sys.executable,
            "-m",
            "edgedistill",
            "serve",
            str(run),
            "--host",
            "127.0.0.1",
            "--runtime",
            str(runtime),
            *options,
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        served = Served(process, [process.stdout.readline().strip()])
        served.listener = threading.Thread(target=listen, args=(served,), daemon=True)
        served.listener.start()
        started.append(served)
        assert served.links[0].startswith("http"), served.said or process.communicate()
        return served

    yield start
    for served in started:
        served.end()

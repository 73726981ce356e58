"""What tests of devices share: a bundle of the exported run, and a phone behind the real adb."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import onnxruntime
import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from tests.support.adbd import Adb, Device
from tests.support.jobs import TARGETS
from tests.support.phones import BATTERY, GETPROP, THERMAL
from tests.support.tiny_onnx import build, record


@pytest.fixture(scope="module")
def bundle(elsewhere, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "student.pyz"
    done = CliRunner().invoke(cli, ["bundle", str(elsewhere / "runs" / "digits"), "--target", "ort", "-o", str(path)])
    assert done.exit_code == 0, done.output + str(done.exception)
    return path


@pytest.fixture(scope="module")
def adb(tmp_path_factory):
    """The real adb, with a separate port for its server and a separate home folder for its key."""
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed: sudo apt-get install adb")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    before = {name: os.environ.get(name) for name in ("ANDROID_ADB_SERVER_PORT", "HOME")}
    os.environ |= {"ANDROID_ADB_SERVER_PORT": str(port), "HOME": str(tmp_path_factory.mktemp("home"))}
    yield Adb(port)
    Adb(port)("kill-server")
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    (folder / "said").mkdir()
    for name, text in {"battery": BATTERY, "thermalservice": THERMAL}.items():
        (folder / "said" / name).write_text(text)
    (folder / "getprop").write_text(f"#!/bin/sh\ncat <<'END'\n{GETPROP}END\n")
    (folder / "rails.sh").write_text("")
    (folder / "dumpsys").write_text(
        f'#!/bin/sh\ncase $1 in android*) . "{folder}/rails.sh";; *) cat "{folder}/said/$1";; esac\n'
    )
    for name in ("getprop", "dumpsys"):
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    """The folder of a runner for this machine."""
    libraries = list((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    if shutil.which("cc") is None or not libraries:
        pytest.skip("no C compiler was found, or the package onnxruntime contains no shared library")
    folder = tmp_path_factory.mktemp("runner")
    subprocess.run([str(TARGETS / "android" / "build.sh"), str(folder / "edrun")], check=True)
    shutil.copy(libraries[0], folder / "libonnxruntime.so")
    return folder


@pytest.fixture
def phone(adb, programs, tmp_path):
    device = Device(tmp_path / "phone", programs)
    assert "connected" in adb("connect", device.serial)
    yield device
    adb("disconnect", device.serial)
    device.unplug()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {"fp32": build(folder / "fp32.onnx")} | {
        encoding: build(folder / f"{encoding}.onnx", encoding) for encoding in ("u8-i32", "s8-i32")
    }
    record(folder / "io.npz", made)
    return folder

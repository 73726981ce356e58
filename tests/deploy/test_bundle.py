"""Bundles: made from a real run, and run by other Pythons that have numpy and an engine and nothing else."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgedistill.cli.main import cli
from edgedistill.compare.load import load_results
from edgedistill.deploy.devices.transport import folder_files
from edgedistill.records.measurement import Measurement

QUICK = ("--processes", "1", "--seconds", "0.2")


def edgedistill(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def run(elsewhere):
    """A run up to its ONNX files; its device is never asked."""
    return elsewhere / "runs" / "digits"


def start(path, *arguments, cwd, python=sys.executable, env=None):
    command = [str(python), str(path), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=900)


def test_equal_runs_give_equal_bundles(run, bundle, tmp_path):
    done = edgedistill("bundle", run, "--target", "ort", "-o", tmp_path / "again.pyz")
    assert done.exit_code == 0, done.output + str(done.exception)
    assert hashlib.sha256(bundle.read_bytes()).hexdigest() in done.output
    assert (tmp_path / "again.pyz").read_bytes() == bundle.read_bytes()


def test_a_bundle_is_measured_and_compared(bundle, run, tmp_path):
    done = start(bundle, "bench", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "result.json").write_text(done.stdout)
    (results,) = load_results([tmp_path / "result.json"])
    found = {measured.precision.requested: measured for measured in results.measurements}
    assert set(found) == {"fp32", "int8"}
    assert found["int8"].precision.executed["int8"] == 10
    assert all(measured.accuracy.n > 300 and measured.accuracy.value > 0.5 for measured in results.measurements)
    assert found["fp32"].parity.agreement == 1.0
    assert found["int8"].model.lineage["quantized"]
    assert found["fp32"].target == "ort"
    files = sorted(path.name for path in (tmp_path / "student-results").glob("*.json"))
    assert files == ["bundle-ort-fp32.json", "bundle-ort-int8-u8-i32.json"]
    table = json.loads((tmp_path / "student-results" / files[0]).read_text())
    assert Measurement.model_validate(table) == found["fp32"]
    compared = edgedistill("compare", tmp_path / "result.json", "--json")
    assert compared.exit_code == 0, compared.output
    assert not list(tmp_path.glob("edgedistill-*"))


def test_check_and_compile_and_probe_print_what_they_found(bundle, tmp_path):
    done = start(bundle, "check", "--precision", "int8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (check,) = json.loads(done.stdout)["checks"]
    assert check["check"]["executed"] == {"int8": 10}
    assert check["check"]["accuracy"]["value"] > 0.5
    done = start(bundle, "compile", "--precision", "fp32", "--out", "made", cwd=tmp_path)
    (artifact,) = json.loads(done.stdout)["artifacts"]
    assert (Path(artifact["folder"]) / artifact["entry"]).is_file()
    assert Path(artifact["folder"]).is_relative_to(tmp_path / "made")
    assert json.loads(start(bundle, "probe", cwd=tmp_path).stdout)["engine"]["name"] == "onnxruntime"


def test_a_model_that_answers_otherwise_is_not_to_be_shipped(bundle, tmp_path):
    def shift_labels(content):
        import io

        import numpy as np

        with np.load(io.BytesIO(content)) as archive:
            arrays = dict(archive)
        key = next(name for name in arrays if name.startswith("expected.student-fp32"))
        arrays[key] = np.roll(arrays[key], 1, axis=-1)
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()

    path = repacked(bundle, tmp_path / "wrong.pyz", {"io/io.npz": shift_labels}, honest=True)
    done = start(path, "check", "--precision", "fp32", cwd=tmp_path)
    assert done.returncode == 4
    assert "do not ship it" in done.stderr


def test_an_engine_that_is_not_there_comes_with_the_line_that_installs_it(bundle, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('it is not there')")
    done = start(bundle, "bench", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 5
    assert "it is not there; install it: python3 -m pip install onnxruntime" in done.stderr


def test_what_was_not_exported_cannot_be_bundled(run, tmp_path):
    done = edgedistill("bundle", run, "--target", "ort", "--precision", "fp16", "-o", tmp_path / "x.pyz")
    assert "kit 'ort' has no precision 'fp16'; it has: fp32, int8" in str(done.exception)
    damaged = tmp_path / "digits"
    shutil.copytree(run, damaged)
    with (damaged / "onnx" / "student-fp32.onnx").open("ab") as file:
        file.write(b"\0")
    done = edgedistill("bundle", damaged, "--target", "ort", "-o", tmp_path / "x.pyz")
    assert "student-fp32.onnx: missing, or changed since stage 'export' made it" in str(done.exception)
    assert not (tmp_path / "x.pyz").exists()


def repacked(bundle, path, changes, *, honest=False, extra=()):
    """Write a bundle with changed members; an honest one has the hashes of what it holds."""
    with zipfile.ZipFile(bundle) as source:
        members = [(name, source.read(name)) for name in source.namelist()]
        comment = source.comment
    members = [(name, changes[name](content)) if name in changes else (name, content) for name, content in members]
    members = [(name, content) for name, content in members if content is not None]
    if honest:
        manifest = json.loads(dict(members)["bundle.json"])
        for name, content in members:
            if name != "bundle.json":
                manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        text = json.dumps(manifest).encode()
        members = [(name, text if name == "bundle.json" else content) for name, content in members]
        comment = hashlib.sha256(text).hexdigest().encode()
    with zipfile.ZipFile(path, "w") as target:
        for name, content in (*members, *extra):
            target.writestr(name, content)
        target.comment = comment
    return path


MODEL = "models/student-fp32.onnx"


@pytest.mark.parametrize(
    ("changes", "extra", "problem"),
    [
        ({MODEL: lambda c: c[:-1] + bytes([c[-1] ^ 1])}, (), f"{MODEL} has the wrong content"),
        ({MODEL: lambda c: c + b"\0"}, (), f"{MODEL} has the wrong size"),
        ({MODEL: lambda _: None}, (), f"{MODEL} is missing or was added"),
        ({}, [("kits/ort/more.py", "")], "kits/ort/more.py is missing or was added"),
        ({"bundle.json": lambda c: c.replace(b'"seconds"', b'"second" ')}, (), "bundle.json was changed"),
        ({"harness/check.py": lambda c: c.replace(b"max(", b"min(")}, (), "harness/check.py has the wrong content"),
        ({"__main__.py": lambda c: c.replace(b"if digest", b"if False and digest")}, (), "has the wrong size"),
    ],
)
def test_a_changed_bundle_refuses_to_run(bundle, tmp_path, changes, extra, problem):
    done = start(repacked(bundle, tmp_path / "changed.pyz", changes, extra=extra), "probe", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"refused: the file was changed after it was packed: {problem}" in done.stderr or problem in done.stderr
    assert "copy it again" in done.stderr


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/../../outside", "a\\b"])
def test_no_member_leaves_the_folder(bundle, tmp_path, name):
    path = repacked(bundle, tmp_path / "evil.pyz", {}, honest=True, extra=())
    path = repacked(path, tmp_path / "worse.pyz", {"bundle.json": with_file(name)}, extra=[(name, b"x")])
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = hashlib.sha256(archive.read("bundle.json")).hexdigest().encode()
    done = start(path, "probe", cwd=tmp_path)
    assert done.returncode == 2
    assert f"{name} points outside the bundle's folder" in done.stderr
    assert not list(tmp_path.rglob("outside"))


def with_file(name):
    def change(content):
        manifest = json.loads(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
        return json.dumps(manifest).encode()

    return change


PYTHONS = {
    "3.8": ("numpy==1.24.4", "onnxruntime==1.19.2"),
    "3.12": ("numpy", "onnxruntime"),
    "3.13": ("numpy", "onnxruntime"),
}


def interpreter(version):
    """Return a Python of that version on this machine."""
    candidates = [shutil.which(f"python{version}")]
    candidates += sorted(
        Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser().glob(f"versions/{version}.*/bin/python")
    )
    for candidate in filter(None, candidates):
        done = subprocess.run([str(candidate), "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout.startswith(f"Python {version}."):
            return str(candidate)
    return None


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_a_device_needs_python_numpy_and_the_engine_only(bundle, tmp_path, version):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    subprocess.run([python, "-m", "venv", str(tmp_path / "venv")], check=True)
    fresh = tmp_path / "venv" / "bin" / "python"
    install = [str(fresh), "-m", "pip", "install", "-q", *PYTHONS[version]]
    if subprocess.run(install, check=False, timeout=600).returncode != 0:
        pytest.skip(f"{', '.join(PYTHONS[version])} cannot be installed here")
    done = start(bundle, "bench", *QUICK, cwd=tmp_path, python=fresh)
    assert done.returncode == 0, done.stderr
    measured = [Measurement.model_validate(table) for table in json.loads(done.stdout)["measurements"]]
    assert [one.device.python.startswith(f"{version}.") for one in measured] == [True, True]
    assert all(one.parity.agreement >= 0.95 and one.accuracy.value > 0.5 for one in measured)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--precision", "int8", "--encoding", "u8-i32")])
def test_an_emulated_arm64_answers_as_recorded_and_times_nothing(bundle, tmp_path, options):
    python = Path(os.environ.get("EDGEDISTILL_ARM64", "/nowhere"), "python")
    if not python.is_file():
        pytest.skip("EDGEDISTILL_ARM64 names no emulated device; make one: benchmarks/arm64/prepare.sh FOLDER --python")
    done = start(bundle, "check", "--requests", "50", *options, cwd=tmp_path, python=python)
    assert done.returncode == 0, done.stderr
    checks = {check["name"]: check["check"] for check in json.loads(done.stdout)["checks"]}
    names = {"bundle-ort-int8-u8-i32"} if options else {"bundle-ort-int8-u8-i32", "bundle-ort-fp32"}
    assert set(checks) == names
    for name, check in checks.items():
        assert check["target"] == "emulated-arm64"
        assert check["latency_ns"] is None
        assert check["device"]["arch"] == "aarch64"
        assert check["requests"] == 50
        assert check["parity"]["agreement"] == 1.0
        # int8: an activation of 3.4999998 steps was rounded to 4 on ARM64 and to 3 on x86, which changed the logits by 0.03.
        # Quantizing changed them by 0.43.
        assert check["parity"]["max_abs_diff"] < (0.1 if "int8" in name else 1e-4)
    refused = start(bundle, "bench", "--precision", "fp32", *QUICK, cwd=tmp_path, python=python)
    assert refused.returncode == 2
    assert "use check, which compares outputs and measures no time" in refused.stderr
    assert refused.stdout == ""


def test_what_tools_leave_in_a_folder_is_not_sent(tmp_path):
    for name in ("engine.py", "sub/more.py", ".hidden", ".mypy_cache/3.11/x.json", "sub/__pycache__/more.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert [name for name, _ in folder_files("kit", tmp_path)] == ["kit/engine.py", "kit/sub/more.py"]

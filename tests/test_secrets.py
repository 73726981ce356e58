"""What is secret is in no file that edgedistill writes, and not printed: keys and tokens in the environment, and a user's SSH key."""

import os
import stat

import pytest

from tests.support import command
from tests.support.sshd import SSHD, Sshd
from tests.support.tiny_onnx import build

SECRETS = {
    "HF_TOKEN": "hf_SECRETSECRETSECRET", "WANDB_API_KEY": "0123456789abcdefSECRETSECRET", "AWS_SECRET_ACCESS_KEY": "SECRET/SECRET+SECRET",
    "HTTPS_PROXY": "http://user:SECRETSECRET@proxy.invalid:8080",
}  # fmt: skip


def files_with(texts, *folders):
    """Return the files below folders that hold one of the texts."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                found += [(path, text) for text in texts if text.encode() in content]
    return found


@pytest.mark.slow
def test_a_run_and_its_reports_have_no_secret_of_the_environment(copied):
    (copied / "runs" / "digits" / "measurements").rename(copied / "old")
    for arguments in (
        ("run", "edgedistill.toml", "--from", "quantize"),
        ("report", "runs/digits"),
        ("card", "runs/digits"),
        ("bundle", "runs/digits", "--target", "ort", "-o", "student.pyz"),
        ("doctor", "edgedistill.toml"),
        ("compare", "runs/digits", "--json"),
    ):
        done = command.edgedistill(*arguments, cwd=copied, **SECRETS)
        assert done.returncode in (0, 3), done.stderr
        assert not [secret for secret in SECRETS.values() if secret in done.stdout + done.stderr]
    assert not files_with(SECRETS.values(), copied)


@pytest.mark.skipif(SSHD is None, reason="sshd is not here; Debian has it in openssh-server")
@pytest.mark.slow
def test_neither_the_host_nor_the_device_keeps_a_secret(tmp_path):
    (tmp_path / "sshd").mkdir()
    device = Sshd(tmp_path / "sshd")
    build(tmp_path / "tiny.onnx")
    key = (device.home / ".ssh" / "id_ed25519").read_text().splitlines()[1]
    quick = ("--processes", 1, "--seconds", 0.1, "--run-dir", "run")
    arguments = ("bench", "tiny.onnx", "--target", "ort", "--device", device.url, *quick)
    old = os.umask(0)  # whatever it is, what lies in the cache of the device is its user's
    try:
        done = command.edgedistill(*arguments, cwd=tmp_path, **device.environment, **SECRETS)
    finally:
        os.umask(old)
        device.close()
    assert done.returncode == 0, done.stderr
    secrets = [key, *SECRETS.values()]
    assert not [secret for secret in secrets if secret in done.stdout + done.stderr]
    assert not files_with(secrets, tmp_path / "run", device.cache)
    assert stat.S_IMODE(device.cache.stat().st_mode) == 0o700

"""The token of the page is in no file that the server writes, and its key is in a folder that only this user reads."""

import asyncio
import json
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from edgedistill.runtime.folder import Run
from edgedistill.serve.offer import offers
from edgedistill.serve.runtime import read_web_kit
from tests.support.serving import Served
from tests.support.uploads import upload_of


def test_the_token_is_in_no_file(
    run: Path, serve: Callable[..., Served], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scratch = Path(shutil.copytree(run, tmp_path / "digits")), tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    served = serve(folder, "--count", "1")
    (link,) = [link for link in served.links if link.startswith("https")]
    token = urlsplit(link).path.strip("/")
    assert [path.stat().st_mode & 0o077 for path in scratch.iterdir()] == [0]
    (key,) = scratch.rglob("key.pem")
    assert key.stat().st_mode & 0o077 == 0
    certificate = ssl.create_default_context(cafile=str(key.with_name("certificate.pem")))
    body = json.dumps(upload_of(offers(Run(folder), read_web_kit())[0]))

    async def send() -> list[int]:
        async with aiohttp.ClientSession() as client:
            statuses = []
            for content in ("{}", body):
                async with client.post(f"{link}api/measurement", data=content, ssl=certificate) as answer:
                    statuses.append(answer.status)
            return statuses

    assert asyncio.run(send()) == [400, 200]
    assert served.wait() == 0
    assert not list(scratch.iterdir())
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.parent.name == "measurements" for path in written)
    assert not [path for path in written if token.encode() in path.read_bytes()]

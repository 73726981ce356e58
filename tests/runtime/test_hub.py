"""Models of the hub: what is asked of a server, what is kept, and what happens without one."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config.model_spec import parse_model_spec
from edgedistill.errors import ConfigError
from edgedistill.models.source import teacher_source
from edgedistill.runtime.files import sha256_of
from edgedistill.runtime.hub import hub_folder
from tests.support.encoders import write_vit
from tests.support.learning import config_of

COMMIT = "5a" * 20


class Hub(ThreadingHTTPServer):
    """A server with one repository, org/vit, whose tag v1 is COMMIT; it keeps the paths that it was asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.files, self.asked, self.hashes = files, list[str](), {}

    def described(self) -> dict[str, Any]:
        siblings = []
        for name, content in self.files.items():
            entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": self.digest(name), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        return {"id": "org/vit", "sha": COMMIT, "siblings": siblings}

    def digest(self, name: str) -> str:
        return self.hashes.get(name, hashlib.sha256(self.files[name]).hexdigest())


class Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)
        if path in (f"/api/models/org/vit/revision/{one}" for one in ("v1", COMMIT)):
            self.answer(json.dumps(self.server.described()).encode(), {"Content-Type": "application/json"})
        elif path.startswith(f"/org/vit/resolve/{COMMIT}/"):
            name = path.partition(f"{COMMIT}/")[2]
            content = self.server.files[name]
            self.answer(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{self.server.digest(name)}"'})
        else:
            code = "RevisionNotFound" if "/revision/" in path and "org/vit" in path else "RepoNotFound"
            self.answer(b"", {"X-Error-Code": code}, 404)

    def answer(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    write_vit(tmp_path / "vit")
    files = {path.name: path.read_bytes() for path in (tmp_path / "vit").iterdir()}
    files |= {"preprocessor_config.json": b'{"do_normalize": false}', "pytorch_model.bin": b"not asked for"}
    with Hub(files) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
        hub_folder.cache_clear()
        yield server
        server.shutdown()


def test_a_tag_is_recorded_and_its_files_are_downloaded_once(hub: Hub, tmp_path: Path) -> None:
    config = config_of(tmp_path, teacher={"model": "hf:org/vit@v1"})
    source = teacher_source(config, 0, sha256_of)
    assert source.encoder is not None
    assert source.weights is not None
    assert (source.encoder.commit, source.weights.sha256) == (COMMIT, hub.digest("model.safetensors"))
    folder = source.encoder.path
    assert folder.name == "vit"
    kept = {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {path.name for path in folder.iterdir() if path.is_file()} == {*kept, "downloaded.json"}
    asked = {path for path in hub.asked if "/resolve/" in path}
    assert asked == {f"/org/vit/resolve/{COMMIT}/{name}" for name in kept}
    hub.asked.clear()
    hub_folder.cache_clear()  # as in another process
    assert hub_folder("org/vit", "v1") == hub_folder("org/vit", COMMIT) == folder
    assert not hub.asked
    (folder / "config.json").write_text("{}")
    hub_folder.cache_clear()
    with pytest.raises(ConfigError, match=r"config\.json is missing or changed since it was downloaded; delete"):
        hub_folder("org/vit", "v1")


def test_what_the_hub_lacks_is_an_error_that_names_it(hub: Hub) -> None:
    with pytest.raises(ConfigError, match=r"hf:org/vit@v2': not downloaded: the repository has no such revision"):
        hub_folder("org/vit", "v2")
    with pytest.raises(ConfigError, match=r"not downloaded: the hub has no such repository, or it is private"):
        hub_folder("org/other", "v1")
    del hub.files["model.safetensors"]
    with pytest.raises(ConfigError, match=r"the repository has no model\.safetensors"):
        hub_folder("org/vit", COMMIT)


def test_a_damaged_file_is_not_kept(hub: Hub) -> None:
    hub.hashes["model.safetensors"] = "0" * 64
    with pytest.raises(ConfigError, match=r"model\.safetensors was damaged on the way"):
        hub_folder("org/vit", COMMIT)
    hub.hashes.clear()
    assert (hub_folder("org/vit", COMMIT) / "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_without_a_network_the_message_has_the_command_for_a_machine_with_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(
        ConfigError, match=r"the hub does not answer .*run: hf download org/vit --revision v1 --local-dir vit"
    ):
        hub_folder("org/vit", "v1")


def test_only_a_name_with_a_revision_is_of_the_hub() -> None:
    assert parse_model_spec("hf:models/b").hub is None
    assert parse_model_spec(f"hf:org/vit@{COMMIT}").hub == ("org/vit", COMMIT)
    for text in ("hf:vit@v1", "hf:org/vit@", "hf:a/b/c@v1"):
        with pytest.raises(ValueError, match="write hf:FOLDER, or hf:ORG/NAME@REVISION with a commit or a tag"):
            parse_model_spec(text)

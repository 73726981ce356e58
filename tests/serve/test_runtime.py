"""The engine's files are the pinned ones, wherever they come from, or nothing of them is used."""

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from edgedistill.errors import ConfigError
from edgedistill.serve.runtime import Runtime, read_web_kit, runtime_folder

CONTENT = {"one.mjs": b"export default 1;", "two.wasm": b"\0asm" * 100}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def package(content: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, inside in (*content.items(), ("../../evil", b"x")):
            about = tarfile.TarInfo(f"package/dist/{name}")
            about.size = len(inside)
            archive.addfile(about, io.BytesIO(inside))
    return made.getvalue()


def wanted(tgz: bytes, url: str) -> Runtime:
    files = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    return Runtime(
        package="engine", version="1.0", url=url, bytes=len(tgz), sha512=hashlib.sha512(tgz).hexdigest(), files=files
    )


def test_it_is_fetched_once_and_kept(cache: Path, tmp_path: Path) -> None:
    tgz = package(CONTENT)
    (tmp_path / "engine.tgz").write_bytes(tgz)
    said: list[str] = []
    runtime = wanted(tgz, (tmp_path / "engine.tgz").as_uri())
    folder = runtime_folder(runtime, (), said.append)
    assert {path.name for path in folder.iterdir()} == {"one.mjs", "one.mjs.gz", "two.wasm", "two.wasm.gz"}
    assert len(said) == 1
    assert f"({len(tgz):,} bytes)" in said[0]
    (tmp_path / "engine.tgz").unlink()
    assert runtime_folder(runtime, (), said.append) == folder
    assert len(said) == 1
    (folder / "one.mjs").write_bytes(b"altered")
    with pytest.raises(ConfigError, match=r"npm pack engine@1\.0"):
        runtime_folder(runtime, (), said.append)


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"steal()"), gzip.compress(CONTENT["one.mjs"])[:-9], None],
    ids=("empty", "other", "changed", "cut", "missing"),
)
def test_a_compressed_copy_that_was_changed_is_made_again(cache: Path, tmp_path: Path, content: bytes | None) -> None:
    """Browsers get the compressed copy, so that it counts as much as the file."""
    (tmp_path / "engine.tgz").write_bytes(package(CONTENT))
    runtime = wanted(package(CONTENT), "https://nowhere.invalid/engine.tgz")
    folder = runtime_folder(runtime, [tmp_path / "engine.tgz"], print)
    copy = folder / "one.mjs.gz"
    copy.unlink()
    if content is not None:
        copy.write_bytes(content)
    with pytest.raises(ConfigError):
        runtime_folder(runtime, [tmp_path / "none.tgz"], print)
    assert runtime_folder(runtime, [tmp_path / "engine.tgz"], print) == folder
    assert gzip.decompress(copy.read_bytes()) == CONTENT["one.mjs"]


def test_another_package_than_the_pinned_one_is_refused(cache: Path, tmp_path: Path) -> None:
    other = package(CONTENT | {"one.mjs": b"steal()"})
    (tmp_path / "engine.tgz").write_bytes(other)
    runtime = wanted(package(CONTENT), (tmp_path / "engine.tgz").as_uri())
    with pytest.raises(ConfigError, match="SHA-512"):
        runtime_folder(runtime, (), print)
    with pytest.raises(ConfigError, match=r"one\.mjs differs from the pinned file"):
        runtime_folder(runtime, [tmp_path / "engine.tgz"], print)
    assert not list(cache.rglob("*.mjs"))


def test_a_users_own_archive(cache: Path, tmp_path: Path) -> None:
    runtime = wanted(package(CONTENT), "https://nowhere.invalid/engine.tgz")
    (tmp_path / "broken.tgz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"broken\.tgz"):
        runtime_folder(runtime, [tmp_path / "broken.tgz"], print)
    (tmp_path / "engine.tgz").write_bytes(package(CONTENT))
    folder = runtime_folder(runtime, [tmp_path / "engine.tgz"], print)
    assert (folder / "two.wasm").read_bytes() == CONTENT["two.wasm"]
    assert not list(tmp_path.rglob("evil"))


def test_a_users_own_folder(cache: Path, tmp_path: Path) -> None:
    runtime = wanted(package(CONTENT), "https://nowhere.invalid/engine.tgz")
    (tmp_path / "module" / "dist").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"has no one\.mjs"):
        runtime_folder(runtime, [tmp_path / "module"], print)
    for name, content in CONTENT.items():
        (tmp_path / "module" / "dist" / name).write_bytes(content)
    folder = runtime_folder(runtime, [tmp_path / "module"], print)
    assert (folder / "one.mjs").read_bytes() == CONTENT["one.mjs"]


def test_the_kit_pins_what_it_names() -> None:
    runtime = read_web_kit().runtime
    assert runtime.url == f"https://registry.npmjs.org/{runtime.package}/-/{runtime.package}-{runtime.version}.tgz"
    assert {len(sha256) for sha256 in runtime.files.values()} == {64}
    assert len(runtime.sha512) == 128

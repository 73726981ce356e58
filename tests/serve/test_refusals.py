"""What the server refuses and survives: it gives out nothing unasked, and loses nothing that it took."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import random
import resource
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from edgedistill.runtime.folder import Run
from edgedistill.serve.app import PAGE
from edgedistill.serve.offer import MOST_UPLOAD_BYTES, Offer, offers
from edgedistill.serve.runtime import read_web_kit
from tests.support.command import edgedistill
from tests.support.memory import resident_bytes
from tests.support.serving import Served
from tests.support.sshd import PATIENCE_S, descendants, wait_until
from tests.support.uploads import upload_of


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "digits"))


@pytest.fixture(scope="module")
def offered(run: Path) -> Offer:
    return offers(Run(run), read_web_kit())[0]


@pytest.fixture
def served(folder: Path, serve: Callable[..., Served]) -> Served:
    return serve(folder, "--http")


def raw(link: str, path: str) -> tuple[int, bytes]:
    """Ask for a path as it is written: clients and browsers would tidy it up first."""
    at = urlsplit(link)
    with socket.create_connection((at.hostname, at.port), PATIENCE_S) as plain:
        plain.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while block := plain.recv(65536):
            answer += block
    return int(answer.split(None, 2)[1]), answer


def test_nothing_without_the_token(served: Served) -> None:
    token = urlsplit(served.links[0]).path.strip("/")
    wrong = (
        "",
        "/",
        "/index.html",
        "/api/run",
        "/favicon.ico",
        f"/{token[:-1]}/",
        f"/{token}x/api/run",
        f"/{token.swapcase()}/",
        "//",
        f"//{token}/",
    )
    for path in wrong:
        status, answer = raw(served.links[0], path or "/")
        assert status in (400, 403), path
        assert b"digits" not in answer
        assert token.encode() not in answer


def test_nothing_else_of_the_disk(served: Served, folder: Path) -> None:
    token = urlsplit(served.links[0]).path.strip("/")
    assert {raw(served.links[0], f"/{token}/{name}")[0] for name in ("", *PAGE)} == {200}
    paths = (
        "../manifest.json", "..%2fmanifest.json", "%2e%2e/%2e%2e/etc/passwd", "models/../../manifest.json", "target.toml",
        "assemble.py", "models/..%2f..%2fmanifest.onnx", "models/student-fp32", "models/io.onnx", "runtime/../target.toml",
        "runtime/..%2f..%2ftarget.toml", "runtime/ort.wasm.bundle.min.mjs.gz", "requests/x.bin", "/etc/passwd", "%00",
        "models/student-fp32.onnx%00", "..\\manifest.json", "pictures/12.png",
        "pictures/999.png", "pictures/-1.png", "masks/0.png", f"../{token}/../../etc/passwd",
    )  # fmt: skip
    for path in paths:
        status, answer = raw(served.links[0], f"/{token}/{path}")
        assert status in (400, 403, 404), path
        assert b"edgedistill.run/1" not in answer
        assert b"root:" not in answer
    status, answer = raw(served.links[0], f"/{token}/models/student-fp32.onnx")
    assert (status, answer.partition(b"\r\n\r\n")[2]) == (200, (folder / "onnx" / "student-fp32.onnx").read_bytes())
    status, answer = raw(served.links[0], f"/{token}/pictures/11.png")
    assert (status, answer.partition(b"\r\n\r\n")[2][:4]) == (200, b"\x89PNG")


def test_every_answer_isolates_the_page(served: Served) -> None:
    token = urlsplit(served.links[0]).path.strip("/")
    for path in (f"/{token}/", f"/{token}/worker.mjs", f"/{token}/api/run", f"/{token}/none", "/"):
        _, answer = raw(served.links[0], path)
        assert b"Cross-Origin-Opener-Policy: same-origin" in answer
        assert b"Cross-Origin-Embedder-Policy: require-corp" in answer
        assert b"Content-Security-Policy: default-src 'none'" in answer


def test_the_engine_is_sent_compressed_to_those_who_take_it(served: Served, runtime: Path) -> None:
    async def fetch(encoding: str) -> tuple[str | None, int, str | None]:
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            link = f"{served.links[0]}runtime/ort-wasm-simd-threaded.wasm"
            async with client.get(link, headers={"Accept-Encoding": encoding}) as answer:
                return answer.headers.get("Content-Encoding"), len(await answer.read()), answer.headers["Content-Type"]

    whole, packed = (runtime / f"ort-wasm-simd-threaded.wasm{end}" for end in ("", ".gz"))
    assert asyncio.run(fetch("gzip, br")) == ("gzip", packed.stat().st_size, "application/wasm")
    assert asyncio.run(fetch("identity")) == (None, whole.stat().st_size, "application/wasm")


async def send(link: str, body: bytes | str, path: str = "api/measurement") -> tuple[int, str]:
    content = io.BytesIO(body if isinstance(body, bytes) else body.encode())
    async with aiohttp.ClientSession() as client, client.post(link + path, data=content) as answer:
        return answer.status, await answer.text()


def test_uploads_that_are_refused(served: Served, folder: Path, offered: Offer) -> None:
    good = upload_of(offered)
    cases = [
        (b"\0" * (MOST_UPLOAD_BYTES + 1), 413, ""),
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (json.dumps(good)[:-1].encode(), 400, "JSON"),
        (json.dumps(good | {"model": "../../etc"}), 400, "model"),
        (json.dumps(good | {"more": 1}), 400, "more"),
        (json.dumps(good | {"threads": "1"}), 400, "threads"),
        (json.dumps(good | {"threads": 2}), 400, "1 threads ran instead of 2"),
        (json.dumps(good | {"processes": []}), 400, "processes"),
        (json.dumps(good | {"outputs": {}}), 400, "outputs"),
        (json.dumps(good | {"outputs": dict.fromkeys(good["outputs"], "AAAA")}), 400, "3 bytes"),
        (json.dumps(good | {"device": good["device"] | {"id": "../../x"}}), 400, "device.id"),
        (json.dumps(good | {"device": good["device"] | {"name": "a\nb"}}), 400, "device.name"),
        (json.dumps(good).replace("200000.0", "NaN"), 400, "latency_ns"),
        (json.dumps(good).replace("200000.0", "-1.0"), 400, "latency_ns"),
        (json.dumps(good).replace("13000000.0", "1000.0"), 400, "wall_ns"),
    ]  # fmt: skip
    for body, status, reason in cases:
        got, said = asyncio.run(send(served.links[0], body))
        assert got == status, said
        assert reason in said
    assert not (folder / "measurements").exists() or not list((folder / "measurements").iterdir())
    assert asyncio.run(send(served.links[0], "[]", "api/progress"))[0] == 400


def test_a_compressed_upload_is_not_decompressed(served: Served) -> None:
    """32 MB of zeros in 32 kB: a server that decompressed them would answer 413."""

    async def send_packed() -> tuple[int, str]:
        body, headers = gzip.compress(bytes(MOST_UPLOAD_BYTES + 1)), {"Content-Encoding": "gzip"}
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{served.links[0]}api/measurement", data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    status, said = asyncio.run(send_packed())
    assert (status, "JSON" in said) == (400, True), said


@pytest.mark.slow
def test_fifty_devices_at_once_and_none_is_lost(served: Served, folder: Path, offered: Offer) -> None:
    link = served.links[0]

    async def device(client: aiohttp.ClientSession, number: int) -> int:
        """Watch, load the model, vanish in the middle of an upload every fifth time, and send."""
        watched = await client.get(f"{link}api/events?device={number:08x}{0:024x}")
        await watched.content.readline()
        async with client.get(f"{link}models/student-fp32.onnx") as model:
            assert len(await model.read()) == offered.summary.bytes
        if number % 5 == 0:
            await asyncio.to_thread(vanish, link)
        body = json.dumps(upload_of(offered, f"{number:08x}{0:024x}"))
        async with client.post(f"{link}api/measurement", data=body) as answer:
            watched.close()
            return answer.status

    async def all_at_once() -> list[int]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            return await asyncio.gather(*(device(client, number) for number in range(50)))

    assert asyncio.run(all_at_once()) == [200] * 50
    names = {path.name for path in (folder / "measurements").iterdir()}
    assert len(names) == 100  # each with its samples, and nothing half written
    assert served.process.poll() is None
    compared = edgedistill("compare", folder, "--json", cwd=folder)
    assert compared.returncode == 0, compared.stderr
    assert len(json.loads(compared.stdout)["groups"]) == 50


def vanish(link: str) -> None:
    at = urlsplit(link)
    with socket.create_connection((at.hostname, at.port), PATIENCE_S) as plain:
        plain.sendall(
            f"POST {at.path}api/measurement HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{{".encode()
        )


def test_wrong_answers_are_kept_and_end_in_exit_code_4(
    folder: Path, serve: Callable[..., Served], offered: Offer
) -> None:
    served = serve(folder, "--http", "--count", "1")
    zeros = {block.name: base64.b64encode(bytes(block.bytes)).decode() for block in offered.summary.requests.outputs}
    status, said = asyncio.run(send(served.links[0], json.dumps(upload_of(offered, outputs=zeros))))
    assert (status, json.loads(said)["holds"]) == (200, False)
    assert served.wait() == 4


@pytest.mark.slow
def test_another_bench_keeps_what_pages_sent_of_the_models_that_are_left(
    run: Path, tmp_path: Path, serve: Callable[..., Served], offered: Offer
) -> None:
    whole = Path(shutil.copytree(run.parents[1], tmp_path / "whole"))
    folder = whole / "runs" / "digits"
    served = serve(folder, "--http", "--count", "1")
    assert asyncio.run(send(served.links[0], json.dumps(upload_of(offered))))[0] == 200
    assert served.wait() == 0
    (found,) = (folder / "measurements").glob("browser-*.json")
    old = json.loads(found.read_text())
    old["model"]["sha256"] = "0" * 64
    gone = found.with_name("browser-old-0-student-fp32-wasm-1t.json")
    gone.write_text(json.dumps(old))
    benched = edgedistill("bench", "edgedistill.toml", cwd=whole)
    assert benched.returncode == 0, benched.stderr
    assert found.exists()
    assert found.with_suffix(".npz").exists()
    assert not gone.exists()
    assert (folder / "measurements" / "local-ort-int8.json").exists()


def test_what_is_no_path_and_another_host_are_refused_and_the_operator_sees_no_traceback(served: Served) -> None:
    at = urlsplit(served.links[0])
    requests = (
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        f"GET {at.path} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode(),
        f"GET {at.path} HTTP/1.1\r\n\r\n".encode(),
        f"POST {at.path}api/measurement HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".encode(),
    )
    for request in requests:
        with socket.create_connection((at.hostname, at.port), PATIENCE_S) as plain:
            plain.sendall(request)
            plain.shutdown(socket.SHUT_WR)
            answer = plain.recv(65536)
        assert answer == b"" or answer.split(None, 2)[1] in (b"400", b"403"), (request, answer)
    assert raw(served.links[0], at.path)[0] == 200
    assert not [line for line in served.said if "Traceback" in line or "Error" in line]


PARTS = (
    b"GET ", b"POST ", b"CONNECT ", b"TRACE ", b"\x00", b" HTTP/1.1\r\n", b" HTTP/9.9\r\n", b" HTTP/1.0\r\n", b"Host: localhost\r\n",
    b"Host: a\r\nHost: b\r\n", b"Content-Length: 10\r\n", b"Content-Length: 10\r\nContent-Length: 11\r\n", b"Content-Length: -1\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: br\r\n", b"Range: bytes=9-1\r\n", b"Range: bytes=0-0,0-0\r\n", b"Cookie: " + b"a=b;" * 3000 + b"\r\n",
    b"X: " + b"y" * 20_000 + b"\r\n", b"If-Modified-Since: never\r\n", b"Content-Type: multipart/form-data; boundary=\r\n", b" folded\r\n",
    b"\xff\xfe: \x80\r\n", b"\r\n", b"\n", b"zz\r\n", b"ffffffffffffffff\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"{", b"%", b"/../", b"?", b"#", b"http://[",
)  # fmt: skip


def test_nothing_that_a_client_sends_shows_a_traceback(served: Served, offered: Offer) -> None:
    """Requests of random parts, cut off anywhere; the seed is fixed."""
    at, rng = urlsplit(served.links[0]), random.Random(7)
    inside = ("", "api/measurement", "api/progress", "api/run", "pictures/1.png")
    paths = [*(f"{at.path}{path}" for path in inside), "*", ""]
    for number in range(400):
        sent = (
            rng.choice((b"GET ", b"POST "))
            + rng.choice(paths).encode()
            + rng.choice((b" HTTP/1.1\r\nHost: localhost\r\n", b""))
        )
        sent += b"".join(rng.choice(PARTS) for _ in range(rng.randrange(8))) + rng.choice((b"\r\n", b""))
        if number % 4 == 0:
            sent = sent[: rng.randrange(len(sent))]
        with (
            socket.create_connection((at.hostname, at.port), PATIENCE_S) as plain,
            contextlib.suppress(ConnectionError),
        ):
            plain.sendall(sent)
            plain.shutdown(socket.SHUT_WR if number % 3 else socket.SHUT_RDWR)
            if number % 3:
                plain.recv(65536)
    assert asyncio.run(send(served.links[0], json.dumps(upload_of(offered))))[0] == 200
    assert served.process.poll() is None
    assert not [line for line in served.said if "Traceback" in line or "Error" in line or "bug" in line], served.said


def test_slow_clients_stop_no_others(served: Served, offered: Offer) -> None:
    """Two hundred clients that begin a request or an upload, and send nothing more."""
    at, slow = urlsplit(served.links[0]), []
    for number in range(200):
        plain = socket.create_connection((at.hostname, at.port), PATIENCE_S)
        upload = f"POST {at.path}api/measurement HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{{"
        plain.sendall(upload.encode() if number % 2 else f"GET {at.path} HTTP/1.1\r\nHost: loc".encode())
        slow.append(plain)
    assert asyncio.run(send(served.links[0], json.dumps(upload_of(offered))))[0] == 200
    assert raw(served.links[0], at.path)[0] == 200
    for plain in slow:
        plain.close()
    assert raw(served.links[0], at.path)[0] == 200
    assert not [line for line in served.said if "Traceback" in line or "Error" in line]


def test_a_latency_of_zero_is_refused(served: Served, offered: Offer) -> None:
    good = json.dumps(upload_of(offered))
    for one in (
        good.replace("200000.0", "0.0"),
        good.replace("200000.0", "0"),
        good.replace('"wall_ns": 13000000.0', '"wall_ns": 0'),
    ):
        status, said = asyncio.run(send(served.links[0], one))
        assert (status, "greater than 0" in said) == (400, True)


def test_names_have_no_characters_that_change_what_a_terminal_shows(served: Served, offered: Offer) -> None:
    good = upload_of(offered)
    for name in ("a\x9bb", "a\u202eb", "a\u2066b", "a\u200fb", "\ufeffa"):
        body = json.dumps(good | {"device": good["device"] | {"name": name}})
        assert asyncio.run(send(served.links[0], body))[0] == 400
        progress = json.dumps({"device": "1", "name": name, "text": "", "fraction": None})
        assert asyncio.run(send(served.links[0], progress, "api/progress"))[0] == 400


def test_a_measurement_that_cannot_be_written_is_no_bug_and_can_be_sent_again(
    served: Served, folder: Path, offered: Offer
) -> None:
    """A limit of the size of files stands for a full disk, which the server meets; the process that reads uploads meets a file."""
    body = json.dumps(upload_of(offered))
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    full = asyncio.run(send(served.links[0], body))
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (folder / "measurements").write_text("")
    blocked = asyncio.run(send(served.links[0], body))
    (folder / "measurements").unlink()
    for (status, said), reason in ((full, "file too large; free some space"), (blocked, "File exists")):
        assert (status, reason in said, said.count("\n")) == (503, True, 1), said
        wait_until(lambda said=said: f"a measurement was not kept: {said.rstrip()}" in served.said)
    assert not any("bug" in line for line in served.said)
    assert asyncio.run(send(served.links[0], body))[0] == 200


@pytest.mark.slow
def test_large_uploads_of_many_clients_take_little_memory_and_stop_no_other(served: Served, offered: Offer) -> None:
    """Twenty bodies of 24 MB: some wait, some are asked to come again, and the page answers meanwhile."""
    link, process = served.links[0], served.process.pid

    async def large(client: aiohttp.ClientSession) -> int:
        body = b"[" + b"1.5," * (MOST_UPLOAD_BYTES // 4 - 1)
        async with client.post(f"{link}api/measurement", data=io.BytesIO(body)) as answer:
            return answer.status

    async def others(client: aiohttp.ClientSession) -> list[float]:
        """Return the seconds that each answer to another client took."""
        seconds = []
        for _ in range(20):
            begun = time.monotonic()
            async with client.get(f"{link}api/run") as answer:
                assert answer.status == 200
            seconds.append(time.monotonic() - begun)
            await asyncio.sleep(0.05)
        return seconds

    async def all_at_once() -> tuple[list[int], list[float]]:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
            statuses = [large(client) for _ in range(20)]
            *found, seconds = await asyncio.gather(*statuses, others(client))
            return found, seconds

    found, seconds = asyncio.run(all_at_once())
    assert set(found) <= {400, 503}
    peaks = {one: resident_bytes("VmHWM", one) / 1e6 for one in (process, *descendants(process))}
    peak_mb = sum(peaks.values())
    print(
        f"peak memory {peak_mb:.0f} MB in {len(peaks)} processes; the slowest of 20 other answers took {max(seconds):.2f} s"
    )
    assert peak_mb < 700  # the server's own modules take a third of it
    body = json.dumps(upload_of(offered))
    assert asyncio.run(send(link, body))[0] == 200

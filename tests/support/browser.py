"""A real Chromium, without a window, driven through the DevTools protocol over a web socket."""

import asyncio
import base64
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
START_S = 300
END_S = 30


class Page:
    """One tab; `problems` are the errors that its console was told."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._waiting: dict[int, asyncio.Future] = {}
        self.session: str | None = None
        self.problems: list[str] = []
        self.received_bytes = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                self.problems.append(
                    told["params"]["exceptionDetails"].get("text", "")
                    + str(told["params"]["exceptionDetails"].get("exception", {}).get("description"))
                )
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.problems.append(f"{told['params']['entry']['text']} {told['params']['entry'].get('url', '')}")
            elif told["method"] == "Network.loadingFinished":
                self.received_bytes += int(told["params"]["encodedDataLength"])

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        self._waiting[number] = asyncio.get_running_loop().create_future()
        body = {"id": number, "method": method, "params": params} | (
            {"sessionId": self.session} if self.session else {}
        )
        await self._socket.send_str(json.dumps(body))
        told = await asyncio.wait_for(self._waiting[number], START_S)
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        return told["result"]

    async def evaluate(self, script: str) -> Any:
        told = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in told:
            raise RuntimeError(str(told["exceptionDetails"]))
        return told["result"].get("value")

    async def until(self, script: str, seconds: float = 600) -> Any:
        """Wait until a script's value is true."""
        deadline = asyncio.get_running_loop().time() + seconds
        while not (value := await self.evaluate(script)):
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(
                    f"{script}: not within {seconds} s; the page says: {await self.evaluate('document.body.innerText')}"
                )
            await asyncio.sleep(0.1)
        return value

    async def open(self, link: str) -> None:
        await self.call("Page.navigate", url=link)

    async def screen(self, width: int, *, dark: bool = False, height: int = 844) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if width < 600 else 1,
            mobile=width < 600,
        )
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    async def picture(self, path: Path) -> None:
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(told["data"]))


@asynccontextmanager
async def chromium(*options: str) -> AsyncIterator[Page]:
    """Start a browser with a profile of its own, and yield a tab of it."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            CHROMIUM, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={profile}",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", *options, "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, env=os.environ | {"HOME": profile}, start_new_session=True,
        )  # fmt: skip
        try:
            address = await _address(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as client, client.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                target = (await page.call("Target.createTarget", url="about:blank"))["targetId"]
                page.session = (await page.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Ask a browser to end; kill one that does not."""
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), END_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _address(told: Path) -> str:
    for _ in range(10 * START_S):
        if told.exists() and len(lines := told.read_text().splitlines()) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        await asyncio.sleep(0.1)
    raise TimeoutError("the browser did not start")


class FirefoxPage:
    """One tab of Firefox, through WebDriver BiDi, which it speaks without a driver."""

    until = Page.until

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.context = ""

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            told = json.loads((await self._socket.receive(START_S)).data)
            if told.get("id") == self._number:
                break
        if told["type"] == "error":
            raise RuntimeError(f"{method}: {told['error']} {told['message']}")
        return told["result"]

    async def evaluate(self, script: str) -> Any:
        told = await self.call(
            "script.evaluate",
            expression=f"JSON.stringify({script})",
            target={"context": self.context},
            awaitPromise=True,
        )
        if told["type"] != "success":
            raise RuntimeError(str(told))
        text = told["result"].get("value")
        return None if text is None else json.loads(text)

    async def open(self, link: str) -> None:
        await self.call("browsingContext.navigate", context=self.context, url=link, wait="complete")


@asynccontextmanager
async def firefox() -> AsyncIterator[FirefoxPage]:
    """Start Firefox with a profile of its own that goes past a certificate's warning, and yield its tab."""
    assert FIREFOX is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=os.environ | {"HOME": profile},
        )  # fmt: skip
        address_of = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(_read_messages(process, address_of))
        try:
            address = await asyncio.wait_for(address_of, START_S)
            async with (
                aiohttp.ClientSession() as client,
                client.ws_connect(f"{address}/session", max_msg_size=0) as socket,
            ):
                page = FirefoxPage(socket)
                await page.call("session.new", capabilities={"alwaysMatch": {"acceptInsecureCerts": True}})
                page.context = (await page.call("browsingContext.getTree"))["contexts"][0]["context"]
                yield page
        finally:
            await _end(process)
            reading.cancel()


async def _read_messages(process: asyncio.subprocess.Process, address: asyncio.Future[str]) -> None:
    """Set the address when Firefox prints it, and read on: a program whose messages nobody reads stops."""
    assert process.stderr is not None
    while line := (await process.stderr.readline()).decode():
        if "WebDriver BiDi listening on " in line and not address.done():
            address.set_result(line.rpartition(" ")[2].strip())
    if not address.done():
        address.set_exception(RuntimeError("Firefox ended before it listened"))

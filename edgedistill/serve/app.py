"""The web application: serves the page and the models of a run, and receives measurements, all below a secret path."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from edgedistill.records.measurement import Measurement
from edgedistill.runtime.failures import failure_of
from edgedistill.serve.board import Board, Progress
from edgedistill.serve.links import is_this_machine
from edgedistill.serve.offer import Offer
from edgedistill.serve.pictures import Sample, as_png
from edgedistill.serve.reception import RETRY_S, Destination, UploadQueue
from edgedistill.serve.runtime import WebKit, page_folder
from edgedistill.serve.texts import Texts
from edgedistill.serve.upload import UploadError
from edgedistill.serve.visits import Visits

PAGE = (
    "index.html", "style.css", "page.mjs", "measure.mjs", "turns.mjs", "fresh.mjs", "worker.mjs", "parity.mjs", "stats.mjs",
    "constants.mjs", "plot.mjs", "device.mjs", "null.onnx", "downloads.mjs", "try.mjs", "live.mjs", "sources.mjs", "show.mjs", "draw.mjs", "frames.mjs",
    "tokens.mjs", "try_texts.mjs",
    "picture.mjs", "answers.mjs", "detections.mjs", "maps.mjs",
)  # fmt: skip
"""The files of the page; no other file of its folder is served."""

HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    "style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm", ".onnx": "application/octet-stream", ".json": "application/json",
}  # fmt: skip
MOST_PROGRESS_BYTES = 4096
MOST_WATCHERS = 256
KEEPALIVE_S = 15.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Site:
    """The served content: a run's models, a few test pictures or texts, the folders of runtimes, and a callback for each measurement."""

    run_folder: Path
    kit: WebKit
    offers: tuple[Offer, ...]
    samples: tuple[Sample, ...]
    texts: Texts | None
    runtimes: tuple[Path, ...]
    token: str
    visits: Visits
    notify: Callable[[str, Measurement | None], None]


class Server:
    """The handlers of one site."""

    def __init__(self, site: Site, folder: Path, hosts: frozenset[str]) -> None:
        """Take uploads into a folder, and answer requests to some names of this machine only."""
        self.site, self._hosts = site, hosts
        self.board = Board(site.run_folder)
        self._uploads = UploadQueue(Destination(site.run_folder, site.kit, site.offers), folder)
        self._watching = 0

    def application(self) -> web.Application:
        """Return the application; every path starts with the token."""
        guarded = web.Application(client_max_size=MOST_PROGRESS_BYTES, middlewares=[self._guard])
        root = f"/{self.site.token}"
        guarded.add_routes([
            web.get(f"{root}/", self._page),
            web.get(f"{root}/{{name}}", self._page),
            web.get(f"{root}/runtime/{{name}}", self._runtime),
            web.get(f"{root}/models/{{key}}.onnx", self._model),
            web.get(f"{root}/requests/{{key}}.bin", self._requests),
            web.get(f"{root}/tokenizer.json", self._tokenizer),
            web.get(f"{root}/vectors/{{key}}.bin", self._vectors),
            web.get(f"{root}/pictures/{{number:[0-9][0-9]?}}.png", self._picture),
            web.get(f"{root}/masks/{{number:[0-9][0-9]?}}.png", self._mask),
            web.get(f"{root}/api/run", self._run),
            web.get(f"{root}/api/events", self._events),
            web.post(f"{root}/api/progress", self._progress),
            web.post(f"{root}/api/measurement", self._measurement),
        ])  # fmt: skip
        return guarded

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request to another host or without the token before anything else, and add the headers to every response."""
        try:
            self._require_link(request)
            response = await handler(request)
        except web.HTTPException as error:
            error.headers.update(HEADERS)
            raise
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - a request ends no server, and shows no traceback
            self.site.notify(f"a request failed, which is a bug in edgedistill: {type(error).__name__}: {error}", None)
            raise web.HTTPInternalServerError(headers=HEADERS) from None
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    def _require_link(self, request: web.Request) -> None:
        """Raise an HTTP error for what is no path, for a name that is not this machine's, and without the token."""
        if not request.path.startswith("/"):
            raise web.HTTPBadRequest(text="not a path\n")
        if not is_this_machine(request.host, self._hosts):
            raise web.HTTPBadRequest(text="another host; open the link that 'edgedistill serve' printed\n")
        given = request.path.split("/", 2)[1]
        if not secrets.compare_digest(given.encode(), self.site.token.encode()):
            raise web.HTTPForbidden(text="wrong link; open the link that 'edgedistill serve' printed\n")

    def close(self) -> None:
        """Let the process that reads uploads end."""
        self._uploads.close()

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("name", "index.html")
        if name not in PAGE:
            raise web.HTTPNotFound
        return _file(page_folder() / name, "no-cache")

    async def _runtime(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        for runtime, folder in zip((self.site.kit.runtime, self.site.kit.tokenizer), self.site.runtimes, strict=False):
            if name in runtime.files:
                return _file(folder / name, "private, max-age=604800, immutable")
        raise web.HTTPNotFound

    async def _tokenizer(self, _request: web.Request) -> web.StreamResponse:
        if self.site.texts is None:
            raise web.HTTPNotFound
        return _file(self.site.texts.tokenizer, "no-cache")

    async def _vectors(self, request: web.Request) -> web.StreamResponse:
        vectors = {} if self.site.texts is None else self.site.texts.vectors
        if request.match_info["key"] not in vectors:
            raise web.HTTPNotFound
        return web.Response(body=vectors[request.match_info["key"]], content_type="application/octet-stream")

    async def _model(self, request: web.Request) -> web.StreamResponse:
        return _file(self._offer(request).path, "no-cache")

    async def _requests(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._offer(request).requests, content_type="application/octet-stream")

    def _offer(self, request: web.Request) -> Offer:
        offer = next((one for one in self.site.offers if one.summary.key == request.match_info["key"]), None)
        if offer is None:
            raise web.HTTPNotFound
        return offer

    async def _picture(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=as_png(self._sample(request).pixels), content_type="image/png")

    async def _mask(self, request: web.Request) -> web.StreamResponse:
        mask = self._sample(request).mask
        if mask is None:
            raise web.HTTPNotFound
        return web.Response(body=as_png(mask), content_type="image/png")

    def _sample(self, request: web.Request) -> Sample:
        number = int(request.match_info["number"])
        if number >= len(self.site.samples):
            raise web.HTTPNotFound
        return self.site.samples[number]

    async def _run(self, _request: web.Request) -> web.Response:
        runtime = self.site.kit.runtime
        return web.json_response({
            "run": self.site.run_folder.resolve().name, "runtime": f"{runtime.package} {runtime.version}",
            "models": [one.summary.model_dump(mode="json", by_alias=True) for one in self.site.offers],
            "pictures": [one.label.model_dump(mode="json") for one in self.site.samples],
            "texts": [] if self.site.texts is None else [one.model_dump(mode="json") for one in self.site.texts.shown],
        })  # fmt: skip

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the state whenever it changes, until the page is closed."""
        if self._watching >= MOST_WATCHERS:
            raise web.HTTPServiceUnavailable(text="too many pages are open; close some\n")
        device = request.query.get("device", "")[:64]
        response = web.StreamResponse(
            headers=HEADERS | {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        self._watching += 1
        self.board.enter(device)
        self.site.visits.entered(device)
        try:
            while True:
                await response.write(f"data: {self.board.state.model_dump_json()}\n\n".encode())
                try:
                    await asyncio.wait_for(self.board.change(), KEEPALIVE_S)
                except asyncio.TimeoutError:
                    continue
        except (ConnectionError, asyncio.CancelledError):
            return response
        finally:
            self._watching -= 1
            if self.board.leave(device):
                self.site.visits.left(device)

    async def _progress(self, request: web.Request) -> web.Response:
        try:
            progress = Progress.model_validate_json(await request.read())
        except ValidationError as error:
            raise web.HTTPBadRequest(text=f"{error.errors(include_input=False)[0]['msg']}\n") from None
        self.board.progress(progress)
        self.site.visits.progress(progress.device, progress.text)
        return web.Response(status=204)

    async def _measurement(self, request: web.Request) -> web.Response:
        try:
            measurement, offer = await self._uploads.receive(request.content)
        except UploadError as error:
            self.site.notify(f"an upload was refused: {error}", None)
            raise web.HTTPBadRequest(text=f"{error}\n") from None
        except ConnectionError:
            raise
        except (OSError, RuntimeError) as error:
            raise self._lost(error) from None
        self.board.reread()
        self.site.notify(f"{measurement.target}: {offer.summary.key}", measurement)
        self.site.visits.sent(measurement.device.id)
        return web.json_response(_answer(measurement, offer))

    def _lost(self, error: OSError | RuntimeError) -> web.HTTPException:
        """Report a measurement that was not kept; return an answer that lets the page send it again if the failure is the machine's."""
        error.__cause__ = None  # the traceback in the process that reads uploads, as text
        failure = failure_of(error)
        if failure is None and isinstance(error, RuntimeError):
            self.site.notify(f"a measurement was lost: {error}", None)
            return web.HTTPInternalServerError(text=f"{error}\n")
        reason = failure or error
        self.site.notify(f"a measurement was not kept: {reason}", None)
        return web.HTTPServiceUnavailable(text=f"{reason}\n", headers={"Retry-After": str(RETRY_S)})


def _answer(m: Measurement, offer: Offer) -> dict[str, Any]:
    parity = None if m.parity is None else m.parity.model_dump()
    return {
        "latency_ns": m.latency_ns.model_dump(), "parity": parity, "n_processes": len(m.processes),
        "holds": m.parity is not None and m.parity.holds(offer.summary.min_agreement),
        "accuracy": None if m.accuracy is None else m.accuracy.model_dump(), "reasons": m.reasons,
    }  # fmt: skip


def _file(path: Path, caching: str) -> web.FileResponse:
    """Serve a file; aiohttp sends the gzipped copy beside it to browsers that accept it."""
    return web.FileResponse(path, headers={"Content-Type": TYPES[path.suffix], "Cache-Control": caching})

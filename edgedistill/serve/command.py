"""The command: find what a run offers, open the doors, print the links, and wait."""

from __future__ import annotations

import asyncio
import secrets
import signal
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError, ParityError
from edgedistill.records.measurement import Measurement
from edgedistill.runtime.folder import Run
from edgedistill.runtime.progress import Reporter
from edgedistill.serve.app import Server, Site
from edgedistill.serve.certificate import server_context
from edgedistill.serve.links import lan_address, name_of, qr_code
from edgedistill.serve.offer import offers
from edgedistill.serve.runtime import read_web_kit, runtime_folder

TOKEN_BYTES = 16
SHUTDOWN_S = 2.0
LAST_WORDS_S = 0.5
"""Until pages have heard that what they sent was taken."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: `host` is the address to listen at, None for all of the local network; `count` ends it."""

    host: str | None = None
    port: int = 0
    http: bool = False
    runtime: Path | None = None
    count: int | None = None
    encodings: tuple[str, ...] = ()


@dataclass(slots=True)
class Visit:
    """What came in so far, and when it is enough."""

    report: Reporter
    count: int | None
    enough: asyncio.Event = field(default_factory=asyncio.Event)
    kept: int = 0
    disagreeing: list[str] = field(default_factory=list)

    def tell(self, text: str, measurement: Measurement | None) -> None:
        """Say what a page sent, and stop at the last one that was asked for."""
        if measurement is None:
            self.report.line(text)
            return
        self.report.line(f"{text}: {_figures(measurement)}")
        self.kept += 1
        if (
            measurement.parity is not None
            and measurement.parity.agreement < MIN_AGREEMENT[measurement.precision.requested]
        ):
            self.disagreeing.append(f"{text} agrees with the recorded answers on {measurement.parity.agreement:.1%}")
        if self.count is not None and self.kept >= self.count:
            self.enough.set()


def serve(run_folder: Path, request: Request, report: Reporter) -> None:
    """Serve a run's page until Ctrl-C, or until `count` measurements came in.

    Raises ParityError at the end when a device's answers were not those that were recorded.
    """
    if not (run_folder / "manifest.json").is_file():
        raise ConfigError(f"{run_folder}: not a run folder; it has no manifest.json")
    kit = read_web_kit()
    found = offers(Run(run_folder), kit, request.encodings)
    runtime = runtime_folder(kit.runtime, request.runtime, report.line)
    visit = Visit(report, request.count)
    site = Site(run_folder, kit, found, runtime, secrets.token_urlsafe(TOKEN_BYTES), visit.tell)
    asyncio.run(_serve(site, request, visit))
    report.line(f"{visit.kept} measurements in {run_folder / 'measurements'}; next: edgedistill compare {run_folder}")
    if visit.disagreeing:
        raise ParityError("\n".join(visit.disagreeing))


async def _serve(site: Site, request: Request, visit: Visit) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, visit.enough.set)
    with tempfile.TemporaryDirectory() as folder:
        async with _listening(Server(site), request, Path(folder)) as links:
            _print_links(links, visit.report)
            await visit.enough.wait()
            await asyncio.sleep(LAST_WORDS_S if visit.kept else 0)


@asynccontextmanager
async def _listening(server: Server, request: Request, folder: Path) -> AsyncIterator[list[str]]:
    """Open a door to the network, by HTTPS unless told otherwise, and a plain one to this machine alone."""
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    host = request.host or lan_address() or "localhost"
    names = tuple(dict.fromkeys((name_of(host), "localhost", "127.0.0.1")))
    context = None if request.http else server_context(folder, names)
    try:
        links = [await _open(runner, host, request.port, context)]
        links.append(await _open(runner, "localhost", 0, None))
        yield [f"{link}/{server.site.token}/" for link in links]
    finally:
        await runner.cleanup()


async def _open(runner: web.AppRunner, host: str, port: int, context: ssl.SSLContext | None) -> str:
    """Open a door, and return the link to it."""
    at = "127.0.0.1" if host == "localhost" else host
    open_before = list(runner.addresses)
    try:
        await web.TCPSite(runner, at, port, ssl_context=context).start()
    except OSError as error:
        raise ConfigError(f"{at}, port {port}: {error.strerror}; choose others with --host and --port") from None
    chosen = next(address for address in runner.addresses if address not in open_before)[1]
    name = name_of(host)
    return f"http{'s' if context else ''}://{f'[{name}]' if ':' in name else name}:{chosen}"


def _print_links(links: list[str], report: Reporter) -> None:
    outer, inner = links
    if sys.stdout.isatty():
        print(qr_code(outer), flush=True)
    print(outer, flush=True)
    if outer.startswith("https"):
        report.line("On a phone in this network: the certificate is our own, so its browser warns once; go on past it. "
                    "Then the page has threads, and a fine timer.")  # fmt: skip
    else:
        report.line(
            "On a phone in this network, by plain HTTP, which others in it can read: one thread only, no WebGPU, and a timer "
            "of about 100 us."
        )
    report.line(f"On this machine: {inner}")
    port = urlsplit(inner).port
    report.line(
        f"On a phone at a cable, without a warning: adb reverse tcp:{port} tcp:{port}, then open that link there."
    )
    report.line("Anyone with a link can send measurements to this run. Ctrl-C ends it.")


def _figures(m: Measurement) -> str:
    low = f"p50 {m.latency_ns.p50 / 1e6:.3g} ms"
    agreement = "" if m.parity is None else f", agrees with the recorded answers on {m.parity.agreement:.1%}"
    return f"{low} over {m.latency_ns.n:,} inferences in {len(m.processes)} workers{agreement}"

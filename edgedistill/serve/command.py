"""Serve a run: find its models, start the server, print the links, and wait."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from edgedistill.compare.formatting import duration
from edgedistill.deploy.stage import MIN_AGREEMENT
from edgedistill.errors import ConfigError, ParityError
from edgedistill.records.measurement import Latency, Measurement
from edgedistill.records.stages import ExportRecord
from edgedistill.runtime.folder import Run, require_record, require_tokenizer
from edgedistill.runtime.progress import Reporter
from edgedistill.runtime.scratch import scratch_folder
from edgedistill.runtime.signals import ENDING
from edgedistill.serve.app import Server, Site
from edgedistill.serve.certificate import server_context
from edgedistill.serve.links import lan_address, name_of, qr_code
from edgedistill.serve.offer import Offer, link, linked, offers
from edgedistill.serve.pictures import Sample, samples_of
from edgedistill.serve.runtime import read_web_kit, runtime_folder
from edgedistill.serve.texts import texts_of
from edgedistill.serve.visits import Visits

TOKEN_BYTES = 16
SHUTDOWN_S = 2.0
LAST_WORDS_S = 0.5
"""Time for pages to receive the response to their last upload."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of the server: it listens on `host`, None for the local network, and stops after `count` devices are done."""

    host: str | None = None
    port: int = 0
    http: bool = False
    runtime: tuple[Path, ...] = ()
    count: int | None = None
    encodings: tuple[str, ...] = ()


@dataclass(slots=True)
class Reception:
    """The measurements received so far, and an event that ends the server."""

    report: Reporter
    done: asyncio.Event = field(default_factory=asyncio.Event)
    kept: int = 0
    disagreeing: list[str] = field(default_factory=list)

    def notify(self, text: str, measurement: Measurement | None) -> None:
        """Report an upload."""
        if measurement is None:
            self.report.info(text)
            return
        self.report.info(f"{text}: {_describe(measurement)}")
        self.kept += 1
        if measurement.parity is not None and not measurement.parity.holds(
            MIN_AGREEMENT[measurement.precision.requested]
        ):
            self.disagreeing.append(f"{text} agrees with the recorded outputs on {measurement.parity.agreement:.1%}")


def serve(run_folder: Path, options: ServeOptions, report: Reporter) -> None:
    """Serve a run's page until Ctrl-C, or until `count` devices have sent measurements and no device is measuring.

    Raises ParityError at the end when the outputs of a device did not agree with the recorded outputs.
    """
    if not (run_folder / "manifest.json").is_file():
        raise ConfigError(
            f"{run_folder}: not a run folder: it has no manifest.json; 'edgedistill run CONFIG' makes one"
        )
    reception = Reception(report)
    with scratch_folder() as folder:
        site = _site(run_folder, options, reception, folder)
        asyncio.run(_serve(site, options, reception, folder))
    report.info(
        f"{reception.kept} measurements of {_devices(len(site.visits.measured))} in {run_folder / 'measurements'}; next: "
        f"edgedistill compare {run_folder}"
    )
    if reception.disagreeing:
        raise ParityError("\n".join(reception.disagreeing))


def _site(run_folder: Path, options: ServeOptions, reception: Reception, folder: Path) -> Site:
    """Return what a run serves: its files as they are now, linked into `folder`."""
    kit, run, report = read_web_kit(), Run(run_folder), reception.report
    models = tuple(linked(offer, folder) for offer in offers(run, kit, options.encodings))
    folders = [runtime_folder(kit.runtime, options.runtime, report.info)]
    tokenizers = (require_tokenizer(run, model) for model in require_record(run, ExportRecord).models)
    tokenizer = next((path for path in tokenizers if path is not None), None)
    if tokenizer is not None:
        folders.append(runtime_folder(kit.tokenizer, options.runtime, report.info))
    return Site(
        run_folder, kit, models, _samples(models), None if tokenizer is None else texts_of(models, link(tokenizer, folder)),
        tuple(folders), secrets.token_urlsafe(TOKEN_BYTES), Visits(options.count, reception.done.set), reception.notify,
    )  # fmt: skip


def _devices(count: int) -> str:
    return f"{count} device{'' if count == 1 else 's'}"


def _samples(models: tuple[Offer, ...]) -> tuple[Sample, ...]:
    """Return test pictures for the first model that takes pictures; the forms of a student share them."""
    found = ((model.io, model.summary.contract) for model in models)
    return next((made for io, contract in found if contract is not None and (made := samples_of(io, contract))), ())


async def _serve(site: Site, options: ServeOptions, reception: Reception, folder: Path) -> None:
    for number in (signal.SIGINT, *ENDING):
        asyncio.get_running_loop().add_signal_handler(number, reception.done.set)
    async with _listening(site, options, folder) as links:
        _print_links(links, reception.report)
        await reception.done.wait()
        await asyncio.sleep(LAST_WORDS_S if reception.kept else 0)


@asynccontextmanager
async def _listening(site: Site, options: ServeOptions, folder: Path) -> AsyncIterator[list[str]]:
    """Listen on the network, by HTTPS unless `http` is set, and by HTTP on this machine only."""
    host = options.host or lan_address() or "localhost"
    names = tuple(dict.fromkeys((name_of(host), "localhost", "127.0.0.1")))
    server = Server(site, folder, frozenset(name.lower() for name in names))
    # Bodies are not decompressed: a small one could declare gigabytes, and pages send none.
    runner = web.AppRunner(
        server.application(), access_log=None, shutdown_timeout=SHUTDOWN_S, logger=_quiet(), auto_decompress=False
    )
    await runner.setup()
    context = None if options.http else server_context(folder, names)
    try:
        links = [await _open(runner, host, options.port, context)]
        links.append(await _open(runner, "localhost", 0, None))
        yield [f"{link}/{site.token}/" for link in links]
    finally:
        await runner.cleanup()
        server.close()


def _quiet() -> logging.Logger:
    """Return a logger for what clients send wrongly, which only --verbose shows; errors of connections go there too."""
    log = logging.getLogger(__name__)
    log.propagate = log.isEnabledFor(logging.DEBUG)
    log.addHandler(logging.NullHandler())
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: log.debug("%s", context.get("message")))
    return log


async def _open(runner: web.AppRunner, host: str, port: int, context: ssl.SSLContext | None) -> str:
    """Listen on an address, and return its URL."""
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
        report.info("On a phone in this network: the browser warns once, because the certificate is self-signed; continue anyway. "
                    "HTTPS gives the page threads and a precise timer.")  # fmt: skip
    else:
        report.info(
            "On a phone in this network: plain HTTP is readable by others in the network, and limits the page to one thread, "
            "no WebGPU, and a timer resolution of about 100 us."
        )
    report.info(f"On this machine: {inner}")
    port = urlsplit(inner).port
    report.info(
        f"On a phone connected by USB, without a warning: run adb reverse tcp:{port} tcp:{port}, then open the same link."
    )
    report.info("Anyone with a link can add measurements to this run. Press Ctrl-C to stop.")


def _describe(m: Measurement) -> str:
    agreement = (
        ""
        if m.parity is None or m.parity.agreement is None
        else f", agrees with the recorded outputs on {m.parity.agreement:.1%}"
    )
    return f"{_p50(m.latency_ns)} over {m.latency_ns.n:,} inferences in {len(m.processes)} workers{agreement}"


def _p50(latency: Latency) -> str:
    measured = f"p50 {duration(latency.p50)}"
    if latency.undisturbed is None:
        return measured
    fast = latency.undisturbed
    return f"p50 {duration(fast.p50)}, undisturbed {fast.share:.0%} of the time; {measured} as measured"

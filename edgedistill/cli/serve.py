"""The command that gives a run's models to browsers; only click is imported, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import FILE, surroundings


@click.command()
@click.argument("run_folder", metavar="RUN", type=FILE)
@click.option("--host", metavar="ADDRESS", help="Where to listen; by default this machine's address in its network.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; by default any that is free.")
@click.option(
    "--http", is_flag=True, help="Plain HTTP: no warning on the phone, but one thread, no WebGPU, a coarse timer."
)
@click.option("--runtime", type=FILE, metavar="PATH",
              help="onnxruntime-web from npm, a .tgz or a folder, where there is no network; otherwise fetched once.")  # fmt: skip
@click.option("--encoding", "encodings", multiple=True, metavar="FORM",
              help="Give int8 in this form, e.g. s8-i32; may be given several times, to measure which is the fastest.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N measurements; by default at Ctrl-C.")
@click.pass_context
def serve(context: click.Context, /, run_folder: Path, **options: Any) -> None:
    """Let phones measure RUN's models in their browsers: scan the QR code. The figures join the run.

    The link holds a secret; nothing is given out, or taken, without it. Exit code 4: a device's answers were wrong.
    """
    from edgedistill.serve.command import Request, serve

    _, report = surroundings(context)
    serve(run_folder, Request(**options), report)

"""The command `serve`; heavy imports wait until it runs, so that `--help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgedistill.cli.options import FILE, Command, option, surroundings


@click.command(cls=Command)
@click.argument("run_folder", metavar="RUN", type=FILE)
@option(
    "--host",
    metavar="ADDRESS",
    help="The address to listen on.  [default: this machine's address in the local network]",
)
@option("--port", metavar="N", type=click.IntRange(0, 65535), default=0, help="The port.  [default: any free port]")
@option(
    "--http", is_flag=True, help="Use plain HTTP: no certificate warning, but one thread, no WebGPU and a coarse timer."
)
@option("--runtime", type=FILE, multiple=True, metavar="PATH",
              help="Without a network: a .tgz file or the folder of onnxruntime-web from npm, and for texts of @huggingface/tokenizers. "
              "Repeatable.  [default: downloaded once]")  # fmt: skip
@option("--encoding", "encodings", multiple=True, metavar="FORM",
              help="Serve int8 in this encoding, e.g. s8-i32. Repeat to compare encodings.")  # fmt: skip
@option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    help="Stop when N devices have finished and no other device is measuring.  [default: at Ctrl-C]",
)
@click.pass_context
def serve(context: click.Context, /, run_folder: Path, **options: Any) -> None:
    """Serve a page that measures the models of RUN in the browser of a phone.

    Prints a QR code for the phone, and stores the results in RUN. The link contains a secret that every request needs. Exit code 4: a device computed wrong
    outputs.
    """
    from edgedistill.serve.command import ServeOptions, serve

    _, report = surroundings(context)
    serve(run_folder, ServeOptions(**options), report)

"""Links to the page: the network address of this machine, and a QR code for the terminal."""

from __future__ import annotations

import io
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

OUTSIDE = "192.0.2.1"
"""An address reserved for documentation (RFC 5737); connecting a UDP socket to it sends nothing."""


EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened at


def lan_address() -> str | None:
    """Return the address of this machine in the local network; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((OUTSIDE, 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if address.startswith(("127.", "0.")) else address


def name_of(host: str) -> str:
    """Return the host name for links to a listening address; for all addresses, the one in the local network."""
    return lan_address() or "localhost" if host in EVERYWHERE else host


def is_this_machine(host: str, names: Collection[str]) -> bool:
    """Return whether the Host of a request is an address, one of `names`, or the name of this machine in its network.

    Another name would be that of a foreign page whose address was changed to this machine's (DNS rebinding).
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:  # brackets without an address
        return False
    own = socket.gethostname().lower()
    if name in names or name in (own, f"{own.partition('.')[0]}.local"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def qr_code(link: str) -> str:
    """Draw a link as a QR code of half-block characters, as small as a terminal can show it."""
    import segno

    drawn = io.StringIO()
    segno.make(link, error="l", micro=False).terminal(out=drawn, border=2, compact=True)
    return drawn.getvalue()

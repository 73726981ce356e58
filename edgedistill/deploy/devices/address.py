"""Device addresses: "local", or a URL."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from edgedistill.errors import ConfigError
from edgedistill.records.base import Record

OPTIONS = {"ssh": "python", "adb": "runner"}
"""The query option of each URL scheme."""
SERIAL = re.compile(r"[A-Za-z0-9._:\[\]-]+")
FORMS = "'local', 'ssh://user@host:port' or 'adb://serial'"


class Address(Record):
    """The address of a device; `text` is what the user wrote, `python` the interpreter on the device that has the engine.

    For adb, `host` is the serial number, and `runner` the folder on the host with the runner for phones.
    """

    text: str
    scheme: str
    user: str | None = None
    host: str = ""
    port: int | None = None
    python: str | None = None
    runner: str | None = None

    @property
    def label(self) -> str:
        """The name of the device in file names."""
        if self.scheme == "local":
            return "local"
        # The case of letters counts in serial numbers, but not in the names of hosts.
        host = self.host.lower() if self.scheme == "ssh" else self.host
        name = f"{self.user}@{host}" if self.user else host
        return re.sub(r"[^A-Za-z0-9.@_-]", "-", f"{name}-{self.port}" if self.port else name)


def parse_address(text: str) -> Address:
    """Parse the address of a device; raise ConfigError that shows the valid forms.

    ssh://[user@]host[:port][?python=PATH], where host may be an alias of ~/.ssh/config. adb://SERIAL[?runner=FOLDER], where
    the serial number of a phone on Wi-Fi is its address and port.
    """
    if text == "local":
        return Address(text=text, scheme="local")
    try:
        parts = urlsplit(text)
        query, port = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query))), parts.port
    except ValueError as error:
        raise ConfigError(f"device '{text}': {error}; a device is {FORMS}") from None
    if parts.scheme not in OPTIONS:
        raise ConfigError(f"device '{text}': a device is {FORMS}")
    option, host = OPTIONS[parts.scheme], _host(parts.netloc)
    unknown = [f"?{key}" for key in query if key != option]
    if parts.password is not None:
        raise ConfigError(f"device 'ssh://…@{host}': a device URL must not contain a password; use keys (ssh-copy-id)")
    if unknown or parts.path.strip("/") or parts.fragment or not host:
        unexpected = unknown[0] if unknown else parts.path or parts.fragment
        problem = f"'{unexpected}' is not valid here" if unexpected else "the host is missing"
        raise ConfigError(f"device '{text}': {problem}; a device is {FORMS}, optionally with ?{option}=PATH")
    if parts.scheme == "adb":
        if not SERIAL.fullmatch(parts.netloc):
            raise ConfigError(f"device '{text}': '{parts.netloc}' is not a serial number; 'adb devices' lists them")
        return Address(text=text, scheme="adb", host=parts.netloc, runner=query.get("runner"))
    return Address(text=text, scheme="ssh", user=parts.username, host=host, port=port, python=query.get("python"))


def _host(netloc: str) -> str:
    """Return the host in `user@host:port` as it is written: ~/.ssh/config distinguishes capital letters, which urllib replaces."""
    place = netloc.rpartition("@")[2]
    return place[1:].partition("]")[0] if place.startswith("[") else place.partition(":")[0]


def artifact_folder(kit: str, address: str) -> str:
    """Return the name of the folder with a kit's artifacts for a device."""
    label = parse_address(address).label
    return kit if label == "local" else f"{kit}-{label}"

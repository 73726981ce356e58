"""Where a device is: "local", or a URL."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from edgedistill.errors import ConfigError
from edgedistill.records.base import Record

OPTIONS = {"ssh": "python", "adb": "runner"}
"""What may stand behind the question mark, by scheme."""
SERIAL = re.compile(r"[A-Za-z0-9._:\[\]-]+")
FORMS = "'local', 'ssh://user@host:port' or 'adb://serial'"


class Address(Record):
    """A device's address; `text` is what the user wrote, `python` the interpreter there that has the engine.

    For adb, `host` is the serial, and `runner` the folder here with the runner for phones.
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
        """The device's name in names of files."""
        if self.scheme == "local":
            return "local"
        name = f"{self.user}@{self.host}" if self.user else self.host
        return re.sub(r"[^A-Za-z0-9.@_-]", "-", f"{name}-{self.port}" if self.port else name)


def parse_address(text: str) -> Address:
    """Read a device's address, or raise ConfigError that says what one looks like.

    ssh://[user@]host[:port][?python=PATH]; host may be an alias of ~/.ssh/config. adb://SERIAL[?runner=FOLDER]; a phone on
    Wi-Fi has its address and port for a serial.
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
    option = OPTIONS[parts.scheme]
    unknown = [f"?{key}" for key in query if key != option]
    if parts.password is not None:
        raise ConfigError(
            f"device 'ssh://…@{parts.hostname}': a password has no place in a URL; use keys (ssh-copy-id)"
        )
    if unknown or parts.path.strip("/") or parts.fragment or not parts.hostname:
        odd = unknown[0] if unknown else parts.path or parts.fragment or "no host"
        raise ConfigError(f"device '{text}': '{odd}' is not understood; a device is {FORMS}, perhaps ?{option}=PATH")
    if parts.scheme == "adb":
        if not SERIAL.fullmatch(parts.netloc):
            raise ConfigError(f"device '{text}': '{parts.netloc}' is no serial; 'adb devices' lists them")
        return Address(text=text, scheme="adb", host=parts.netloc, runner=query.get("runner"))
    return Address(
        text=text, scheme="ssh", user=parts.username, host=parts.hostname, port=port, python=query.get("python")
    )


def artifact_folder(kit: str, address: str) -> str:
    """Return the folder of a kit's artifacts for a device."""
    label = parse_address(address).label
    return kit if label == "local" else f"{kit}-{label}"

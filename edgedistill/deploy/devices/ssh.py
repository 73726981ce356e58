"""A device over SSH: checks known hosts, uses keys from the SSH agent or files, and reads ~/.ssh/config, with jump hosts."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgedistill.deploy.devices.address import Address
from edgedistill.deploy.devices.agent import BOOTSTRAP, Agent
from edgedistill.deploy.devices.transport import Finished, HarnessCall, LinkError, Progress
from edgedistill.errors import DeviceError
from edgedistill.records.plain_text import plain

if TYPE_CHECKING:
    import asyncssh

SSH_PORT = 22
ATTEMPTS = 3
CONNECT_S = 15.0
LOGIN_S = 30.0
SILENCE_S = 5.0  # after which a keep-alive request is sent;
SILENCES = 4  # this many without an answer mean that the connection is lost
FAREWELL_S = 5.0
MOST_STDERR = 1 << 16
LONGEST_REASON, LONGEST_LINE = 2000, 500


async def run_over_ssh(address: Address, call: HarnessCall, progress: Progress) -> Finished:
    """Run a call over a new connection; raises LinkError when the device cannot be reached or the connection is lost."""
    import asyncssh

    async with _connected(address, progress) as connection:
        try:
            return await _run(connection, address, call, progress)
        except (OSError, EOFError, asyncssh.Error) as error:
            raise LinkError(f"{address.text}: the connection was lost ({_describe(error)})") from None


async def _run(
    connection: asyncssh.SSHClientConnection, address: Address, call: HarnessCall, progress: Progress
) -> Finished:
    process = await connection.create_process(BOOTSTRAP, encoding=None)
    try:
        return await Agent(process.stdout, process.stdin).run(call, address.python, progress)
    except DeviceError as error:
        last = plain((await _last_line(process)).decode("utf-8", "replace"), LONGEST_LINE)
        reason = plain(str(error), LONGEST_REASON) + (f": {last}" if last else "")
        raise type(error)(f"{address.text}: {reason}") from None
    finally:
        # When its stdin is closed, the agent stops what it started. On a device that no longer answers, the agent notices
        # the missing "alive" messages and does the same.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            process.stdin.write_eof()
            await asyncio.wait_for(process.wait_closed(), FAREWELL_S)


async def _last_line(process: asyncssh.SSHClientProcess[bytes]) -> bytes:
    """Return the last line on stderr of an agent that has ended or is about to."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        lines = (await asyncio.wait_for(process.stderr.read(MOST_STDERR), FAREWELL_S)).strip().splitlines()
        return lines[-1] if lines else b""
    return b""


@asynccontextmanager
async def _connected(address: Address, progress: Progress) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Connect, with further attempts when the network fails, and disconnect at the end."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            connection = await _connect(address)
            break
        except LinkError as error:
            if attempt == ATTEMPTS:
                raise
            progress(f"{error}; attempt {attempt + 1} of {ATTEMPTS}")
            await asyncio.sleep(attempt)
    try:
        yield connection
    finally:
        connection.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(connection.wait_closed(), FAREWELL_S)
        connection.abort()


async def _connect(address: Address) -> asyncssh.SSHClientConnection:
    """Open a connection; raises LinkError for a temporary failure, and DeviceError where the user must act."""
    try:
        return await _open(address)
    except ValueError as error:
        raise DeviceError(f"{address.text}: {_explain(error, address)}") from None


async def _open(address: Address) -> asyncssh.SSHClientConnection:
    """Open a connection as `_connect` does; raises ValueError if asyncssh cannot read a file of ~/.ssh."""
    import asyncssh

    where = address.text
    try:
        return await asyncssh.connect(address.host, options=_options(address))
    except asyncssh.HostKeyNotVerifiable:
        raise DeviceError(await _unknown_host(address)) from None
    except asyncssh.PermissionDenied:
        raise DeviceError(
            f"{where}: the device accepts none of your keys; install one with: ssh-copy-id {_arguments(address)}; or set the right "
            "key as IdentityFile in ~/.ssh/config, or load it with ssh-add"
        ) from None
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise DeviceError(
                f"{where}: {error.filename}: {error.strerror}; correct or remove the line of ~/.ssh/config that names this file"
            ) from None
        raise LinkError(f"{where}: not reachable ({_describe(error)}); try: ssh {_arguments(address)} true") from None


def _explain(error: ValueError, address: Address) -> str:
    """Explain what asyncssh cannot read, and what to do."""
    import asyncssh

    if isinstance(error, asyncssh.ConfigParseError):
        return (
            f"{error}; ssh accepts more forms than edgedistill does. Change this line, for example to a time in seconds without a unit, or "
            "put it into a Host block for other devices"
        )
    if isinstance(error, asyncssh.KeyImportError):
        return (
            f"a key cannot be read ({error}); each IdentityFile in ~/.ssh/config, and ~/.ssh/id_* without an ending, must be a private key, "
            "not the .pub file beside it"
        )
    return f"not reachable ({_describe(error)}); try: ssh {_arguments(address)} true"


def _options(address: Address) -> asyncssh.SSHClientConnectionOptions:
    """Return the options of ~/.ssh/config for a device; those in the address take precedence."""
    import asyncssh

    given: dict[str, object] = {"username": address.user, "port": address.port}
    options = asyncssh.SSHClientConnectionOptions(
        host=address.host, config=(), connect_timeout=CONNECT_S, login_timeout=LOGIN_S, keepalive_interval=SILENCE_S,
        keepalive_count_max=SILENCES, password_auth=False, kbdint_auth=False,
        **{key: value for key, value in given.items() if value is not None},
    )  # fmt: skip
    if options.known_hosts is None:  # asyncssh would trust any host then, and OpenSSH none
        raise DeviceError(
            f"{address.text}: ~/.ssh/config sets UserKnownHostsFile to none, so the host key cannot be checked"
        )
    if options.host_key_alias is None and options.host != options.host.lower():
        options.update(host_key_alias=options.host.lower())  # ssh writes hosts in small letters into known_hosts
    return options


async def _unknown_host(address: Address) -> str:
    """Explain whether a host key is unknown or has changed, and what to do."""
    import asyncssh

    options, accept = _options(address), f"accept it with: ssh {_arguments(address)} true"
    fingerprint = ""
    try:
        key = await asyncssh.get_server_host_key(address.host, options=options)
        fingerprint = f" {key.get_fingerprint()}" if key else ""
    except asyncssh.HostKeyNotVerifiable:
        return f"{address.text}: the host key of its jump host is not known; verify it, then {accept}"
    except (OSError, asyncio.TimeoutError, asyncssh.Error):
        pass  # the message is complete without the fingerprint
    host = str(options.config.get("Hostname", address.host)).lower()
    port = address.port or int(str(options.config.get("Port", SSH_PORT)))
    trusted = asyncssh.match_known_hosts(options.known_hosts or _default_known_hosts(), host, "", port)[0]
    if trusted:
        place = host if port == SSH_PORT else f"[{host}]:{port}"
        return (
            f"{address.text}: the host key has changed{f' to{fingerprint}' if fingerprint else ''}; the device was reinstalled, or an "
            f"attacker intercepts the connection. If you know the reason, remove the old key: ssh-keygen -R '{place}'"
        )
    return (
        f"{address.text}: the host key{fingerprint} is not known. Compare it with the keys shown on the device (for f in "
        f"/etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done), then {accept}"
    )


def _default_known_hosts() -> str | bytes:
    path = Path("~/.ssh/known_hosts").expanduser()
    return str(path) if path.is_file() else b""


def _arguments(address: Address) -> str:
    """Return the arguments of `ssh` for an address, quoted for a shell."""
    name = f"{address.user}@{address.host}" if address.user else address.host
    return (f"-p {address.port} " if address.port else "") + shlex.quote(name)


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__

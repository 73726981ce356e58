"""A device over SSH: known hosts are checked, keys come from the agent or from files, ~/.ssh/config holds, jumps included."""

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

if TYPE_CHECKING:
    import asyncssh

SSH_PORT = 22
ATTEMPTS = 3
CONNECT_S = 15.0
LOGIN_S = 30.0
SILENCE_S = 5.0  # after which the device is asked for a sign of life,
SILENCES = 4  #     so often before the link is taken for cut
FAREWELL_S = 5.0


async def run_over_ssh(address: Address, call: HarnessCall, progress: Progress) -> Finished:
    """Run a call over a connection of its own; raises LinkError when the device cannot be reached or is lost."""
    import asyncssh

    async with _connected(address, progress) as connection:
        try:
            return await _run(connection, address, call, progress)
        except (OSError, EOFError, asyncssh.Error) as error:
            raise LinkError(f"{address.text}: the link was cut in mid-run ({_words(error)})") from None


async def _run(
    connection: asyncssh.SSHClientConnection, address: Address, call: HarnessCall, progress: Progress
) -> Finished:
    process = await connection.create_process(BOOTSTRAP, encoding=None)
    try:
        return await Agent(process.stdout, process.stdin).run(call, address.python, progress)
    except DeviceError as error:
        said = await _last_words(process)
        reason = f"{error}: {said.decode('utf-8', 'replace')}" if said else str(error)
        raise type(error)(f"{address.text}: {reason}") from None
    finally:
        # The agent takes a closed stdin for the end, and kills what it started; a device that does not answer any more
        # does so by itself.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            process.stdin.write_eof()
            await asyncio.wait_for(process.wait_closed(), FAREWELL_S)


async def _last_words(process: asyncssh.SSHClientProcess[bytes]) -> bytes:
    """Return the last line on stderr of an agent that has ended or will."""
    with contextlib.suppress(OSError, asyncio.TimeoutError):
        lines = (await asyncio.wait_for(process.stderr.read(), FAREWELL_S)).strip().splitlines()
        return lines[-1] if lines else b""
    return b""


@asynccontextmanager
async def _connected(address: Address, progress: Progress) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Connect, again when the network fails, and disconnect in the end."""
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
    """Open a connection; raises LinkError for what may pass, and DeviceError for what the user must settle."""
    import asyncssh

    where = address.text
    try:
        return await asyncssh.connect(address.host, options=_options(address))
    except asyncssh.HostKeyNotVerifiable:
        raise DeviceError(await _unknown_host(address)) from None
    except asyncssh.PermissionDenied:
        raise DeviceError(
            f"{where}: the device takes none of your keys; put one there with: ssh-copy-id {_arguments(address)}; or name "
            "the right one as IdentityFile in ~/.ssh/config, or load it with ssh-add"
        ) from None
    except (OSError, asyncio.TimeoutError, asyncssh.Error) as error:
        raise LinkError(f"{where}: cannot be reached ({_words(error)}); try: ssh {_arguments(address)} true") from None


def _options(address: Address) -> asyncssh.SSHClientConnectionOptions:
    """Gather what ~/.ssh/config says of a device, and what the address says above it."""
    import asyncssh

    given: dict[str, object] = {"username": address.user, "port": address.port}
    options = asyncssh.SSHClientConnectionOptions(
        host=address.host, config=(), connect_timeout=CONNECT_S, login_timeout=LOGIN_S, keepalive_interval=SILENCE_S,
        keepalive_count_max=SILENCES, password_auth=False, kbdint_auth=False,
        **{key: value for key, value in given.items() if value is not None},
    )  # fmt: skip
    if options.known_hosts is None:  # which asyncssh takes for "trust anybody", and OpenSSH for "know nobody"
        raise DeviceError(
            f"{address.text}: ~/.ssh/config sets UserKnownHostsFile to none, so no host key could be checked"
        )
    return options


async def _unknown_host(address: Address) -> str:
    """Say whose host key is not known, or another than the known one, and what to do."""
    import asyncssh

    options, accept = _options(address), f"accept it with: ssh {_arguments(address)} true"
    fingerprint = ""
    try:
        key = await asyncssh.get_server_host_key(address.host, options=options)
        fingerprint = f" {key.get_fingerprint()}" if key else ""
    except asyncssh.HostKeyNotVerifiable:
        return f"{address.text}: the host key of its jump host is not known; compare it, and {accept}"
    except (OSError, asyncio.TimeoutError, asyncssh.Error):
        pass  # the fingerprint would only have been a help
    host = str(options.config.get("Hostname", address.host))
    port = address.port or int(str(options.config.get("Port", SSH_PORT)))
    trusted = asyncssh.match_known_hosts(options.known_hosts or _default_known_hosts(), host, "", port)[0]
    if trusted:
        place = host if port == SSH_PORT else f"[{host}]:{port}"
        return (
            f"{address.text}: shows another host key{fingerprint} than the known one; it was installed anew, or somebody is "
            f"in between. If you know why, forget the old key: ssh-keygen -R '{place}'"
        )
    return (
        f"{address.text}: its host key{fingerprint} is not known. Compare it with what the device says of itself (for f in "
        f"/etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $f; done), and {accept}"
    )


def _default_known_hosts() -> str | bytes:
    path = Path("~/.ssh/known_hosts").expanduser()
    return str(path) if path.is_file() else b""


def _arguments(address: Address) -> str:
    """Return what `ssh` is to be given for this address; a URL may not hold what a shell would take for its own."""
    name = f"{address.user}@{address.host}" if address.user else address.host
    return (f"-p {address.port} " if address.port else "") + shlex.quote(name)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__

"""The runner on a phone: its command, and what the phone says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgedistill.deploy.devices import adb, phone
from edgedistill.deploy.devices.adb import Phone
from edgedistill.deploy.devices.limits import LONGEST_LINE, json_of
from edgedistill.errors import DeviceError
from edgedistill.records.plain_text import plain

START_S = 120.0
"""The longest that a process of the runner takes beside the seconds that it was given."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A phone with the runner installed: the command that starts the runner, and the facts of the phone."""

    phone: Phone
    start: str
    device: dict[str, Any]
    version: int | None = None

    async def run(self, verb: str, options: list[str], timeout_s: float) -> dict[str, Any]:
        """Run the runner and return its JSON; raises DeviceError with its message."""
        code, output = await self.phone.shell(adb.runner_command(self.phone, self.start, verb, options), timeout_s)
        where = f"{self.phone.address.text}: edrun {verb}"
        try:
            answer = json_of(adb.last_line(output))
        except ValueError:
            # When the connection is lost, adb reports success and no output.
            await self.phone.require_presence()
            output = plain(adb.last_line(output), LONGEST_LINE) or "no output"
            raise DeviceError(f"{where}: ended with exit code {code}: {output}") from None
        if not isinstance(answer, dict):
            raise DeviceError(
                f"{where}: returned a {type(answer).__name__} instead of an object; build the runner again"
            )
        if "error" in answer:
            raise DeviceError(f"{where}: {answer['error']}")
        return answer


async def look(device: Phone) -> dict[str, str]:
    """Return the phone's answers to the commands of `phone.LOOK`."""
    return {name: await device.output_of(command) for name, command in phone.LOOK.items()}


async def find_meter(device: Phone) -> phone.Meter | str:
    """Return the energy meter of a phone, or the reason why it has none."""
    commands = (phone.RAILS, phone.RAILS_FILES, phone.CURRENT, "dumpsys battery")
    meter = phone.meter(*[await device.output_of(command) for command in commands])
    return f"no energy counter: {meter}" if isinstance(meter, str) else meter

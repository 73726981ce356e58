"""What an Android phone answers, and how it is read: through a program in the place of adb that prints recorded answers."""

import json
import os
import sys
from functools import cache
from pathlib import Path

from small_files import REPOSITORY, Files

ADB = """#!/bin/sh
# adb -s SERIAL get-state | shell COMMAND | push HERE THERE
case $3 in
get-state) echo device ;;
shell)
    case $4 in
    *" probe"*) cat "$PHONE/probe" ;;
    *.state*) echo complete ;;
    getprop*) cat "$PHONE/properties" ;;
    *thermalservice*) cat "$PHONE/thermal" ;;
    *"dumpsys battery"*) cat "$PHONE/battery" ;;
    *loadavg*) cat "$PHONE/load" ;;
    *scaling_governor*) cat "$PHONE/governors" ;;
    *IPowerStats*) cat "$PHONE/rails" ;;
    *energy_value*) cat "$PHONE/rails_files" ;;
    *current_now*) cat "$PHONE/current" ;;
    esac ;;
esac
"""


@cache
def place_tools(folder: Path) -> Path:
    """Put the program in the place of adb into PATH, and return a folder with what is taken for the runner."""
    for name in ("programs", "runner"):
        (folder / name).mkdir()
    (folder / "programs" / "adb").write_text(ADB)
    (folder / "programs" / "adb").chmod(0o755)
    for name in ("edrun", "libonnxruntime.so"):
        (folder / "runner" / name).touch()
    os.environ["PATH"] = f"{folder}/programs:{os.environ['PATH']}"
    return folder / "runner"


def phones() -> list[Files]:
    """Return the answers of a phone with power rails, of one with a battery only, and of one that has neither."""
    probe = {
        "engine": {"name": "onnxruntime", "version": "1.27.0"}, "arch": "aarch64", "kernel": "6.1.0", "cores": 8,
        "memory_bytes": 8_000_000_000, "emulated": None, "version": 2,
    }  # fmt: skip
    sys.path.insert(0, str(REPOSITORY))
    from tests.support.phones import BATTERY, GETPROP, THERMAL

    answers = {
        "probe": json.dumps(probe), "battery": BATTERY, "load": "2.31 1.90 1.71 3/2112 9121\n", "governors": "schedutil\n" * 8,
        "properties": GETPROP, "thermal": THERMAL, "rails": "", "rails_files": "", "current": "",
    }  # fmt: skip
    kinds = (
        {"rails": "  [S4M_VDD_CPUCL0]:CPU    81233.00 mWs\n"},
        {"rails_files": "t=12000\nCH0(T=12000)[VSYS_PWR_MODEM], 3120\n"},
        {"current": "-412000\n4063000\n", "battery": BATTERY.replace("true", "false")},
        {},
    )
    return [{name: text.encode() for name, text in (answers | kind).items()} for kind in kinds]


def read_phone(folder: Path) -> object:
    """Read a phone's facts and state as `doctor --device` does."""
    from edgedistill.deploy.harness import examine, probe

    os.environ["PHONE"] = str(folder)
    address = f"adb://phone?runner={place_tools(folder.parent)}"
    return probe(None, address), examine(address)

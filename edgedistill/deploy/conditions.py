"""What makes a device's figures worthless at the moment, each with the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.records.base import Record
from edgedistill.records.measurement import Snapshot

BUSY = 0.2
NO_COUNTER = "no energy counter: "
LACKS = "the device has no "
"""How the harness begins to say that there is nothing to read."""
HOT_C = 80.0


class Examined(Record):
    """The answer of the harness's verb `examine`.

    `cpus_busy` is the fraction of a moment that each CPU worked, `timed_cpus` are those a model would be timed on, `siblings` the
    other hardware threads of their cores, and `energy` the source or the reason for there being none, by "cpu" and "gpu".
    """

    snapshot: Snapshot
    drivers: dict[str, str]
    power_modes: tuple[str, ...]
    cpus_busy: dict[str, float]
    timed_cpus: tuple[int, ...]
    siblings: tuple[int, ...]
    energy: dict[str, dict[str, str]]


def conditions(found: Examined) -> Iterator[str]:
    """Yield one sentence for each condition that disturbs, with the command that mends it."""
    yield from _company(found)
    yield from _clocks(found)
    yield from _power(found)
    yield from _heat(found.snapshot)


def energy_line(found: Examined) -> str:
    """Say where energy would be read on a device, or why it would not; of a GPU only where there is one."""
    told = found.energy["cpu"], found.energy["gpu"]
    cpu, gpu = (f"{source['source']}, {source['scope']}" if "source" in source else None for source in told)
    parts = [cpu or f"none: {told[0]['reason'].removeprefix(NO_COUNTER)}; a power meter's file will do: bench --meter"]
    if gpu != cpu or not gpu:
        reason = told[1].get("reason", "").removeprefix(NO_COUNTER)
        parts += [f"of a GPU: {gpu or f'none: {reason}'}"] if gpu or not reason.startswith(LACKS) else []
    return "; ".join(parts)


def _company(found: Examined) -> Iterator[str]:
    load, cores = found.snapshot.load_average, max(1, len(found.cpus_busy))
    busiest = max((found.cpus_busy.get(str(cpu), 0.0) for cpu in found.timed_cpus), default=0.0)
    if busiest > BUSY or (load is not None and load > 0.5 * cores):
        average = "" if load is None else f", load average {load:.1f} on {cores} cores"
        cpus = " and ".join(map(str, found.timed_cpus))
        yield (
            f"other work: CPU {cpus}, where a model is timed, is {busiest:.0%} busy{average}; find it and stop it: "
            "ps -eo pcpu,pid,args --sort=-pcpu | head"
        )
    for cpu in found.siblings:
        if found.cpus_busy.get(str(cpu), 0.0) > BUSY:
            yield (
                f"CPU {cpu} shares a core with CPU {found.timed_cpus[0]}, where a model is timed, and is "
                f"{found.cpus_busy[str(cpu)]:.0%} busy; stop that work, or run: "
                "echo off | sudo tee /sys/devices/system/cpu/smt/control"
            )


def _clocks(found: Examined) -> Iterator[str]:
    state = found.snapshot
    moving = sorted(set(state.governors) - {"performance"})
    if state.clocks_locked or not moving:
        return
    mend = "sudo jetson_clocks" if found.power_modes else "sudo cpupower frequency-set -g performance"
    yield f"clocks move: the CPU governor is {' and '.join(moving)}; run: {mend}"


def _power(found: Examined) -> Iterator[str]:
    state = found.snapshot
    if state.power_source == "battery":
        yield "the device runs on its battery, and may lower its clocks; plug it in (to measure a battery's energy, do not)"
    fastest = next((mode for mode in found.power_modes if mode.startswith("MAXN")), None)
    if fastest is not None and state.power_mode not in (None, fastest):
        number = fastest.rpartition("(")[2].rstrip(")")
        yield (
            f"power mode is {state.power_mode}, and figures will be of that mode alone; for {fastest} run: "
            f"sudo nvpmodel -m {number}"
        )


def _heat(state: Snapshot) -> Iterator[str]:
    if state.throttling:
        yield f"the device is throttling at this moment ({', '.join(state.throttling)}); let it cool, or give it a fan"
    counts = {name: count for name, count in state.throttle_counts.items() if count}
    if counts:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield (
            f"the device has throttled since it started ({told}); a measurement says so if that happens during it: then "
            "cool it, or give it a stronger power supply"
        )
    hottest = max(state.temperatures_c, key=lambda name: state.temperatures_c[name], default=None)
    if hottest is not None and state.temperatures_c[hottest] > HOT_C:
        yield f"{hottest} is at {state.temperatures_c[hottest]:.0f} °C before anything runs; let it cool"

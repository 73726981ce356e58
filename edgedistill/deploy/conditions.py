"""Find the conditions of a device that distort measurements, each with the command that fixes it."""

from __future__ import annotations

from collections.abc import Iterator

from edgedistill.records.base import Record
from edgedistill.records.measurement import Snapshot

BUSY = 0.2
NO_COUNTER = "no energy counter: "
LACKS = "the device has no "
"""The beginnings of the harness's reasons for reading no energy."""
HOT_C = 80.0


class Examined(Record):
    """The state of a device, as the harness command `examine` returns it.

    `cpus_busy` is the busy fraction of each CPU during a short interval, `timed_cpus` are the CPUs that a model would be timed on,
    and `siblings` the other hardware threads of their cores. `energy` has, for "cpu" and "gpu", the source or the reason for its
    absence.
    """

    snapshot: Snapshot
    drivers: dict[str, str]
    power_modes: tuple[str, ...]
    cpus_busy: dict[str, float]
    timed_cpus: tuple[int, ...]
    siblings: tuple[int, ...]
    energy: dict[str, dict[str, str]]


def conditions(device: Examined) -> Iterator[str]:
    """Yield one sentence for each distorting condition, with the command that fixes it."""
    yield from _other_work(device)
    yield from _clocks(device)
    yield from _power(device)
    yield from _heat(device.snapshot)


def energy_line(device: Examined) -> str:
    """Describe the energy source of a device, or why it has none; the GPU is mentioned only where there is one."""
    sources = device.energy["cpu"], device.energy["gpu"]
    cpu, gpu = (f"{source['source']}, {source['scope']}" if "source" in source else None for source in sources)
    parts = [
        cpu or f"none: {sources[0]['reason'].removeprefix(NO_COUNTER)}; use a power meter instead: bench --meter CSV"
    ]
    if gpu != cpu or not gpu:
        reason = sources[1].get("reason", "").removeprefix(NO_COUNTER)
        parts += [f"GPU: {gpu or f'none: {reason}'}"] if gpu or not reason.startswith(LACKS) else []
    return "; ".join(parts)


def _other_work(device: Examined) -> Iterator[str]:
    load, cores = device.snapshot.load_average, max(1, len(device.cpus_busy))
    busiest = max((device.cpus_busy.get(str(cpu), 0.0) for cpu in device.timed_cpus), default=0.0)
    if busiest > BUSY or (load is not None and load > 0.5 * cores):
        average = "" if load is None else f", load average {load:.1f} on {cores} cores"
        cpus = " and ".join(map(str, device.timed_cpus))
        yield (
            f"other processes: CPU {cpus}, on which models are timed, is {busiest:.0%} busy{average}; find and stop them: "
            "ps -eo pcpu,pid,args --sort=-pcpu | head"
        )
    for cpu in device.siblings:
        if device.cpus_busy.get(str(cpu), 0.0) > BUSY:
            yield (
                f"CPU {cpu} shares a core with CPU {device.timed_cpus[0]}, on which models are timed, and is "
                f"{device.cpus_busy[str(cpu)]:.0%} busy; stop the processes on it, or run: "
                "echo off | sudo tee /sys/devices/system/cpu/smt/control"
            )


def _clocks(device: Examined) -> Iterator[str]:
    state = device.snapshot
    moving = sorted(set(state.governors) - {"performance"})
    if state.clocks_locked or not moving:
        return
    command = "sudo jetson_clocks" if device.power_modes else "sudo cpupower frequency-set -g performance"
    yield f"clock frequencies vary: the CPU governor is {' and '.join(moving)}; run: {command}"


def _power(device: Examined) -> Iterator[str]:
    state = device.snapshot
    if state.power_source == "battery":
        yield "the device runs on battery and may lower its clocks; plug it in, unless you measure the battery's energy"
    fastest = next((mode for mode in device.power_modes if mode.startswith("MAXN")), None)
    if fastest is not None and state.power_mode not in (None, fastest):
        number = fastest.rpartition("(")[2].rstrip(")")
        yield (
            f"the power mode is {state.power_mode}, so measurements are valid for that mode only; to use {fastest}, run: "
            f"sudo nvpmodel -m {number}"
        )


def _heat(state: Snapshot) -> Iterator[str]:
    if state.throttling:
        yield f"the device is throttling now ({', '.join(state.throttling)}); let it cool, or add a fan"
    counts = {name: count for name, count in state.throttle_counts.items() if count}
    if counts:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield (
            f"the device has throttled since it started ({listed}); if a measurement reports throttling, cool the device "
            "or use a stronger power supply"
        )
    hottest = max(state.temperatures_c, key=lambda name: state.temperatures_c[name], default=None)
    if hottest is not None and state.temperatures_c[hottest] > HOT_C:
        yield f"{hottest} is at {state.temperatures_c[hottest]:.0f} °C while idle; let it cool"

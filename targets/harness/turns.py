"""Turns: which process has a burst in which round, which arms share a set, and how a process waits for its turns.

Duet benchmarking (Bulej et al., ICPE 2020) measures two programs together, so that what slows the machine slows both. Here they do
not run at the same moment but in bursts of milliseconds, which needs no second CPU.
"""

from __future__ import annotations

import json
import random
import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, cast

MARGIN = 1.25
"""A process takes at most this multiple of its memory after loading, in the models that were measured."""
CONTEXT_BYTES = 512 << 20
"""The memory that a process takes on a GPU beside its model; CUDA's takes 300 to 500 MB."""
MARK = "turn "
"""The beginning of each line of stdout that is a message to the parent; an engine may print other lines."""


class Need(NamedTuple):
    """The engine of an arm, with its number of threads, and its memory in bytes; None if it is not known.

    `memory_bytes` is that of its process, `device_bytes` that of its model on an accelerator, and `device_room` the memory of the
    accelerator that was free beside this model.
    """

    engine: Tuple[str, int]
    memory_bytes: Optional[int]
    device_bytes: Optional[int] = None
    device_room: Optional[int] = None


def sets(needs: Sequence[Need], available_bytes: Optional[int]) -> List[List[int]]:
    """Divide arms, by their indices, into those that fit in memory together: all, else those of one engine, else each alone."""
    everyone = list(range(len(needs)))
    by_engine = [
        [i for i in everyone if needs[i].engine == engine] for engine in dict.fromkeys(n.engine for n in needs)
    ]
    for division in ([everyone] if everyone else [], by_engine):
        if all(_fits([needs[i] for i in group], available_bytes) for group in division):
            return division
    return [[i] for i in everyone]


def _fits(group: Sequence[Need], available_bytes: Optional[int]) -> bool:
    """Return whether the processes fit in memory, and their models on the accelerator beside the one that leaves least room."""
    if available_bytes is not None and sum(MARGIN * (need.memory_bytes or 0) for need in group) > available_bytes:
        return False
    on_device = [need for need in group if need.device_room is not None]
    wanted = sum(MARGIN * (need.device_bytes or 0) + CONTEXT_BYTES for need in on_device)
    return all(wanted - (need.device_bytes or 0) - CONTEXT_BYTES <= cast("int", need.device_room) for need in on_device)


def schedule(bursts: Sequence[int], seed: str) -> Iterator[Tuple[int, int]]:
    """Yield (round, index) for every burst; `bursts` has the number of bursts of each process.

    A process with few bursts takes part in rounds at even distances. The order is shuffled in even rounds, and reversed in odd
    ones, so that a steady change of the machine's speed favours no process.
    """
    taken, order = _rounds(bursts), list(range(len(bursts)))
    shuffler = random.Random(seed)  # noqa: S311 - a random order, not a secret
    for turn in range(max(bursts, default=0)):
        if turn % 2:
            order.reverse()
        else:
            shuffler.shuffle(order)
        for index in order:
            if turn in taken[index]:
                yield turn, index


def _rounds(bursts: Sequence[int]) -> List[Set[int]]:
    """Return the rounds of each process: an even share of the rounds of the process with the next larger number of bursts.

    So any two processes share as many rounds as the one with fewer bursts has, and their ratio has as many values.
    """
    found: List[Set[int]] = [set() for _ in bursts]
    rounds = list(range(max(bursts, default=0)))
    for index in sorted(range(len(bursts)), key=lambda index: -bursts[index]):
        count, most = bursts[index], len(rounds)
        rounds = [turn for j, turn in enumerate(rounds) if j * count % most < count]
        found[index] = set(rounds)
    return found


class Parent:
    """The parent process, as a worker hears it on stdin and tells it on stdout."""

    def tell(self, message: Dict[str, Any]) -> None:
        """Send one message."""
        sys.stdout.write(f"\n{MARK}{json.dumps(message)}\n")
        sys.stdout.flush()

    def turns(self) -> Iterator[int]:
        """Yield the number of each round in which this process has a burst, and tell the parent after the burst."""
        for line in sys.stdin:
            if line.strip() == "end":
                return
            yield int(line)
            self.tell({})

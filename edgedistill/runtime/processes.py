"""The processes of one launch (`accelerate launch`, `torchrun`): all of them compute, rank 0 writes files.

Without a launcher there is one process of rank 0, and these functions return at once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def rank() -> int:
    """Return the rank of this process, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Return whether this process has rank 0, which writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has called this function."""
    if world_size() > 1:
        _connected().wait_for_everyone()


def broadcast_from_rank0(value: T) -> T:
    """Return the value of rank 0 in every process."""
    if world_size() == 1:
        return value
    from accelerate.utils import broadcast_object_list

    _connected()
    box = [value]
    broadcast_object_list(box)
    return box[0]


def device() -> torch.device:
    """Return where the models of this process compute: on the GPU that accelerate trains on, or on the CPU."""
    import torch

    if not torch.accelerator.is_available():
        return torch.device("cpu")
    from accelerate import PartialState

    found: torch.device = (_connected() if world_size() > 1 else PartialState()).device
    return found


def _connected() -> Any:
    """Return accelerate's state. Without a GPU, accelerate connects processes only when told to use the CPU, which torchrun does not."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    on_cpu = device is None or device.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU")
    return PartialState(cpu=on_cpu)

"""The power of a whole board from its named power rails: its input rail, or the sum that NVIDIA's tools show."""

from __future__ import annotations

from typing import Dict, NamedTuple, Tuple

from energy.source import NoSourceError

INPUTS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails that feed the module or the board; the other rails are downstream of them."""

WITHOUT_INPUT = {
    "AGX Xavier": ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    "AGX Orin": ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    "AGX Thor": ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),
}
"""For boards without an input rail: the rails that tegrastats shows, none of which contains another."""


class Total(NamedTuple):
    """The rails to add up, and a description of their coverage."""

    rails: Tuple[str, ...]
    scope: str

    def power_mw(self, rails_mw: Dict[str, float]) -> float:
        """Return the sum in milliwatts; a gated rail may read slightly below 0, which counts as 0."""
        return sum(max(0.0, rails_mw[name]) for name in self.rails)


def total_of(names: "frozenset[str]") -> Total:
    """Return which of a board's rails to add up, or raise NoSourceError that names them."""
    for name in INPUTS:
        if name in names:
            return Total((name,), f"the module's input {name}" if name != "VIN" else "the board's input VIN")
    for board, rails in WITHOUT_INPUT.items():
        if names.issuperset(rails):
            return Total(rails, f"sum of the rails {', '.join(rails)}; {board} does not measure its input")
    found = ", ".join(sorted(names)) or "none"
    raise NoSourceError(f"no input rail and no known set of rails covers the whole board; found: {found}")

"""The lines that devices write while they measure, in the user's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Voice:
    """Says the lines of devices: `names` of models by those of the harness, the `metric`, and what to call for each step."""

    say: Callable[[str], None]
    names: Mapping[str, str]
    metric: str
    step: Callable[[str], None] | None = None

    def __call__(self, line: str) -> None:
        """Say one line, such as "bench local-ort-int8 process 1/3 p50 0.037 ms"."""
        word, _, rest = line.partition(" ")
        name, _, what = rest.partition(" ")
        if word != "bench" or name not in self.names:
            self.say(line)
            return
        text = f"{self.names[name]}: {self._in_words(what)}"
        self.say(f"bench: {text}")
        if self.step is not None:
            self.step(text)

    def _in_words(self, what: str) -> str:
        if (found := re.fullmatch(r"check \S+ ([\d.]+)", what)) is not None:
            return f"check, {self.metric} {float(found[1]):.2%}"
        if (found := re.fullmatch(r"(process .*) p50 ([\d.]+) ms", what)) is not None:
            milliseconds = float(found[2])
            p50 = f"{1000 * milliseconds:.0f} µs" if milliseconds < 1 else f"{found[2]} ms"
            return f"{found[1]}, p50 {p50}"
        return what.replace(" uJ", " µJ")

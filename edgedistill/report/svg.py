"""Matplotlib figures as inline SVG that takes its colours from the page, so that one drawing serves light, dark and print."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#010101", "#010102"
SERIES = ("#010111", "#010112", "#010113", "#010114", "#010115", "#010116")
"""Colours nothing else uses; each is replaced by a colour of the page."""

_PAGE_COLOURS = {INK: "currentColor", GRID: "var(--grid)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(SERIES)
}
_STYLE: Any = {  # matplotlib types the keys of this table one by one, differently in each version
    "svg.fonttype": "none",  # text stays text: selectable, searchable, and in the page's own font
    "text.parse_math": False,  # a "$" in a name is a "$"
    "svg.hashsalt": "edgedistill",  # without it ids are random and the report differs each time
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.minor.size": 0,
    "lines.solid_capstyle": "round",
}


def style() -> Any:
    """Return the context in which figures are made and drawn."""
    return rc_context(_STYLE)


def new_axes(width: float = 3.7, height: float = 3.0) -> tuple[Figure, Axes]:
    """Start a figure, in inches: small enough that its text is readable at the width of a phone."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(
    figure: Figure, name: str, title: str, description: str, tips: Mapping[str, Sequence[str]] | None = None
) -> str:
    """Draw a figure as an SVG element; `name` makes its ids unique in the page.

    Artists whose gid is m0, m1, ... or t0, t1, ... get it as their class, by which the page highlights them. Those whose gid ends with
    "-tip" also get the next of the tooltips that `tips` has for this class.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A style element in an inline SVG applies to the whole page; the page has this rule, for its figures only.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    waiting = {key: iter(texts) for key, texts in (tips or {}).items()}
    text = re.sub(r'<g id="([mt]\d+)(-tip)?">', lambda found: _grouped(found, waiting), text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for colour, replacement in _PAGE_COLOURS.items():
        text = text.replace(colour, replacement)
    return _labelled(text, name, title, description)


def _grouped(found: re.Match[str], waiting: Mapping[str, Iterator[str]]) -> str:
    tip = next(waiting.get(found[1], iter(())), None) if found[2] else None
    return f'<g class="series {found[1]}">' + ("" if tip is None else f"<title>{escape(tip)}</title>")


def _labelled(text: str, name: str, title: str, description: str) -> str:
    view_box = re.search(r'viewBox="([^"]*)"', text)
    assert view_box is not None
    body = text[text.index(">") + 1 :]
    return (
        f'<svg viewBox="{view_box.group(1)}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>{body}'
    )

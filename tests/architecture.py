"""Write docs/architecture.svg, the picture of the two halves: python tests/architecture.py > docs/architecture.svg.

Boxes are light with dark text, and lines are a middle grey, so that the picture is readable on a light and on a dark page.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WIDTH: Final = 880
HEIGHT: Final = 330
FONT: Final = "font-family='system-ui, sans-serif'"
BOLD: Final = " font-weight='600'"
LINE: Final = "#7d8590"


class Box(NamedTuple):
    """A box: its place and size in pixels, its colour, and its lines of text, of which the first is bold."""

    x: int
    y: int
    width: int
    height: int
    colour: str
    lines: tuple[str, ...]


HOST: Final = "#dbeafe"
FILE: Final = "#fef3c7"
DEVICE: Final = "#dcfce7"
BOXES: Final = (
    Box(20, 50, 110, 62, HOST, ("data", "photos, sounds,", "texts, numbers")),
    Box(20, 132, 110, 62, HOST, ("teacher", "yours, or trained")),
    Box(156, 90, 130, 62, HOST, ("soft labels", "of augmented views")),
    Box(310, 90, 100, 62, HOST, ("student", "and its control")),
    Box(310, 190, 100, 62, HOST, ("int8", "within a limit")),
    Box(470, 120, 110, 92, FILE, ("ONNX files", "with real inputs", "and the outputs", "to expect")),
    Box(640, 50, 220, 52, DEVICE, ("compile", "one kit for each engine")),
    Box(640, 120, 220, 52, DEVICE, ("check", "accuracy, agreement with torch")),
    Box(640, 190, 220, 62, DEVICE, ("measure", "latency, memory, energy:", "fresh processes, in turns")),
    Box(310, 272, 270, 44, FILE, ("report, comparison, gates, card",)),
)
ARROWS: Final = (
    ((130, 92), (156, 110)), ((130, 152), (156, 134)), ((286, 121), (310, 121)), ((360, 152), (360, 190)),
    ((410, 130), (470, 145)), ((410, 212), (470, 192)), ((580, 146), (640, 84)),
    ((750, 102), (750, 120)), ((750, 172), (750, 190)), ((640, 240), (580, 284)),
)  # fmt: skip
FRAMES: Final = (
    (8, 26, 416, 240, "host: edgedistill, with torch"),
    (626, 26, 246, 240, "device: Jetson, PC, phone; no torch"),
)


def picture() -> str:
    """Return the picture as SVG."""
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' role='img' {FONT} font-size='12'>",
        "<title>The host trains, quantizes and exports; the device compiles, checks and measures</title>",
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' markerHeight='7' orient='auto'>",
        f"<path d='M0 0L8 4L0 8z' fill='{LINE}'/></marker></defs>",
    ]
    parts += (
        [frame(*one) for one in FRAMES] + [arrow(*start, *end) for start, end in ARROWS] + [box(one) for one in BOXES]
    )
    return "\n".join([*parts, "</svg>\n"])


def frame(x: int, y: int, width: int, height: int, text: str) -> str:
    border = f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='10' fill='none' stroke='{LINE}' stroke-dasharray='5 4'/>"
    return f"{border}\n<text x='{x + 4}' y='{y - 8}' fill='{LINE}' font-weight='600'>{text}</text>"


def arrow(x1: int, y1: int, x2: int, y2: int) -> str:
    return f"<line x1='{x1}' y1='{y1}' x2='{x2}' y2='{y2}' stroke='{LINE}' stroke-width='1.6' marker-end='url(#tip)'/>"


def box(one: Box) -> str:
    middle, first = one.x + one.width // 2, one.y + one.height // 2 - 8 * (len(one.lines) - 1) + 4
    texts = [
        f"<text x='{middle}' y='{first + 16 * row}' text-anchor='middle' fill='#1f2328'{'' if row else BOLD}>{line}</text>"
        for row, line in enumerate(one.lines)
    ]
    shape = f"<rect x='{one.x}' y='{one.y}' width='{one.width}' height='{one.height}' rx='7' fill='{one.colour}' stroke='{LINE}'/>"
    return "\n".join([shape, *texts])


if __name__ == "__main__":
    print(picture(), end="")

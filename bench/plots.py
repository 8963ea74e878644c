"""Draws bars as SVG, so that the report needs no library for plots."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

WIDTH, LABEL, BAR, GAP, HEAD = 900, 250, 22, 10, 64  # pixels
COLOURS = ("#4c78a8", "#9ecae9", "#f58518", "#e45756", "#72b7b2")
FONT = "font-family='system-ui, sans-serif' font-size='13'"


def stacked(path: Path, title: str, parts: Sequence[str], bars: Mapping[str, Sequence[float]], unit: str) -> None:
    """Draw a horizontal bar for each name, made of its parts, which have one unit."""
    most = max(map(sum, bars.values()))
    scale = (WIDTH - LABEL - 90) / most
    lines = [_text(10, 20, title, weight="bold")]
    x = 10.0
    for part, colour in zip(parts, COLOURS, strict=False):
        lines += [_box(x, 32, 12, colour, 12), _text(x + 17, 43, part)]
        x += 32 + 7.2 * len(part)
    for index, (name, values) in enumerate(bars.items()):
        y, x = HEAD + index * (BAR + GAP), float(LABEL)
        lines.append(_text(LABEL - 8, y + 16, name, anchor="end"))
        for value, colour in zip(values, COLOURS, strict=False):
            lines.append(_box(x, y, value * scale, colour))
            x += value * scale
        lines.append(_text(x + 6, y + 16, f"{sum(values):,.0f} {unit}"))
    _write(path, title, len(bars), lines)


def against_targets(path: Path, title: str, bars: Mapping[str, tuple[float, float, float, float]]) -> None:
    """Draw the median, the least and the greatest ratio of each name, and the line of its target."""
    scale = (WIDTH - LABEL - 130) / max(1.0, *(max(values) for values in bars.values()))
    lines = [_text(10, 20, title, weight="bold"), _text(10, 43, "Bar: the median. Line: all rounds. Red: the target.")]
    for index, (name, (middle, least, greatest, target)) in enumerate(bars.items()):
        y = HEAD + index * (BAR + GAP)
        lines += [_text(LABEL - 8, y + 16, name, anchor="end"), _box(LABEL, y, middle * scale, COLOURS[0])]
        lines += [_box(LABEL + least * scale, y + BAR / 2 - 1, (greatest - least) * scale, "#222", 2)]
        lines += [_box(LABEL + target * scale - 1, y - 3, 2, COLOURS[3], BAR + 6)]
        x = LABEL + max(middle, greatest, target) * scale + 8
        lines.append(_text(x, y + 16, f"{middle:.2f} (target {target:.2f})"))
    _write(path, title, len(bars), lines)


def _box(x: float, y: float, width: float, colour: str, height: float = BAR) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> str:
    style = f"{FONT} text-anchor='{anchor}' font-weight='{weight}' fill='#222'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(text)}</text>"


def _write(path: Path, title: str, bars: int, lines: Sequence[str]) -> None:
    height = HEAD + bars * (BAR + GAP) + 6
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img'>"
    background = f"<title>{escape(title)}</title><rect width='{WIDTH}' height='{height}' fill='#fff'/>"
    path.write_text("\n".join([head, background, *lines, "</svg>", ""]))

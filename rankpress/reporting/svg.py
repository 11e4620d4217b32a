"""Plots as SVG text: no script, no inline style; the colours are classes of the style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 264, 96
POINTS = 132  # more than one a device pixel nobody sees
DECADES = 6  # values below s_1 / 10^6 lie on the floor


def spectrum_plot(spectra: Sequence[Sequence[float]], rank: int | None, label: str) -> str:
    """log10(s_i / s_1) over i, for one spectrum or for each expert of a stack, with the cut after
    `rank` values. `label` says the same to who cannot see it."""
    count = len(spectra[0])
    lines = [_heights(s) for s in spectra]
    parts = [
        f'<svg class="spectrum" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}" preserveAspectRatio="none">'
    ]
    for decade in range(1, DECADES):
        y = _y(-decade)
        parts.append(f'<line class="grid" x1="0" x2="{WIDTH}" y1="{y}" y2="{y}"/>')
    opacity = "" if len(lines) == 1 else ' fill-opacity="0.25"'
    cut = None if rank is None or rank >= count else rank * WIDTH / count
    for heights in lines:
        edge = WIDTH if cut is None else cut
        kept = "kept" if rank is not None else "plain"
        parts.append(f'<path class="{kept}"{opacity} d="{_area(heights, 0, edge)}"/>')
        if cut is not None:
            parts.append(f'<path class="cut-off"{opacity} d="{_area(heights, cut, WIDTH)}"/>')
    if cut is not None:
        x = _round(cut)
        parts.append(f'<line class="cut" x1="{x}" x2="{x}" y1="0" y2="{HEIGHT}"/>')
    return "".join([*parts, "</svg>"])


def bar(value: float, mark: float | None, label: str) -> str:
    """A share in [0, 1] as a bar, with a tick at `mark` (the break-even)."""
    width = _round(100 * min(1.0, max(0.0, value)))
    tick = ""
    if mark is not None and mark < 1:
        x = _round(100 * mark)
        tick = f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="10"/>'
    return (
        f'<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}"><rect class="track" width="100" height="10"/>'
        f'<rect class="fill" width="{width}" height="10"/>{tick}</svg>'
    )


def _heights(s: Sequence[float]) -> list[tuple[float, float]]:
    """(x of the value's right edge, y), thinned out."""
    step = max(1, math.ceil(len(s) / POINTS))
    kept = sorted({*range(0, len(s), step), len(s) - 1})
    return [((i + 1) * WIDTH / len(s), _y(_log_share(s[i], s[0]))) for i in kept]


def _log_share(value: float, largest: float) -> float:
    return math.log10(value / largest) if value > 0 and largest > 0 else -DECADES


def _y(log_share: float) -> float:
    return _round(4 + (HEIGHT - 4) * min(DECADES, max(0.0, -log_share)) / DECADES)


def _area(heights: Sequence[tuple[float, float]], start: float, end: float) -> str:
    """The filled steps below the curve between two x."""
    path, x0 = f"M{_round(start)} {HEIGHT}", 0.0
    for x1, y in heights:
        left, right = max(x0, start), min(x1, end)
        if right > left:
            path += f"V{y}H{_round(right)}"
        x0 = x1
    return f"{path}V{HEIGHT}Z"


def _round(value: float) -> float | int:
    rounded = round(value, 1)
    return int(rounded) if rounded == int(rounded) else rounded

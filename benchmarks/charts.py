"""Charts as SVG, drawn by a few lines: bars with their rounds, and lines over a scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BAR_WIDTH, BAR_HEIGHT = 260, 34
LINE_WIDTH, LINE_HEIGHT, MARGIN = 520, 220, 56
TICKS = 4
NAMES_MAX = 10

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #6a737d; --rule: #d8dee4;
  --good: #1a7f37; --bad: #b35900; --mark: #0550ae }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #8b949e;
  --rule: #30363d; --good: #3fb950; --bad: #e3872d; --mark: #79c0ff } }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .5rem .6rem;
  border-bottom: 1px solid var(--rule) }
:is(td, th):nth-child(n+2):nth-child(-n+4) { text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums }
td:nth-child(n+6) { white-space: nowrap }
small { display: block; color: var(--soft); white-space: normal }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem }
dt { color: var(--soft) } dd { margin: 0 }
.met { color: var(--good); font-weight: 600 } .missed { color: var(--bad); font-weight: 600 }
svg { max-width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px }
.track { fill: var(--rule) } .good { fill: var(--good) } .bad { fill: var(--bad) }
.bound { stroke: var(--ink); stroke-width: 2 } .dot { fill: var(--paper); stroke: var(--ink) }
.axis { stroke: var(--rule) } .curve { fill: none; stroke: var(--mark); stroke-width: 2 }
.point { fill: var(--mark) } .spread { stroke: var(--mark); stroke-width: 1.5; opacity: .6 }
"""


def bar_chart(
    rounds: Sequence[float], *, median: float, bound: float, met: bool, label: str
) -> str:
    """One row's bar: its median, a dot for each round, a line at what is to reach."""
    top = max(*rounds, bound, median) * 1.1

    def x(value: float) -> float:
        return round(value / top * BAR_WIDTH, 1)

    dots = "".join(
        f'<circle class="dot" cx="{x(value)}" cy="{BAR_HEIGHT / 2}" r="3"/>' for value in rounds
    )
    return (
        f'<svg role="img" aria-label="{escape(label, quote=True)}" width="{BAR_WIDTH}" '
        f'height="{BAR_HEIGHT}" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}">'
        f'<rect class="track" y="10" width="{BAR_WIDTH}" height="14" rx="2" opacity=".5"/>'
        f'<rect class="{"good" if met else "bad"}" y="10" width="{x(median)}" height="14" rx="2"/>'
        f'{dots}<line class="bound" x1="{x(bound)}" x2="{x(bound)}" y1="3" y2="{BAR_HEIGHT - 3}"/>'
        "</svg>"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve. ``points`` are (x, y) with x above zero where ``log`` holds.

    ``spread`` has the lowest and the highest y of each point, or nothing.
    """

    title: str
    unit: str
    points: list[tuple[float, float]]
    spread: list[tuple[float, float]] = field(default_factory=list)
    log: bool = True


def line_chart(line: Line, *, axis: str) -> str:
    """A curve over its axis, from zero upwards, so that a flat one looks flat."""
    if not line.points:
        return f"<p>{escape(line.title)}: no points</p>"
    scale = math.log10 if line.log else float
    xs = [scale(x) for x, _ in line.points]
    left, right = min(xs), max(xs)
    highest = max(*(y for _, y in line.points), *(high for _, high in line.spread), 0.0)
    top = highest * 1.15 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        along = (x - left) / (right - left) if right > left else 0.5
        across = MARGIN + along * (LINE_WIDTH - MARGIN - 16)
        return round(across, 1), round((1 - y / top) * (LINE_HEIGHT - 48) + 20, 1)

    placed = [place(scale(x), y) for x, y in line.points]
    path = " ".join(f"{x},{y}" for x, y in placed)
    marks = "".join(f'<circle class="point" cx="{x}" cy="{y}" r="3.5"/>' for x, y in placed)
    for (x, _), (low, high) in zip(line.points, line.spread, strict=False):
        (at, bottom), (_, upper) = place(scale(x), low), place(scale(x), high)
        marks += f'<line class="spread" x1="{at}" x2="{at}" y1="{bottom}" y2="{upper}"/>'
    shown = thinned(line.points)
    names = "".join(
        f'<text x="{place(scale(x), 0)[0]}" y="{LINE_HEIGHT - 10}" text-anchor="middle">'
        f"{short(x)}</text>"
        for x, _ in shown
    )
    rules = ""
    for number in range(TICKS + 1):
        y = place(left, top * number / TICKS)[1]
        rules += (
            f'<line class="axis" x1="{MARGIN}" x2="{LINE_WIDTH}" y1="{y}" y2="{y}"/>'
            f'<text x="{MARGIN - 6}" y="{y + 4}" text-anchor="end">{short(top * number / TICKS)}'
            "</text>"
        )
    title = f"{line.title} ({line.unit}) by {axis}"
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg role="img" '
        f'aria-label="{escape(title, quote=True)}" width="{LINE_WIDTH}" height="{LINE_HEIGHT}" '
        f'viewBox="0 0 {LINE_WIDTH} {LINE_HEIGHT}">{rules}'
        f'<polyline class="curve" points="{path}"/>{marks}{names}</svg></figure>'
    )


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """So many of the points that what is written below them does not run together."""
    step = -(-len(points) // NAMES_MAX)
    return points[::step]


def short(value: float) -> str:
    """A number in few characters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"

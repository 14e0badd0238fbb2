"""Bars and lines as SVG, written by hand: a plotting library would be the largest dependency of the project."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

COLOURS = {"tinyport": "#2a6f97", "sshd": "#9c6644", "dropbear": "#6a994e", "target": "#bc4749"}
_FONT = 'font-family="system-ui, sans-serif" font-size="12"'
#: for names that are none of those, in their order
_OTHERS = ("#2a6f97", "#9c6644", "#6a994e", "#7b2cbf")
WIDTH, LEFT, RIGHT, ROW = 720, 290, 90, 22
#: a series with this at its end is drawn thin and dashed, and belongs to the one without
FITTED = ", line"
# What a label of a point or of a line needs, in pixels.
_LABEL_WIDTH, _LABEL_HEIGHT = 40, 15


def _colour(name: str, place: int = 0) -> str:
    return next((colour for key, colour in COLOURS.items() if key in name), _OTHERS[place % len(_OTHERS)])


def _steps(highest: float) -> list[float]:
    """Three to six round numbers from zero to ``highest`` at most."""
    step = 10 ** math.floor(math.log10(highest))
    while highest / step < 3:
        step /= 2 if f"{step:e}"[0] in "15" else 2.5
    while highest / step > 6:
        step *= 2
    return [step * count for count in range(int(highest / step) + 1)]


def _head(width: int, height: int, title: str) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {_FONT}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="12" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]


def bars(path: Path, title: str, unit: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Horizontal bars, a group for each key: name → value in ``unit``."""
    most = max(value for group in groups.values() for value in group.values()) or 1.0
    count = sum(len(group) for group in groups.values())
    height = 40 + count * ROW + len(groups) * 8
    lines = _head(WIDTH, height, f"{title} ({unit})")
    y = 36
    for label, group in groups.items():
        for turn, (name, value) in enumerate(group.items()):
            width = (WIDTH - LEFT - RIGHT) * value / most
            text = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
            if turn == 0:
                lines.append(f'<text x="12" y="{y + 13}">{escape(label)}</text>')
            lines.append(f'<text x="{LEFT - 6}" y="{y + 13}" text-anchor="end" fill="#555">{escape(name)}</text>')
            lines.append(
                f'<rect x="{LEFT}" y="{y}" width="{max(width, 1):.1f}" height="{ROW - 6}" fill="{_colour(name)}"/>'
            )
            lines.append(f'<text x="{LEFT + max(width, 1) + 5:.1f}" y="{y + 13}">{text}</text>')
            y += ROW
        y += 8
    path.write_text("\n".join([*lines, "</svg>"]) + "\n")


def lines(path: Path, title: str, across: str, unit: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """One line for each name, points (x, y) on linear axes from zero. See FITTED for a line through some points."""
    width, height, left, bottom, top = 640, 360, 60, 44, 36
    furthest = max(x for points in series.values() for x, _ in points) or 1.0
    highest = max(y for points in series.values() for _, y in points) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (width - left - 110) * x / furthest, height - bottom - (height - bottom - top) * y / highest

    drawn = _head(width, height, f"{title} ({unit})")
    for value in _steps(highest):
        _, y = place(0, value)
        drawn.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 110}" y2="{y:.1f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{value:,.6g}</text>')
    before = -math.inf
    measured = {name: points for name, points in series.items() if not name.endswith(FITTED)}
    for x in sorted({x for points in measured.values() for x, _ in points}):
        at, _ = place(x, 0)
        if at - before >= _LABEL_WIDTH or x == furthest:
            drawn.append(
                f'<text x="{at:.1f}" y="{height - bottom + 16}" text-anchor="middle" fill="#555">{x:,g}</text>'
            )
            before = at
    drawn.append(f'<text x="{left}" y="{height - 8}" fill="#555">{escape(across)}</text>')
    labels = []
    for turn, (name, points) in enumerate(measured.items()):
        colour = _colour(name, turn)
        placed = [place(x, y) for x, y in points]
        path_text = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawn.append(f'<polyline points="{path_text}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        if fitted := series.get(name + FITTED):
            ends = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in fitted))
            drawn.append(f'<polyline points="{ends}" fill="none" stroke="{colour}" stroke-dasharray="4 4"/>')
        labels.append((placed[-1][1], placed[-1][0], name, colour))
    at = -math.inf
    for y, x, name, colour in sorted(labels):
        at = max(y, at + _LABEL_HEIGHT)
        drawn.append(f'<text x="{x + 8:.1f}" y="{at + 4:.1f}" fill="{colour}">{escape(name)}</text>')
    path.write_text("\n".join([*drawn, "</svg>"]) + "\n")

"""Two charts as inline SVG: strips (one line per setting, a dot for every measured value) and a scatter of numbered points.

They stand on the same small canvas as the charts of `modelwright.report`, so that their labels can be read on a phone. What a colour
says is also said by a shape and by the table under the chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelwright.report import HEIGHT, WIDTH, Axis, Html, escape, grid, number, plot_axes, table

State = Literal["winner", "fits", "refused"]
COLOUR: dict[State, int] = {"winner": 2, "fits": 0, "refused": 5}
LEFT, RIGHT, TOP, BOTTOM = 116, 22, 6, 38
HEAD = 18
"""Room above for the words of a limit."""
LINE, NOTE = 22, 13
"""Height of a strip, and what a second line of its label adds."""
FAR = 4
"""A limit beyond so many times the greatest value is named at the edge: drawn to scale, it would push all values into a corner."""
SIDE_BY_SIDE = 14
"""Points of a scatter that are nearer than this would print their numbers over each other."""


@dataclass(frozen=True)
class Strip:
    """One line: its label with a quieter second one, every value, and what they come to (None: nothing)."""

    label: str
    note: str
    values: tuple[float, ...]
    middle: float | None
    state: State = "fits"


@dataclass(frozen=True)
class Band:
    """A shaded range of values."""

    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Limit:
    """A value that must not be passed."""

    value: float
    words: str


@dataclass(frozen=True)
class Point:
    """A numbered point of a scatter."""

    number: int
    x: float
    y: float
    words: str
    state: State = "fits"


def strip_chart(
    strips: Sequence[Strip],
    *,
    title: str,
    caption: str,
    axis: str,
    middle: str,
    band: Band | None = None,
    limit: Limit | None = None,
    span: tuple[float, float] | None = None,
) -> Html:
    """Strips below each other over one axis. axis: its name with its unit. middle: what the mark of a strip is (`median`). span:
    values that the axis holds in any case. Without a value it says so instead of drawing.
    """
    values = [value for strip in strips for value in (*strip.values, *_known(strip.middle))]
    if not values:
        return Html(f'<figure><figcaption>{escape(title)}</figcaption><p class="empty">No value was measured.</p></figure>')
    far = limit is not None and limit.value > FAR * max(values) and span is None
    shown = [*values, *(span or ()), *((band.low, band.high) if band else ()), *((limit.value,) if limit and not far else ())]
    x_axis = Axis.over(shown, LEFT, WIDTH - RIGHT)
    top = TOP if limit is None else TOP + HEAD
    tops = [top]
    for strip in strips:
        tops.append(tops[-1] + LINE + (NOTE if strip.note else 0))
    bottom = tops[-1] + 4
    parts = [_band(band, x_axis, top, bottom)] if band else []
    parts.append(_ticks(x_axis, top, bottom, axis))
    if limit:
        parts.append(_limit(limit, x_axis, top, bottom, far))
    parts += [_strip(strip, x_axis, height, middle) for strip, height in zip(strips, tops, strict=False)]
    numbers = table(
        ["setting", "note", middle, "every value"],
        [
            [strip.label, strip.note or None, strip.middle, escape(" · ".join(number(v, 4) for v in strip.values) or "–")]
            for strip in strips
        ],
        axis,
    )
    legend = _legend(strips, middle)
    if band:
        legend.append((band.words, '<rect class="h3" width="24" height="8"/>'))
    if limit and not far:
        legend.append((limit.words, '<path class="line s1" d="M12 0V8" stroke-dasharray="3 2"/>'))
    return _figure(title, caption, bottom + BOTTOM, "".join(parts), legend, numbers)


def scatter(points: Sequence[Point], *, title: str, caption: str, x_label: str, y_label: str) -> Html:
    """Numbered points over two axes."""
    x_axis, y_axis = plot_axes([point.x for point in points], [point.y for point in points])
    marks: list[str] = []
    taken: list[tuple[float, float]] = []
    for point in points:
        x, y = x_axis.at(point.x), y_axis.at(point.y)
        crowded = any(abs(x - other) < SIDE_BY_SIDE and abs(y - height) < SIDE_BY_SIDE for other, height in taken)
        taken.append((x, y))
        place = f'text-anchor="end" x="{x - 6:.1f}"' if crowded else f'x="{x + 6:.1f}"'
        tip = escape(f"cell {point.number}, {point.words}: {number(point.y, 4)} at {number(point.x, 4)}")
        marks.append(_shape(point.state, x, y, tip) + f'<text class="cell" {place} y="{y + 4:.1f}">{point.number}</text>')
    rows = [[str(point.number), escape(point.words), point.x, point.y] for point in points]
    legend = [("a cell that fits, with its number", '<circle class="dot s0" cx="12" cy="4" r="3"/>')]
    if any(point.state == "winner" for point in points):
        legend.append(("the winner", '<path class="dot s2" d="M12 0l5 4l-5 4l-5 -4z"/>'))
    numbers = table(["cell", "setting", x_label, y_label], rows)
    return _figure(title, caption, HEIGHT, grid(x_axis, y_axis, x_label, y_label) + "".join(marks), legend, numbers)


def _legend(strips: Sequence[Strip], middle: str) -> list[tuple[str, str]]:
    """What is drawn → its sample."""
    states = {strip.state for strip in strips if strip.middle is not None}
    dotted = {strip.state for strip in strips if strip.values}
    found = []
    if dotted - {"refused"}:
        found.append(("one request", '<circle class="dot s0" cx="12" cy="4" r="3"/>'))
    if "fits" in states:
        found.append((middle, '<path class="line s0" d="M12 0V8"/>'))
    if "winner" in states:
        found.append((f"{middle} of the winner", '<path class="line s2" d="M12 0l4 4l-4 4l-4 -4z"/>'))
    if "refused" in dotted:
        found.append(("one request, did not pass", '<circle class="line s5" cx="12" cy="4" r="2.5"/>'))
    if "refused" in states:
        found.append((f"{middle}, did not pass", '<path class="line s5" d="M12 0V8"/>'))
    return found


def _figure(title: str, caption: str, height: float, drawn: str, legend: Sequence[tuple[str, str]], numbers: Html) -> Html:
    items = "".join(f'<li><svg viewBox="0 0 24 8" aria-hidden="true">{mark}</svg>{escape(words)}</li>' for words, mark in legend)
    return Html(
        f"<figure><figcaption><strong>{escape(title)}.</strong> {escape(caption)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">{drawn}</svg>'
        f'<ul class="legend">{items}</ul><details><summary>Numbers</summary>{numbers}</details></figure>'
    )


def _known(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _band(band: Band, axis: Axis, top: float, bottom: float) -> str:
    low, high = axis.at(band.low), axis.at(band.high)
    return (
        f'<rect class="h3" x="{low:.2f}" y="{top:.1f}" width="{max(high - low, 1):.2f}" height="{bottom - top:.1f}">'
        f"<title>{escape(band.words)}</title></rect>"
    )


def _limit(limit: Limit, axis: Axis, top: float, bottom: float, far: bool) -> str:
    if far:
        return f'<text class="tick" text-anchor="end" x="{WIDTH - 2}" y="{top - 9}">{escape(limit.words)}, far beyond this edge →</text>'
    x = axis.at(limit.value)
    side = "end" if x > (LEFT + WIDTH) / 2 else "start"
    return (
        f'<path class="line s1" d="M{x:.2f} {top - 6}V{bottom:.1f}" stroke-dasharray="6 3"/>'
        f'<text class="tick" text-anchor="{side}" x="{x:.1f}" y="{top - 10}">{escape(limit.words)}</text>'
    )


def _ticks(axis: Axis, top: float, bottom: float, name: str) -> str:
    parts = [f'<path class="grid" d="M{LEFT} {bottom:.1f}H{WIDTH - RIGHT}"/>']
    for tick in axis.ticks:
        x, words = axis.at(tick), number(tick) if tick == int(tick) else f"{tick:g}"
        parts.append(f'<path class="grid" d="M{x:.1f} {top:.1f}V{bottom + 4:.1f}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 16:.1f}">{escape(words)}</text>')
    parts.append(f'<text class="axis" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{bottom + 33:.1f}">{escape(name)}</text>')
    return "".join(parts)


def _strip(strip: Strip, axis: Axis, top: float, middle: str) -> str:
    """Label, dots a little above and below each other, and the mark over them."""
    lower = NOTE / 2 if strip.note else 0
    y = top + LINE / 2 + lower
    parts = [f'<text class="axis" text-anchor="end" x="{LEFT - 8}" y="{y + 4 - lower:.1f}">{escape(strip.label)}</text>']
    if strip.note:
        parts.append(f'<text class="tick" text-anchor="end" x="{LEFT - 8}" y="{y + 4 + lower:.1f}">{escape(strip.note)}</text>')
    step = min(4.0, 12 / max(len(strip.values) - 1, 1))
    for place, value in enumerate(strip.values):
        tip = escape(f"{strip.label}, request {place + 1}: {number(value, 4)}")
        parts.append(_dot(strip.state, axis.at(value), y + step * (place - (len(strip.values) - 1) / 2), tip))
    if strip.middle is not None:
        tip = escape(f"{strip.label}, {middle}: {number(strip.middle, 4)}")
        parts.append(_mark(strip.state, axis.at(strip.middle), y, tip))
    if not strip.values and strip.middle is None:
        parts.append(f'<text class="tick" x="{LEFT + 6}" y="{y + 4:.1f}">not measured</text>')
    return "".join(parts)


def _mark(state: State, x: float, y: float, tip: str) -> str:
    shape = f"M{x:.2f} {y - 9:.1f}l8 9l-8 9l-8 -9z" if state == "winner" else f"M{x:.2f} {y - 8:.1f}v16"
    kind = f"line s{COLOUR[state]}{' winner' if state == 'winner' else ''}"
    return f'<path class="{kind}" d="{shape}"><title>{tip}</title></path>'


def _dot(state: State, x: float, y: float, tip: str) -> str:
    kind = "line s5" if state == "refused" else f"dot s{COLOUR[state]}"
    return f'<circle class="{kind}" cx="{x:.2f}" cy="{y:.1f}" r="{2.5 if state == "refused" else 3}"><title>{tip}</title></circle>'


def _shape(state: State, x: float, y: float, tip: str) -> str:
    if state == "winner":
        return f'<path class="dot s2 winner" d="M{x:.2f} {y - 7:.1f}l6 7l-6 7l-6 -7z"><title>{tip}</title></path>'
    return _dot(state, x, y, tip)

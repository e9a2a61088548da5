"""Building blocks of a self-contained HTML report: text, tables, line charts and heat maps as inline SVG, light and
dark, no script.

Every block is an `Html` string; plain strings given to a block are escaped. A page needs no network: no font, image,
script or style comes from anywhere else. Charts are drawn on a small canvas (360 units wide), so their labels stay
readable on a phone 390 pixels wide and grow with the column on a desk.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelwright.report_style import STYLE

WIDTH, HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 22, 10, 40
SERIES_COLOURS = 6
_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 4", "10 4")


class Html(str):
    """Markup that is already safe. Everything else is escaped when it is put into a block."""

    __slots__ = ()


@dataclass(frozen=True)
class Series:
    """One line: name and points (x, y). A point whose y is None or not finite leaves a gap.

    errors: half the length of the error bar at x, where there is one.
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    errors: Mapping[float, float | None] = field(default_factory=dict)

    def spread(self, x: float) -> float:
        """Half the length of the error bar at x, 0 where there is none."""
        return self.errors.get(x) or 0.0


def escape(value: object) -> Html:
    """`value` as markup: `Html` as it is, None as a dash, everything else as escaped text."""
    if isinstance(value, Html):
        return value
    return Html("–" if value is None else html.escape(str(value)))


def number(value: float | None, digits: int = 3) -> str:
    """A number for people: `digits` significant digits, thousands with a thin space, tiny ones with a power of ten,
    none
    as a dash.
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}".replace(",", "\u202f").replace("-", "−")
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def paragraph(*parts: object) -> Html:
    """A paragraph."""
    return Html(f"<p>{''.join(map(escape, parts))}</p>")


def strong(value: object) -> Html:
    """Emphasised text."""
    return Html(f"<strong>{escape(value)}</strong>")


def code(value: object) -> Html:
    """A command or path in a box that scrolls by itself."""
    return Html(f"<pre><code>{escape(value)}</code></pre>")


def facts(pairs: Mapping[str, object]) -> Html:
    """A list of names and values."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items())
    return Html(f"<dl>{rows}</dl>")


def table(header: Sequence[object], rows: Iterable[Sequence[object]], caption: str = "") -> Html:
    """A table; the first cell of each row is its header, numbers stand on the right. Raises ValueError for a row of
    another width.
    """
    body, numeric = [], [True] * len(header)
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells, the header {len(header)}")
        first, *rest = row
        cells = [_cell(value) for value in rest]
        numeric = [is_so and (i == 0 or 'class="number"' in cells[i - 1]) for i, is_so in enumerate(numeric)]
        body.append(f'<tr><th scope="row">{escape(first)}</th>{"".join(cells)}</tr>')
    head = "".join(
        f'<th scope="col"{" class=number" if i and body and numeric[i] else ""}>{escape(cell)}</th>' for i, cell in enumerate(header)
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return Html(f'<div class="wide"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>')


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    y_range: tuple[float, float] | None = None,
) -> Html:
    """Lines over x, told apart by colour and dash, with a legend and the numbers as a table under the chart.

    Logarithmic axes go by powers of two for x (lengths) and ten for y. Without a finite point it says so instead of
    drawing.
    """
    finite = [(x, y + end) for line in series for x, y in line.points if y is not None for end in _ends(line, x)]
    finite = [(x, y) for x, y in finite if _drawable(x, y, log_x, log_y)]
    if not finite:
        return Html(f'<figure><figcaption>{escape(title)}</figcaption><p class="empty">There is nothing to draw yet.</p></figure>')
    x_axis = Axis.over([x for x, _ in finite], _LEFT, WIDTH - _RIGHT, log_x, 2)
    y_axis = Axis.over(list(y_range) if y_range else [y for _, y in finite], HEIGHT - _BOTTOM, _TOP, log_y, 10)
    marks = "".join(_line(index, line, x_axis, y_axis, log_x, log_y) for index, line in enumerate(series))
    # Data of the chart for everyone who cannot see it, and for those who want the numbers.
    xs = sorted({x for line in series for x, _ in line.points})
    lookup = [dict(line.points) for line in series]
    numbers = table(
        [x_label, *(line.name for line in series)],
        [[number(x), *(_with_spread(line, x, found.get(x)) for line, found in zip(series, lookup, strict=True))] for x in xs],
    )
    legend = "".join(
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="line s{i % SERIES_COLOURS}" d="M0 4H24" '
        f'stroke-dasharray="{_DASHES[i % len(_DASHES)]}"/></svg>{escape(line.name)}</li>'
        for i, line in enumerate(series)
    )
    return Html(
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">'
        f'{grid(x_axis, y_axis, x_label, y_label)}{marks}</svg><ul class="legend">{legend}</ul>'
        f"<details><summary>Numbers</summary>{numbers}</details></figure>"
    )


def heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    title: str,
    row_label: str,
    column_label: str,
    texts: Sequence[Sequence[str]] | None = None,
) -> Html:
    """A grid of values 0..1, each cell with its percentage as text (never colour alone). `values[row][column]`, None
    where unknown.

    texts: what the cells say instead of a percentage, for values that only place a number on the colour scale.
    Raises ValueError when the grid has another size than its labels.
    """
    if len(values) != len(rows) or any(len(line) != len(columns) for line in values):
        raise ValueError(f"the grid must have {len(rows)} rows of {len(columns)} values")
    left, top, cell = 58, 34, 22
    width = (WIDTH - left - 4) / max(len(columns), 1)
    height = top + cell * len(rows) + 6
    parts = [
        f'<text class="axis" x="{left}" y="11">{escape(column_label)}</text><text class="axis" x="2" '
        f'y="{top - 6}">{escape(row_label)}</text>'
    ]
    for j, name in enumerate(columns):
        parts.append(f'<text class="tick" text-anchor="middle" x="{left + width * (j + 0.5):.1f}" y="{top - 6}">{escape(name)}</text>')
    for i, name in enumerate(rows):
        y = top + cell * i
        parts.append(f'<text class="tick" text-anchor="end" x="{left - 6}" y="{y + 15}">{escape(name)}</text>')
        for j, value in enumerate(values[i]):
            where = f"{row_label} {name}, {column_label} {columns[j]}"
            parts.append(_heat_cell(left + width * j, y, width, cell, value, where, None if texts is None else texts[i][j]))
    return Html(
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def section(title: str, *blocks: Html) -> Html:
    """A part of the page under its heading."""
    return Html(f"<section><h2>{escape(title)}</h2>{''.join(map(escape, blocks))}</section>")


def page(title: str, *sections: Html, lead: object = "", footer: object = "", language: str = "en") -> str:
    """The whole document as text, ready to be written to a `.html` file."""
    foot = f"<footer>{escape(footer)}</footer>" if footer else ""
    opening = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{escape(language)}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" '
        'content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{opening}\n{''.join(map(escape, sections))}\n</main>\n"
        f"{foot}\n</body>\n</html>\n"
    )


@dataclass(frozen=True)
class Axis:
    """Maps values to canvas units, `low` to `start` and `high` to `end`; `ticks` are values with round numbers."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float, log: bool = False, base: int = 10) -> Axis:
        """An axis that holds every one of these finite values. log: steps of powers of `base`; the values must be above 0."""
        low, high = min(values), max(values)
        if log:
            ticks = _log_ticks(low, high, base)
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        else:
            low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
            ticks = _linear_ticks(low, high)
            low, high = min(low, ticks[0]), max(high, ticks[-1])
        if low == high:
            low, high = low / 2, high * 2
        return cls(low, high, start, end, log, ticks)

    def at(self, value: float) -> float:
        """Where a value stands, in canvas units."""
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + (self.end - self.start) * share


def plot_axes(xs: Sequence[float], ys: Sequence[float]) -> tuple[Axis, Axis]:
    """The linear axes of a canvas of `WIDTH` by `HEIGHT` that holds these finite values; `grid` draws them."""
    return Axis.over(xs, _LEFT, WIDTH - _RIGHT), Axis.over(ys, HEIGHT - _BOTTOM, _TOP)


def _linear_ticks(low: float, high: float) -> tuple[float, ...]:
    """About five round values that cover the range."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


def _log_ticks(low: float, high: float, base: int) -> tuple[float, ...]:
    first = math.floor(math.log(low, base) + 1e-9)
    last = max(math.ceil(math.log(high, base) - 1e-9), first)
    step = max(1, math.ceil((last - first) / 7))
    return tuple(float(base) ** power for power in range(first, last + 1, step))


def _drawable(x: float, y: float | None, log_x: bool, log_y: bool) -> bool:
    return y is not None and math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)


def grid(x_axis: Axis, y_axis: Axis, x_label: str, y_label: str) -> str:
    """Lines, numbers and names of the two axes of a canvas of `WIDTH` by `HEIGHT`; see `plot_axes`."""
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{y + 4:.1f}">{escape(number(tick))}</text>')
    for tick in x_axis.ticks:
        x = x_axis.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {bottom}v4"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x:.1f}" y="{bottom + 15}">{escape(number(tick))}</text>')
    middle = (_TOP + bottom) / 2
    parts.append(f'<text class="axis" text-anchor="middle" x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 6}">{escape(x_label)}</text>')
    parts.append(f'<text class="axis" text-anchor="middle" transform="translate(10 {middle}) rotate(-90)">{escape(y_label)}</text>')
    return "".join(parts)


def _line(index: int, line: Series, x_axis: Axis, y_axis: Axis, log_x: bool, log_y: bool) -> str:
    path, pen = [], "M"
    dots, bars = [], []
    kind = f"s{index % SERIES_COLOURS}"
    for x, y in sorted(line.points, key=lambda point: point[0]):
        if y is None or not _drawable(x, y, log_x, log_y):
            pen = "M"
            continue
        at = _on_canvas(y_axis.at(y))
        low, high = (y + end for end in (_ends(line, x)[0], _ends(line, x)[-1]))
        if low < high:
            foot = _on_canvas(y_axis.at(low)) if _drawable(x, low, log_x, log_y) else HEIGHT - _BOTTOM
            bars.append(f"M{x_axis.at(x) - 3:.1f} {foot:.1f}h6m-3 0V{_on_canvas(y_axis.at(high)):.1f}m-3 0h6")
        path.append(f"{pen}{x_axis.at(x):.1f} {at:.1f}")
        tip = escape(f"{line.name}: {_with_spread(line, x, y)} at {number(x)}")
        dots.append(f'<circle class="dot {kind}" cx="{x_axis.at(x):.1f}" cy="{at:.1f}" r="3"><title>{tip}</title></circle>')
        pen = "L"
    marks = "".join(dots) if len(dots) <= 40 else ""  # a curve of many steps needs no dots
    spread = f'<path class="bar {kind}" d="{"".join(bars)}"/>' if bars else ""
    return f'{spread}<path class="line {kind}" d="{"".join(path)}" stroke-dasharray="{_DASHES[index % len(_DASHES)]}"/>{marks}'


def _ends(line: Series, x: float) -> tuple[float, ...]:
    """What the error bar at x adds to its point, below, at and above."""
    return (-line.spread(x), 0.0, line.spread(x))


def _with_spread(line: Series, x: float, y: float | None) -> str:
    return f"{number(y)} ± {number(line.spread(x), 2)}" if y is not None and line.spread(x) > 0 else number(y)


def _on_canvas(y: float) -> float:
    """A given y range may cut values off."""
    return min(max(y, _TOP), HEIGHT - _BOTTOM)


def _heat_cell(x: float, y: float, width: float, height: float, value: float | None, where: str, text: str | None = None) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width - 1:.1f}" height="{height - 1}"'
    middle = f'text-anchor="middle" x="{x + (width - 1) / 2:.1f}" y="{y + 15:.1f}"'
    if value is None or not math.isfinite(value):
        return f'<rect class="unknown" {place}><title>{escape(where)}: not measured</title></rect><text class="cell" {middle}>–</text>'
    share = min(max(value, 0.0), 1.0)
    level = round(share * 4)  # five steps of one hue, whose text colours are checked for contrast
    shown, said = (f"{share * 100:.0f}", f"{share * 100:.0f} %") if text is None else (text, text)
    return (
        f'<rect class="h{level}" {place}><title>{escape(where)}: {escape(said)}</title></rect>'
        f'<text class="cell t{level}" {middle}>{escape(shown)}</text>'
    )


def _cell(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f'<td class="number">{number(value)}</td>'
    looks_like_a_number = isinstance(value, str) and not isinstance(value, Html) and value[:1] in tuple("0123456789−–∞")
    return f'<td class="number">{escape(value)}</td>' if looks_like_a_number else f"<td>{escape(value)}</td>"

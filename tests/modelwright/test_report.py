from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from modelwright.report import (
    Html,
    Series,
    code,
    facts,
    heat_map,
    line_chart,
    number,
    page,
    paragraph,
    section,
    strong,
    table,
)
from modelwright.report_style import DARK, LIGHT

NASTY = "<script>alert(\"1\")</script> & 'x'"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Checker(HTMLParser):
    """Every element closed in order; collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(document: str) -> Checker:
    parser = Checker()
    parser.feed(document)
    parser.close()
    assert parser.open == []
    return parser


def full_page() -> str:
    lines = [
        Series(f"base {NASTY}", [(512, 4.0), (1024, 9.5), (2048, None)]),
        Series("stretched", [(512, 4.0), (1024, 3.9), (2048, 3.8)]),
    ]
    return page(
        f"Run {NASTY}",
        section(
            f"Results {NASTY}",
            paragraph("Plain ", strong(NASTY), NASTY),
            code(f"modelwright {NASTY}"),
            facts({NASTY: NASTY, "nothing": None}),
            table(["Length", NASTY], [[NASTY, 1.5], ["512", None]], caption=NASTY),
            line_chart(lines, title=NASTY, x_label=NASTY, y_label=NASTY, log_x=True),
            heat_map(
                ["0", NASTY],
                ["512", "1024"],
                [[0.0, 1.0], [None, 0.5]],
                title=NASTY,
                row_label=NASTY,
                column_label="tokens",
            ),
        ),
        lead=NASTY,
        footer=NASTY,
    )


def test_page_is_well_formed_and_holds_no_script() -> None:
    parser = checked(full_page())
    assert "script" not in parser.tags
    assert {"html", "head", "title", "body", "main", "h1", "svg", "table", "dl", "pre"} <= set(parser.tags)
    assert parser.text.count('<script>alert("1")</script>') >= 12  # the nasty text is all there, as text


def test_page_needs_nothing_from_elsewhere() -> None:
    document = full_page()
    parser = checked(document)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", document)
    assert not {"img", "link", "iframe", "object", "embed", "base"} & set(parser.tags)
    assert not [name for name, _ in parser.attributes if name in ("src", "href", "xlink:href") or name.startswith("on")]


def test_charts_are_well_formed_xml() -> None:
    for svg in re.findall(r"<svg.*?</svg>", full_page(), re.DOTALL):
        ElementTree.fromstring(svg)


def _numbers(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)]


def test_line_chart_geometry() -> None:
    chart = line_chart([Series("a", [(1024, 2.0), (512, 1.0), (2048, 3.0)])], title="t", x_label="x", y_label="y", log_x=True)
    (path,) = re.findall(r'class="line s0" d="(M[^"]+)" stroke-dasharray=""/><circle', chart)
    points = _numbers(path)
    assert len(points) == 3
    steps = [b[0] - a[0] for a, b in pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)  # doublings are equal steps
    rises = [a[1] - b[1] for a, b in pairwise(points)]
    assert rises[0] == pytest.approx(rises[1], abs=0.2) and rises[0] > 10  # upwards
    assert all(0 <= x <= 360 and 0 <= y <= 230 for x, y in points)
    assert "<title>a: 2 at 1\u202f024</title>" in chart


def test_gaps_infinities_and_nothing() -> None:
    gap = line_chart([Series("a", [(1, 1.0), (2, float("nan")), (3, 2.0), (4, float("inf"))])], title="t", x_label="x", y_label="y")
    (path,) = re.findall(r'class="line s0" d="([^"]*)" stroke-dasharray=""/><circle', gap)
    assert path.count("M") == 2 and "nan" not in gap and "inf" not in gap and "∞" in gap
    assert "nothing to draw" in line_chart([Series("a", [(1, None)])], title="t", x_label="x", y_label="y")
    assert "nothing to draw" in line_chart([Series("a", [(1, 0.0)])], title="t", x_label="x", y_label="y", log_y=True)


@pytest.mark.parametrize("points", [[(5, 5.0)], [(1, 0.0), (2, 0.0)], [(1, 1e-9), (2, 1e9)], [(1, -3.0), (9, -3.5)]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_ranges_stay_on_the_canvas(points: list[tuple[float, float]], log: bool) -> None:
    chart = line_chart([Series("a", points)], title="t", x_label="x", y_label="y", log_x=log, log_y=log)
    for x, y in _numbers(chart):
        assert 0 <= x <= 360 and 0 <= y <= 230
    assert len(re.findall(r'class="tick"', chart)) <= 24


def test_error_bars_span_their_errors_and_stay_on_the_canvas() -> None:
    line = Series("a", [(0, 1.0), (1, 2.0), (2, None)], {0: 0.5, 1: None, 2: 1.0})
    chart = line_chart([line], title="t", x_label="x", y_label="y")
    (bars,) = re.findall(r'class="bar s0" d="([^"]+)"', chart)
    (foot, top) = re.fullmatch(r"M[\d.]+ ([\d.]+)h6m-3 0V([\d.]+)m-3 0h6", bars).groups()  # type: ignore[union-attr]
    path, *_ = re.findall(r'class="line s0" d="([^"]+)"', chart)  # then the legend
    (_, first), (_, second) = _numbers(path)
    assert float(foot) - float(top) == pytest.approx(first - second, abs=0.2)  # 2 * 0.5, as far as from 1 to 2
    assert (float(foot) + float(top)) / 2 == pytest.approx(first, abs=0.2)
    assert "1 ± 0.50" in chart and "<title>a: 2 at 1</title>" in chart
    logarithmic = line_chart([Series("a", [(1, 1.0), (2, 9.0)], {1: 3.0})], title="t", x_label="x", y_label="y", log_y=True)
    assert "M" in re.findall(r'class="bar s0" d="([^"]+)"', logarithmic)[0] and "nan" not in logarithmic
    assert "bar s" not in line_chart([Series("a", [(1, 1.0)])], title="t", x_label="x", y_label="y")


def test_a_heat_map_can_say_something_else_than_a_percentage() -> None:
    chart = heat_map(["0"], ["1", "2"], [[0.0, None]], title="t", row_label="head", column_label="layer", texts=[["−0.4", ""]])
    assert "<title>head 0, layer 1: −0.4</title>" in chart and ">−0.4</text>" in chart and "not measured" in chart


def test_heat_map_says_its_numbers() -> None:
    chart = heat_map(["0", "50"], ["512"], [[1.0], [0.25]], title="t", row_label="depth", column_label="length")
    assert "<title>depth 50, length 512: 25 %</title>" in chart and ">100</text>" in chart
    with pytest.raises(ValueError, match="2 rows of 1 values"):
        heat_map(["0", "50"], ["512"], [[1.0]], title="t", row_label="d", column_label="l")


def test_numbers_for_people() -> None:
    assert [number(x) for x in (2048, 0.98765, 12.345, 1234.5, 1e-9, -2, float("inf"), float("nan"), None, 0)] == [
        "2\u202f048",
        "0.988",
        "12.3",
        "1\u202f234",
        "1.00e−09",
        "−2",
        "∞",
        "–",
        "–",
        "0",
    ]


def test_tables_refuse_a_torn_row() -> None:
    with pytest.raises(ValueError, match="3 cells, the header 2"):
        table(["a", "b"], [[1, 2, 3]])
    assert '<td class="number">2</td>' in table(["a", "b"], [["x", 2]])
    assert "<b>" in table([Html("<b>a</b>")], [])


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of WCAG 2 between two colours #rrggbb."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_contrast(scheme: dict[str, str]) -> None:
    for text in ("ink", "quiet"):
        assert _contrast(scheme[text], scheme["paper"]) >= 4.5
        assert _contrast(scheme[text], scheme["box"]) >= 4.5
    for i in range(6):
        assert _contrast(scheme[f"s{i}"], scheme["paper"]) >= 3
    for i in range(5):
        assert _contrast(scheme[f"t{i}"], scheme[f"h{i}"]) >= 4.5


def test_fits_a_phone() -> None:
    """Charts scale with the column and their text is at least 11 pixels at 390; wide tables scroll inside their own
    box.
    """
    document = full_page()
    assert 'name="viewport" content="width=device-width' in document
    assert set(re.findall(r'viewBox="0 0 (\d+) \d+" role', document)) == {"360"}
    assert re.search(r"\.tick, \.cell, \.axis \{ font: 1[1-9]px", document)
    assert '<div class="wide"><table>' in document

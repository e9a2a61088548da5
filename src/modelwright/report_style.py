"""The style sheet of reports: system fonts, light and dark by the reader's setting, one column from 320 pixels up.

Text keeps a contrast of at least 4.5 : 1 on its background in both schemes, lines and dots 3 : 1 (checked by
tests/modelwright/test_report.py).
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "quiet": "#57606a",
    "rule": "#d0d7de",
    "box": "#f3f5f7",
    "s0": "#0b63b8",
    "s1": "#b34700",
    "s2": "#1a7f37",
    "s3": "#8a3ffc",
    "s4": "#a11043",
    "s5": "#5c6670",
    "h0": "#f7e3d4",
    "h1": "#f0c9a5",
    "h2": "#d7d2a8",
    "h3": "#a9cfc0",
    "h4": "#0f6b5c",
    "t0": "#1b1f24",
    "t1": "#1b1f24",
    "t2": "#1b1f24",
    "t3": "#1b1f24",
    "t4": "#ffffff",
}
DARK = {
    "paper": "#14181d",
    "ink": "#e6eaef",
    "quiet": "#9aa5b1",
    "rule": "#39424d",
    "box": "#1e242b",
    "s0": "#6cb0f5",
    "s1": "#f59e5b",
    "s2": "#5ccf7b",
    "s3": "#b99bff",
    "s4": "#f5799f",
    "s5": "#a7b1bc",
    "h0": "#4a2f22",
    "h1": "#63452a",
    "h2": "#57552f",
    "h3": "#2f5d50",
    "h4": "#7fdcc6",
    "t0": "#e6eaef",
    "t1": "#e6eaef",
    "t2": "#e6eaef",
    "t3": "#e6eaef",
    "t4": "#0c1114",
}

_RULES = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
main, footer { max-width: 46rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1rem 0 .5rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--rule); padding-bottom: .25rem; }
.lead { font-size: 1.1rem; }
.empty, footer, figcaption, caption, dt { color: var(--quiet); }
figure { margin: 1rem 0; }
figcaption, caption { text-align: left; font-size: .95rem; margin-bottom: .25rem; }
figure > svg { display: block; width: 100%; height: auto; max-width: 40rem; }
.tick, .cell, .axis { font: 11px system-ui, sans-serif; fill: var(--quiet); }
.axis { fill: var(--ink); }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.bar { fill: none; stroke-width: 1.25; }
.unknown { fill: var(--box); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; margin: .25rem 0; }
.legend { font-size: .9rem; }
.legend svg { width: 24px; height: 8px; margin-right: .4rem; vertical-align: middle; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--rule); text-align: left; }
thead th { color: var(--quiet); font-weight: 600; }
tbody th { font-weight: 400; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
dl { margin: 1rem 0; }
dl > div { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .3rem 0; border-bottom: 1px solid var(--rule); }
dt { flex: 0 0 11rem; }
dd { margin: 0; flex: 1 1 12rem; min-width: 0; overflow-wrap: anywhere; }
pre { background: var(--box); padding: .75rem; border-radius: 6px; overflow-x: auto; font-size: .9rem; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--quiet); font-size: .9rem; padding: .35rem 0; }
@media print { details { display: block; } body { background: #fff; } }
"""


def _variables(scheme: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in scheme.items())


def _palette() -> str:
    rules = [f".s{i}{{stroke:var(--s{i})}}.dot.s{i}{{fill:var(--s{i});stroke:var(--paper)}}" for i in range(6)]
    rules += [f".h{i}{{fill:var(--h{i})}}.cell.t{i}{{fill:var(--t{i})}}" for i in range(5)]
    return "".join(rules)


STYLE = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}{_RULES}{_palette()}"
)

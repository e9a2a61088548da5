"""The four locked figures as PNG bytes: names, sizes, colours and labels are fixed, ranges follow the data. (specs/medic.md, 9)

Drawn with matplotlib's Agg canvas and its default settings, whatever the user's own are; no pyplot, so nothing global
changes. Matplotlib is imported inside the functions.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.paper.data import (
    BEST,
    NO_CONTRACTION,
    Point,
    amplification_reduction,
    clean_and_speed,
    known,
    score_curves,
    sensitivity_curves,
    shown_name,
)
from cachemedicpp.paper.inputs import RunResults
from modelwright.home import cache_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = "paper/figures"
SCORES = f"{FIGURES}/figA_score_vs_eps.png"
PARETO = f"{FIGURES}/figB_clean_vs_overhead_pareto.png"
SENSITIVITY = f"{FIGURES}/figC_logit_sensitivity.png"
AMPLIFICATION = f"{FIGURES}/figD_amplification_map.png"
COLOURS = {NO_DEFENCE: "#2D6CDF", BEST: "#F2994A", REPAIR: "#1F9D55", NO_CONTRACTION: "#C53D3D"}
DPI = 220
SIZE, MAP_SIZE = (7.0, 4.3), (7.1, 4.4)
"""Inches."""
_MARKERS = {NO_DEFENCE: "o", BEST: "s", REPAIR: "D", NO_CONTRACTION: "^"}
_WEIGHTS = {NO_DEFENCE: 2.0, BEST: 1.5, REPAIR: 1.0, NO_CONTRACTION: 0.8}
"""Curves drawn later are thinner, so that one which lies on another hides nothing."""
_BARS = "bars: ± 1 standard error"
_MOST_NUMBERED_HEADS, _MOST_NUMBERED_LAYERS = 10, 12


def draw_figures(results: RunResults) -> dict[str, bytes]:
    """Every figure, by its name within the run directory."""
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))  # where matplotlib keeps its list of fonts
    painters = {SCORES: _scores, PARETO: _pareto, SENSITIVITY: _sensitivity, AMPLIFICATION: _amplification}
    return {name: _png(paint, results, MAP_SIZE if name == AMPLIFICATION else SIZE) for name, paint in painters.items()}


def _png(paint: Callable[[RunResults, Figure, Axes], None], results: RunResults, size: tuple[float, float]) -> bytes:
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context("default"):
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        paint(results, figure, figure.add_subplot())
        held = io.BytesIO()
        canvas.print_png(held)
    return held.getvalue()


# ---------------------------------------------------------------------- the figures


def _scores(results: RunResults, figure: Figure, axes: Axes) -> None:
    curves = score_curves(results)
    for curve, points in curves.items():
        _curve(axes, points, curve, shown_name(results, curve))
    _labels(axes, "epsilon", "mean score (higher is better)")
    if last := known(curves[REPAIR])[-1:]:
        x, y, _ = last[0]
        axes.annotate(
            f"{y:.4f}", (x, y), xytext=(8, 0), textcoords="offset points", ha="left", va="center", color=COLOURS[REPAIR], fontweight="bold"
        )
    _ranges(axes, list(curves.values()), right=0.13)
    _legend(axes)


def _pareto(results: RunResults, figure: Figure, axes: Axes) -> None:
    named, places = [], []
    for curve, point in clean_and_speed(results).items():
        if point.clean is None or point.tokens_per_sec is None:
            continue
        error = point.clean_error or 0.0
        axes.errorbar(
            [point.clean],
            [point.tokens_per_sec],
            xerr=[error] if error else None,
            fmt=_MARKERS[curve],
            color=COLOURS[curve],
            markersize=8,
            capsize=3,
            elinewidth=1.1,
        )
        name = shown_name(results, curve) + (f", {point.form} form" if point.form else "")
        named.append((curve, name, point.clean, point.tokens_per_sec))
        places.append(Point(point.clean, point.tokens_per_sec, error))
    row = results.metrics["decode_overhead"][0]
    _labels(
        axes, f"clean score (higher is better; {_BARS})", f"tokens/s (decoding {row['batch']} prompts of {row['prompt_tokens']} tokens)"
    )
    if places:
        axes.set_xlim(*_padded([end for at in places for end in (at.x - (at.error or 0.0), at.x + (at.error or 0.0))], 0.15, 0.15))
        axes.set_ylim(*_padded([at.y for at in places if at.y is not None], 0.3, 0.3))
    _name_points(axes, named)


def _sensitivity(results: RunResults, figure: Figure, axes: Axes) -> None:
    curves = sensitivity_curves(results)
    if NO_CONTRACTION in curves:
        ours, other = ({x: y for x, y, _ in known(curves[curve])} for curve in (REPAIR, NO_CONTRACTION))
        both = sorted(ours.keys() & other.keys())
        axes.fill_between(both, [ours[x] for x in both], [other[x] for x in both], color=COLOURS[NO_CONTRACTION], alpha=0.12, linewidth=0)
    for curve, points in curves.items():
        name = shown_name(results, curve, results.details["best_heuristic_name"])
        _curve(axes, points, curve, name, "--" if curve == NO_CONTRACTION else "-")
    _labels(axes, "delta norm", "logit drift (L2)")
    _ranges(axes, list(curves.values()), below=0.03)
    _legend(axes)


def _amplification(results: RunResults, figure: Figure, axes: Axes) -> None:
    import numpy as np

    found, reduction = results.amplification, amplification_reduction(results)
    grid = np.array([[math.nan if value is None else value for value in row] for row in reduction], float)
    largest = float(np.nanmax(np.abs(grid))) if np.isfinite(grid).any() else 0.0
    limit = largest or 1.0
    axes.set_facecolor("#D9D9D9")  # cells that were not measured
    image = axes.imshow(np.ma.masked_invalid(grid), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(found["heads"])), [str(head) for head in found["heads"]])
    axes.set_yticks(range(len(found["layers"])), [str(layer) for layer in found["layers"]])
    axes.set_xlabel("head index")
    axes.set_ylabel("layer id")
    if grid.shape[0] <= _MOST_NUMBERED_LAYERS and grid.shape[1] <= _MOST_NUMBERED_HEADS:
        for (row, column), value in np.ndenumerate(grid):
            dark = abs(value) > 0.6 * limit
            text = "–" if math.isnan(value) else f"{value:+.2g}".replace("-", "−")
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    figure.colorbar(image, ax=axes, label="amplification: baseline − CacheMedic++\n(positive = reduction)")


# ---------------------------------------------------------------------- what they share


def _curve(axes: Axes, points: Sequence[Point], curve: str, name: str, line: str = "-") -> None:
    found, weight = known(points), _WEIGHTS[curve]
    axes.errorbar(
        [x for x, _, _ in found],
        [y for _, y, _ in found],
        yerr=[error for _, _, error in found] if any(error for _, _, error in found) else None,
        color=COLOURS[curve],
        linestyle=line,
        marker=_MARKERS[curve],
        markersize=3 + 2.2 * weight,
        linewidth=1.7 * weight,
        capsize=1 + 2.2 * weight,
        elinewidth=1.2 * weight,
        label=name,
    )


def _labels(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(visible=True, alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)


def _ranges(axes: Axes, curves: Sequence[Sequence[Point]], right: float = 0.04, below: float = 0.08) -> None:
    """Axis ranges that hold every point with its error bar. right, below: shares of width and height kept free there."""
    found = [point for points in curves for point in known(points)]
    if not found:
        axes.text(0.5, 0.5, "nothing was measured", transform=axes.transAxes, ha="center")
        return
    axes.set_xlim(*_padded([x for x, _, _ in found], 0.04, right))
    axes.set_ylim(*_padded([end for _, y, error in found for end in (y - error, y + error)], below, 0.08))


def _padded(values: Sequence[float], below: float, above: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    width = high - low or abs(high) * 0.1 or 1.0
    return low - below * width, high + above * width


def _name_points(axes: Axes, shown: Sequence[tuple[str, str, float, float]]) -> None:
    """Write the name (curve, name, x, y) beside each point, on the side that other points leave free."""
    if not shown:
        return
    centre = (min(x for _, _, x, _ in shown) + max(x for _, _, x, _ in shown)) / 2
    low, high = min(y for _, _, _, y in shown), max(y for _, _, _, y in shown)
    for curve, name, x, y in shown:
        above = y == high or (y != low and y - low < high - y)  # one in the middle: into the larger gap
        axes.annotate(
            name,
            (x, y),
            xytext=(0, 9 if above else -9),
            textcoords="offset points",
            ha="left" if x < centre else "right" if x > centre else "center",
            va="bottom" if above else "top",
            color=COLOURS[curve],
            fontsize="small",
            fontweight="bold",
        )


def _legend(axes: Axes) -> None:
    legend = axes.legend(title=_BARS, fontsize="small", framealpha=0.9, loc="best")
    legend.get_title().set_fontsize("small")

"""The measured half of the report: harm, gain, clean cost, speed and stability, as sections of the page. No torch, no matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cachemedicpp.evaluation.grid import NO_DEFENCE
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.evaluation.records import CURVES
from cachemedicpp.paper.data import (
    Point,
    amplification_reduction,
    cells_of,
    defence_of,
    score_curves,
    sensitivity_curves,
    shown_name,
    task_curves,
)
from cachemedicpp.paper.inputs import RunResults
from cachemedicpp.paper.report_words import (
    cell_name,
    change_text,
    damage_name,
    damaged_cells,
    interval_text,
    is_better,
    is_worse,
    paired,
    ratio_text,
    rivals,
    signed,
    stability,
    task_name,
)
from modelwright.report import Html, Series, escape, heat_map, line_chart, number, paragraph, section, table

# ---------------------------------------------------------------------- evaluation


def harm_section(results: RunResults) -> Html:
    """What each cell of the grid did to the undefended model."""
    tables = []
    for task, values in results.metrics["clean_metrics"].items():
        losses = task in PERPLEXITY_TASKS
        factor, unit = (1.0, "nats per token") if losses else (100.0, "points")
        rows = []
        for cell in (cell for cell in damaged_cells(results) if cell["task"] == task):
            place = {"kind": cell["corruption_type"], "eps": cell["epsilon"]}
            damaged = cells_of(results, task=task, defence=NO_DEFENCE, **place)[0]
            shown = _with_error(damaged["value"], damaged["standard_error"])
            rows.append([damage_name(cell), shown, escape(interval_text(cell["loss"], factor)), "no_harm" if cell["no_harm"] else "yes"])
        header = ["damage", "perplexity" if losses else "accuracy", f"lost, {unit} [95 % interval]", "harmed"]
        tables.append(table(header, rows, f"{task_name(results, task)} without defence; {number(values.get(NO_DEFENCE))} on clean caches"))
    excluded = results.metrics.get("excluded_tasks") or {}
    return section(
        "Did the damage harm?",
        paragraph(
            "The model without any defence, on a clean and on a damaged cache. A cell counts as harmed when the whole interval of its loss "
            "(paired bootstrap over examples) is positive; what is marked no_harm shows nothing about any defence and counts for no gate."
        ),
        *(paragraph(f"{task_name(results, task)} is in no average: {reason}.") for task, reason in excluded.items()),
        *tables,
    )


def gain_section(results: RunResults) -> Html:
    """Curves with error bars, and the repair against its rivals, cell by cell."""
    charts = [
        line_chart(
            _series(results, score_curves(results)),
            title="Mean score over tasks and types (higher is better; an accuracy, or 1 / perplexity), ± 1 standard error",
            x_label="epsilon",
            y_label="mean score",
        )
    ]
    for task in results.metrics["clean_metrics"]:
        direction = "lower" if task in PERPLEXITY_TASKS else "higher"
        title = f"{task_name(results, task)}, mean over types ({direction} is better), ± 1 standard error"
        label = "perplexity" if task in PERPLEXITY_TASKS else "accuracy"
        charts.append(line_chart(_series(results, task_curves(results, task)), title=title, x_label="epsilon", y_label=label))
    overall = [
        [what, *(_compared(paired(results, quantity, rival)) for rival, _ in rivals(results))]
        for quantity, what in (("robustness_auc", "area under the score curve"), ("clean_score", "clean score"))
    ]
    header = [f"minus {name}" for _, name in rivals(results)]
    harmed, spared = (_cell_rows(results, no_harm) for no_harm in (False, True))
    cells = table(["score in a cell", *header], harmed, "Cells in which the undefended model was harmed")
    return section(
        "Does the repair bring it back?",
        *charts,
        paragraph(
            "Differences are the repair minus the other, so positive is better, with paired 95 % bootstrap intervals over the examples "
            "of this run."
        ),
        table(["over the whole grid", *header], overall),
        cells if harmed else paragraph("No cell was harmed."),
        *([_folded(f"The {len(spared)} cells marked no_harm", table(["score in a cell", *header], spared))] if spared else []),
    )


def _cell_rows(results: RunResults, no_harm: bool) -> list[list[object]]:
    rows: list[list[object]] = []
    for cell in damaged_cells(results):
        if cell["no_harm"] is no_harm:
            of_cell = [[row for row in paired(results, "score", rival) if _place(row) == _place(cell)] for rival, _ in rivals(results)]
            rows.append([cell_name(results, cell), *map(_compared, of_cell)])
    return rows


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["corruption_type"], row["epsilon"]


def _compared(rows: Sequence[Mapping[str, Any]]) -> Html:
    """A difference with its interval, and what it says."""
    if not rows:
        return escape(None)
    difference = rows[0]["difference"]
    word = "better" if is_better(difference) else "worse" if is_worse(difference) else "undecided"
    return Html(f"{escape(interval_text(difference))}<br>{word}")


def clean_section(results: RunResults) -> Html:
    """Every task on clean caches."""
    errors = results.metrics.get("clean_standard_errors") or {}
    rows = []
    for task, values in results.metrics["clean_metrics"].items():
        shown = [_with_error(values.get(name), errors.get(task, {}).get(name)) for name in (defence_of(results, curve) for curve in CURVES)]
        before, after = values.get(NO_DEFENCE), values.get(CURVES[-1])
        change = escape(change_text(task, before, after)) if before is not None and after is not None else None
        rows.append([task_name(results, task), *shown, change])
    header = ["task", *(shown_name(results, curve) for curve in CURVES), "the repair changes it by"]
    return section(
        "What it costs on a clean cache",
        paragraph("Every defence works on clean caches too, for it cannot know that they are clean. Values with their standard errors."),
        table(header, rows),
    )


def speed_section(results: RunResults) -> Html:
    """The decode benchmark."""
    rows = results.metrics["decode_overhead"]
    plain = next((row["decode_ms_per_token"] for row in rows if row["defense"] == NO_DEFENCE), None)
    body = [
        [
            row["defense"] + (f", {row['form']}" if row["form"] else ""),
            number(row["decode_tokens_per_sec"]),
            number(row["decode_ms_per_token"]),
            ratio_text(row["decode_ms_per_token"], plain),
            number(row["prefill_ms"]),
            number(row["cache_bytes_per_token"]),
        ]
        for row in rows
    ]
    header = ["defence", "tokens/s", "ms per step", "× no defence", "prefill ms", "cache B/token"]
    first = rows[0]
    text = (
        f"Decoding {first['batch']} prompts of {first['prompt_tokens']} tokens, median of {first['repeats']} steps after a warm-up. A "
        "heuristic works once, after the prefill; the repair works in every step. The materialised form is the reference and never serves."
    )
    return section("What it costs in time", paragraph(text), table(header, body))


# ---------------------------------------------------------------------- stability


def stability_section(results: RunResults) -> Html:
    """Sensitivity curves and the amplification map."""
    details, found = results.details, results.amplification
    heuristic = details["best_heuristic_name"]
    series = [_as_series(shown_name(results, curve, heuristic), points) for curve, points in sensitivity_curves(results).items()]
    skipped = details.get("skipped_prompts")
    reduction = amplification_reduction(results)
    largest = max((abs(value) for row in reduction for value in row if value is not None), default=0.0) or 1.0
    texts = [["–" if value is None else signed(value) for value in column] for column in zip(*reduction, strict=True)]
    shares = [[None if value is None else 0.5 + 0.5 * value / largest for value in column] for column in zip(*reduction, strict=True)]
    return section(
        "How far do the logits drift?",
        paragraph(stability(results)),
        line_chart(
            series, title="Logit drift under a small disturbance of the cache, ± 1 standard error", x_label="delta", y_label="drift (L2)"
        ),
        paragraph(
            f"{details['num_prompts']} prompts, {details['num_directions']} directions each, the {details['topk_logits']} largest logits; "
            + (f"{skipped} lines were too short and skipped; " if skipped else "")
            + "distances are to the logits of the clean cache without repair, so the value at 0 is what a defence changes where nothing is "
            "disturbed."
        ),
        heat_map(
            [str(head) for head in found["heads"]],
            [str(layer) for layer in found["layers"]],
            shares,
            title="Amplification without the repair minus with it: positive (green) is a reduction",
            row_label="head",
            column_label="layer",
            texts=texts,
        ),
    )


# ---------------------------------------------------------------------- blocks


def _series(results: RunResults, curves: Mapping[str, Sequence[Point]]) -> list[Series]:
    return [_as_series(shown_name(results, curve), points) for curve, points in curves.items()]


def _as_series(name: str, points: Sequence[Point]) -> Series:
    return Series(name, [(point.x, point.y) for point in points], {point.x: point.error for point in points})


def _with_error(value: float | None, error: float | None) -> str:
    return number(value) if value is None or error is None else f"{number(value)} ± {number(error, 2)}"


def _folded(title: str, content: Html) -> Html:
    return Html(f"<details><summary>{escape(title)}</summary>{content}</details>")

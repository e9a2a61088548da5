"""The report of a run in sentences: what was damaged, whether it harmed, whether the repair helped, and what it cost. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cachemedicpp.evaluation.grid import NO_DEFENCE, REPAIR
from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS
from cachemedicpp.paper.data import NO_CONTRACTION, SENSITIVITY_CURVES
from cachemedicpp.paper.gate_rules import Gate
from cachemedicpp.paper.inputs import RunResults
from cachemedicpp.sensitivity.counterpart import MISSING_PAIR, PAIR_CHECKPOINT_MISSING
from modelwright.report import number

_TASKS = {
    "wikitext2_ppl": "WikiText-2 perplexity",
    "sst2_prompted": "SST-2 accuracy",
    "needle_long_context": "needle accuracy",
    "passkey": "passkey accuracy",
}
_OFFLINE_TASKS = {"wikitext2_ppl": "text perplexity", "sst2_prompted": "sentiment accuracy"}
"""The offline files are not the data sets that the tasks are named after."""
TYPES = {
    "gaussian": "Gaussian noise",
    "dropout_zero": "values set to zero",
    "orthogonal_rotation": "a rotation",
    "bitflipish_sparse": "sparse jumps like bit flips",
    "quant_noise": "coarse quantisation",
    "contiguous_overwrite": "a block of a foreign text",
    "targeted": "targeted damage",
}
ONE_RUN = "One run of one seed decides no gate: that takes at least five seeds and paired intervals."
_SCOPE_OF_TIME = {
    "all_past": "every cached token",
    "window": "the cached tokens {window}",
    "old_only": "every cached token but the newest {N_recent}",
}


def verdict(results: RunResults) -> str:
    """The outcome in two sentences: over the whole grid, and on undamaged caches."""
    found = [(name, rows[0]["difference"]) for rival, name in rivals(results) if (rows := paired(results, "robustness_auc", rival))]
    sentence = listed((f"{outcome(difference)} {name}" for name, difference in found), ", and ")
    return " ".join(part for part in (f"Over the whole grid the repair {sentence}." if found else "", clean_cost(results)) if part)


def in_short(results: RunResults, gates: Sequence[Gate]) -> dict[str, object]:
    """The report in a few labelled sentences."""
    parts = {
        "what was damaged": damage(results),
        "did it harm": harm(results),
        "did the repair help": gain(results),
        "stability": stability(results),
        "gates": f"{fallen(gates)} {ONE_RUN}".strip(),
    }
    return {name: text for name, text in parts.items() if text}


def rivals(results: RunResults) -> tuple[tuple[str, str], ...]:
    """What the repair is compared with, and what sentences call it."""
    return (NO_DEFENCE, "no defence"), (results.best_heuristic, f"the best heuristic ({results.best_heuristic})")


def damage(results: RunResults) -> str:
    """What was damaged, where and how much."""
    config, axes = results.config, results.config.corruption.axes
    window = "" if axes.window is None else f"{axes.window[0]} to {axes.window[1] - 1}"
    region = _SCOPE_OF_TIME[axes.time_mode].format(window=window, N_recent=axes.N_recent)
    layers = ", ".join(map(str, config.repair.protect_layers))
    kinds = listed(TYPES.get(kind, kind) for kind in results.settings["types"])
    eps = listed(f"{value:g}" for value in results.settings["eps"] if value > 0)
    measured = listed(task_name(results, task) for task in results.metrics["clean_metrics"])
    offline = " Text and reviews are the offline files, not WikiText-2 and SST-2." if config.data.use_offline else ""
    return (
        f"In {config.model.name} the keys and values of {region} were damaged in layers {layers} by {kinds}, at epsilon {eps or '0'}. "
        f"Measured on what was left: {measured}.{offline}"
    )


def harm(results: RunResults) -> str:
    """How many cells the damage harmed, and which it did not."""
    cells = damaged_cells(results)
    spared = [cell for cell in cells if cell["no_harm"]]
    if not cells:
        return "The grid holds no epsilon above 0, so nothing was damaged."
    if not spared:
        return f"The damage measurably harmed the undefended model in all {len(cells)} cells."
    if len(spared) == len(cells):
        return (
            f"In none of the {len(cells)} cells was the undefended model measurably harmed, so all are marked no_harm and none can show "
            "a repair."
        )
    harmed = len(cells) - len(spared)
    return (
        f"The damage measurably harmed the undefended model in {harmed} of {len(cells)} cells. The others are marked no_harm and count for "
        f"no gate: {_grouped(results, spared, cells)}."
    )


def _grouped(results: RunResults, spared: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]]) -> str:
    """Cells by task and corruption type, short: `needle accuracy under Gaussian noise at 0.08 and 0.32; …`."""
    parts = []
    for task in dict.fromkeys(cell["task"] for cell in spared):
        own = [cell for cell in spared if cell["task"] == task]
        if len(own) == sum(cell["task"] == task for cell in cells):
            parts.append(f"{task_name(results, task)} in all {len(own)} cells")
            continue
        kinds = {kind: [f"{cell['epsilon']:g}" for cell in own if cell["corruption_type"] == kind] for kind in TYPES}
        named = listed((f"{TYPES[kind]} at {listed(eps)}" for kind, eps in kinds.items() if eps), ", ")
        parts.append(f"{task_name(results, task)} under {named}")
    return "; ".join(parts)


def gain(results: RunResults) -> str:
    """Whether the repair beats no defence and the best heuristic, over the grid and on the harmed cells."""
    sentences = []
    for rival, name in rivals(results):
        found = paired(results, "robustness_auc", rival)
        if found:
            area = area_of(results, rival)
            change = interval_text(found[0]["difference"], 100.0 / area if area else 1.0, " %" if area else "")
            sentences.append(f"The area under the score curve differs from that of {name} by {change}.")
        harmed = [row["difference"] for row in paired(results, "score", rival) if not row["no_harm"]]
        if harmed:
            better, worse = (sum(test(row) for row in harmed) for test in (is_better, is_worse))
            undecided = len(harmed) - better - worse
            sentences.append(
                f"Of the {len(harmed)} harmed cells the repair is better in {better}, worse in {worse}, undecided in {undecided}."
            )
    return " ".join(sentences)


def area_of(results: RunResults, defence: str) -> float | None:
    """The area under the score curve of no defence or a heuristic."""
    metrics = results.metrics
    found = metrics["robustness_auc"].get(defence) if defence == NO_DEFENCE else metrics["heuristic_auc"].get(defence)
    return None if found is None else float(found)


def clean_cost(results: RunResults) -> str:
    """What the repair changes where nothing is damaged."""
    changes = []
    for task, values in results.metrics["clean_metrics"].items():
        before, after = values.get(NO_DEFENCE), values.get(REPAIR)
        if before is not None and after is not None:
            changes.append(f"{task_name(results, task)} by {change_text(task, before, after)} ({number(before)} → {number(after)})")
    return f"On undamaged caches the repair changes {listed(changes)}." if changes else ""


def stability(results: RunResults) -> str:
    """How the repaired logits drift under small disturbances, against no defence and against no contraction."""
    point = next((point for point in results.sensitivity if point["delta_norm"] >= 1.0), None)
    point = point or next((point for point in reversed(results.sensitivity) if point["delta_norm"] > 0), None)
    if point is None:
        return ""
    curves = {curve: point.get(stored) or {} for stored, curve in SENSITIVITY_CURVES.items()}
    repaired, plain = curves[REPAIR], curves[NO_DEFENCE]
    sentences = [
        f"Disturbed at delta {point['delta_norm']:g}, the repaired logits drift {number(repaired['value'])} from the clean undefended "
        f"ones, {ratio_text(repaired['value'], plain['value'])} times as far as without defence; at delta 0 they already drift "
        f"{number(repaired['value_at_zero'])}."
    ]
    if repaired.get("response") is not None and plain.get("response"):
        ratio = ratio_text(repaired["response"], plain["response"])
        sentences.append(f"From its own undisturbed logits the repaired model drifts {ratio} times as far as the undefended one.")
    sentences.append(_contraction(results, {curve: values.get("value") for curve, values in curves.items()}))
    return " ".join(sentences)


def _contraction(results: RunResults, values: Mapping[str, float | None]) -> str:
    train = results.config.train
    if train.lambda_contr == 0:
        return "This run was itself trained without the contraction penalty."
    source = results.details["cachemedic_no_contr_source"]
    if source == MISSING_PAIR:
        return "No run without the contraction penalty was there to compare with."
    if source == PAIR_CHECKPOINT_MISSING:
        return "The run without the contraction penalty has no checkpoint to compare with."
    ratio = ratio_text(values[REPAIR], values[NO_CONTRACTION])
    return f"With the contraction penalty ({train.lambda_contr:g}) the drift is {ratio} times that without it."


def fallen(gates: Sequence[Gate]) -> str:
    """The clauses of the gates as they fall in this run."""
    met: list[str] = []
    unmet: list[str] = []
    for gate in gates:
        for clause in gate.clauses:
            how = clause_met(clause.needed, [row.met for row in clause.rows])
            if how is not None:
                (met if how else unmet).append(f"{clause.name} (gate {gate.number})")
    sentences = [f"As this run falls, met: {listed(met, '; ')}." if met else "", f"Not met: {listed(unmet, '; ')}." if unmet else ""]
    return " ".join(sentence for sentence in sentences if sentence)


def clause_met(needed: int | None, rows: Sequence[bool]) -> bool | None:
    """Whether the points of a run meet a clause, all rows or at least `needed`; None where nothing was measured."""
    if not rows:
        return None
    return sum(rows) >= (len(rows) if needed is None else needed)


# ---------------------------------------------------------------------- words


def damaged_cells(results: RunResults) -> list[dict[str, Any]]:
    """The cells with epsilon > 0 and what each did to the undefended model."""
    return [cell for cell in (results.metrics.get("harm") or {}).get("cells", ()) if cell["epsilon"] > 0]


def paired(results: RunResults, quantity: str, rival: str) -> list[dict[str, Any]]:
    """The paired comparisons of the repair with `rival`; of scores only those with epsilon > 0."""
    rows = [row for row in results.metrics.get("paired") or () if row["quantity"] == quantity and row["theirs"] == rival]
    return [row for row in rows if row["epsilon"] is None or row["epsilon"] > 0]


def task_name(results: RunResults, task: str) -> str:
    """What a task measures, in words."""
    names = _TASKS | (_OFFLINE_TASKS if results.config.data.use_offline else {})
    return names.get(task, task)


def cell_name(results: RunResults, cell: Mapping[str, Any]) -> str:
    """`needle accuracy under Gaussian noise at 0.08`."""
    return f"{task_name(results, cell['task'])} under {damage_name(cell)}"


def damage_name(cell: Mapping[str, Any]) -> str:
    """`Gaussian noise at 0.08`."""
    kind = cell["corruption_type"]
    return f"{TYPES.get(kind, kind)} at {cell['epsilon']:g}"


def is_better(difference: Mapping[str, Any]) -> bool:
    """Whether the whole interval of a difference is positive."""
    return difference["low"] is not None and difference["low"] > 0


def is_worse(difference: Mapping[str, Any]) -> bool:
    """Whether the whole interval of a difference is negative."""
    return difference["high"] is not None and difference["high"] < 0


def outcome(difference: Mapping[str, Any]) -> str:
    """What an interval says, to be followed by the name of the rival."""
    return "is better than" if is_better(difference) else "is worse than" if is_worse(difference) else "cannot be told apart from"


def interval_text(difference: Mapping[str, Any], factor: float = 1.0, unit: str = "") -> str:
    """`+0.012 [−0.001, +0.025]`: the estimate and its 95 % interval, with two digits of the interval's width."""
    estimate, low, high = (None if difference[part] is None else factor * difference[part] for part in ("estimate", "low", "high"))
    if estimate is None or low is None or high is None or low == high:
        return f"{signed(estimate)}{unit} [{signed(low)}, {signed(high)}]"
    decimals = max(0, 1 - math.floor(math.log10(high - low)))
    first, *ends = (_rounded(value, decimals) for value in (estimate, low, high))
    return f"{first}{unit} [{', '.join(ends)}]"


def _rounded(value: float, decimals: int) -> str:
    """A difference with its sign; without one where it is rounded to 0."""
    text = f"{value:+.{decimals}f}".replace("-", "−")
    return text if round(value, decimals) else text[1:]


def signed(value: float | None, digits: int = 2) -> str:
    """A difference for people, with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def change_text(task: str, before: float, after: float) -> str:
    """The change of a metric: percent of a perplexity, points of an accuracy."""
    if task in PERPLEXITY_TASKS:
        return f"{signed(100.0 * (after / before - 1.0))} %" if before else "–"
    return f"{signed(100.0 * (after - before))} points"


def ratio_text(ours: float | None, theirs: float | None) -> str:
    """A ratio with two decimals, a dash where it cannot be taken."""
    return "–" if ours is None or not theirs else f"{ours / theirs:.2f}"


def listed(words: Iterable[str], between: str = ", ") -> str:
    """`a, b and c`; with another separator than a comma that one throughout."""
    found = list(words)
    if between != ", " or len(found) < 2:
        return between.join(found)
    return f"{', '.join(found[:-1])} and {found[-1]}"

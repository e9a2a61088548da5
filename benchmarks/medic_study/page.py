"""The study as Markdown: one table of gains by task, one of cells, and the gates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cachemedicpp.evaluation.outcomes import PERPLEXITY_TASKS

Result = Mapping[str, Any]
RIVALS = {"no defence": "no defence", "best heuristic": "the best heuristic", "control": "the control", "A": "A"}
TASKS = {"wikitext2_ppl": "text, nats per token", "sst2_prompted": "sentiment, points", "needle_long_context": "needle, points"}


def page(result: Result) -> list[str]:
    """All lines of the section."""
    entries = result["results"]
    lines: list[str] = []
    for model in dict.fromkeys(entry["model"] for entry in entries):
        lines += model_lines(model, [entry for entry in entries if entry["model"] == model])
    return [*lines, *drift_lines(result["drift"]), *gate_lines(result)]


def model_lines(model: str, entries: Sequence[Result]) -> Iterator[str]:
    """The tables of one model."""
    seeds = ", ".join(map(str, entries[0]["seeds"]))
    yield ""
    yield f"**`{model}`**, seeds {seeds}. Gain of each repair over each rival, mean over the cells that harm the undefended model in"
    yield "every run:"
    yield ""
    head = ("repair", "measured on", "cells", "harm undone", *(f"over {rival}" for rival in RIVALS.values()), "on clean caches")
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for entry in entries:
        harm = {row["task"]: row for row in entry["harm"]}
        for task in TASKS:
            clean = next((row for row in entry["clean"] if row["task"] == task), None)
            if clean is None:
                continue
            own = harm.get(task)
            rivals = {row["rival"]: row for row in entry["pooled"] if row["task"] == task}
            gains = [gain(rivals.get(rival), task) for rival in RIVALS]
            undone = f"{100 * own['undone']:.0f} %" if own else "–"
            cells = own["cells"] if own else "none harmed"
            yield f"| {entry['repair']} | {TASKS[task]} | {cells} | {undone} | {' | '.join(gains)} | {gain(clean, task)} |"
    yield ""
    yield "Cells decided, over no defence (better / worse / undecided), by kind of damage:"
    yield ""
    kinds = list(dict.fromkeys(cell["type"] for entry in entries for cell in entry["cells"]))
    yield f"| repair | {' | '.join(kinds)} |"
    yield f"|{'---|' * (1 + len(kinds))}"
    for entry in entries:
        yield f"| {entry['repair']} | {' | '.join(tally(entry, kind) for kind in kinds)} |"
    yield ""


def gain(row: Result | None, task: str) -> str:
    """`+0.12 [+0.05, +0.19]`, in bold when the interval leaves 0 out."""
    if row is None:
        return "–"
    scale, digits = (1.0, 3) if task in PERPLEXITY_TASKS else (100.0, 1)
    text = f"{scale * row['estimate']:+.{digits}f} [{scale * row['low']:+.{digits}f}, {scale * row['high']:+.{digits}f}]"
    return text if row["verdict"] == "undecided" else f"**{text}**"


def tally(entry: Result, kind: str) -> str:
    """Verdicts of the cells of one kind of damage against no defence."""
    found = [cell["verdict"] for cell in entry["cells"] if cell["rival"] == "no defence" and cell["type"] == kind]
    return " / ".join(str(found.count(word)) for word in ("better", "worse", "undecided")) if found else "none harmed"


def drift_lines(rows: Sequence[Result]) -> Iterator[str]:
    """Drift and response by norm; nothing where no stability was measured."""
    if not rows:
        return
    yield "Drift of the next-token logits from the clean, undefended ones when the cache is disturbed by a small amount, mean over seeds."
    yield "*Response* is taken from the same curve's own undisturbed logits: a repair moves those of an undamaged cache too."
    yield ""
    yield "| model | repair | norm | drift undefended | drift repaired | response undefended | response repaired | repaired − undefended |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        effect, drift, response = row["repaired_minus_undefended"], row["drift"], row["response"]
        figures = " | ".join(f"{value:.3f}" for held in (drift, response) for value in (held["no_defense"], held["cachemedic"]))
        between = f"{effect['estimate']:+.3f} [{effect['low']:+.3f}, {effect['high']:+.3f}]"
        between = f"**{between}**" if effect["low"] > 0 or effect["high"] < 0 else between
        yield f"| `{row['model']}` | {row['repair']} | {row['delta']:g} | {figures} | {between} |"
    yield ""


def gate_lines(result: Result) -> Iterator[str]:
    """The gates with every number that a clause rests on."""
    yield "Gates 1 to 3, each number a mean over seeds with its 95 % interval:"
    yield ""
    yield "| gate | requirement | mean [95 % interval] | seeds | limit | verdict |"
    yield "|---|---|---|---|---|---|"
    for gate in result["gates"]:
        yield f"| **{gate['number']}** | **{gate['title']}** | | {len(gate['seeds'])} | | **{gate['verdict']}** |"
        for clause in gate["clauses"]:
            note = f" ({clause['note']})" if clause["note"] else ""
            yield f"| | {clause['name']}{note} | | | | {clause['verdict']} |"
            for row in clause["rows"]:
                effect = row["effect"]
                shown = f"{effect['estimate']:.4g} [{effect['low']:.4g}, {effect['high']:.4g}]{' ' + row['unit'] if row['unit'] else ''}"
                yield f"| | {row['what']} | {shown} | {len(row['values'])} | {row['side']} {row['limit']:g} | {row['verdict']} |"
    yield ""
    for line in result["left_out"]:
        yield f"- Left out: {line}"
    yield ""

"""`report.html`: one run on one self-contained page, for a person. No torch, no matplotlib.

Sentences are in `report_words`, the sections of what was measured in `report_results`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cachemedicpp.paper.gate_readings import reading_of
from cachemedicpp.paper.gate_rules import Clause, Gate, Row
from cachemedicpp.paper.gates import gate_one, gate_two
from cachemedicpp.paper.inputs import RunResults
from cachemedicpp.paper.report_results import clean_section, gain_section, harm_section, speed_section, stability_section
from cachemedicpp.paper.report_words import ONE_RUN, TYPES, clause_met, in_short, listed, signed, task_name, verdict
from modelwright.report import Html, code, escape, facts, number, page, paragraph, section, strong, table


def report_page(results: RunResults) -> str:
    """The whole page."""
    gates = run_gates(results)
    return page(
        f"CacheMedic: {results.run_id}",
        section("In short", facts(in_short(results, gates))),
        harm_section(results),
        gain_section(results),
        clean_section(results),
        speed_section(results),
        stability_section(results),
        _gates(gates),
        _settings(results),
        _not_shown(results),
        lead=verdict(results),
        footer=f"Run {results.run_id}, configuration {results.config_hash[:12]}. Made by Modelwright from the files in this run directory.",
    )


def run_gates(results: RunResults) -> list[Gate]:
    """The gates that this run alone says something about."""
    reading = replace(reading_of(results), has_figures=True)  # they are written together with this page
    return [gate_one([reading]), *([gate_two([reading])] if reading.held_out else [])]


# ---------------------------------------------------------------------- gates


def _gates(gates: Sequence[Gate]) -> Html:
    blocks: list[Html] = []
    for gate in gates:
        rows = [line for clause in gate.clauses for line in _clause_rows(clause)]
        blocks.append(table(["requirement", "this run", "limit", "met here"], rows, f"Gate {gate.number}: {gate.title}"))
    return section(
        "The gates, as this run falls",
        paragraph(f"{ONE_RUN} What follows are the numbers of this run only; cells marked no_harm are left out."),
        *blocks,
    )


def _clause_rows(clause: Clause) -> list[list[object]]:
    met = clause_met(clause.needed, [row.met for row in clause.rows])
    needed = "all of these" if clause.needed is None else f"at least {clause.needed} of these"
    name = f"{clause.name} ({needed})" if len(clause.rows) > 1 else clause.name
    if met is None:
        word = {"pass": "yes", "fail": "no"}.get(clause.verdict, "not measured")
    else:
        word = "yes" if met else "no"
    lines: list[list[object]] = [[strong(name), "", "", word]]
    lines += [
        [row.what, escape(_value(row)), f"{row.side} {row.limit:g} {row.unit}".rstrip(), "yes" if row.met else "no"] for row in clause.rows
    ]
    return lines + ([[clause.note, "", "", ""]] if clause.note else [])


def _value(row: Row) -> str:
    is_ratio = row.side == "below"
    return f"{row.effect.estimate:.3f}" if is_ratio else f"{signed(row.effect.estimate, 3)} {row.unit}".rstrip()


# ---------------------------------------------------------------------- settings


def _settings(results: RunResults) -> Html:
    config, settings = results.config, results.settings
    repair, train = config.repair, config.train
    layers, checkpoint = listed(map(str, repair.protect_layers)), settings.get("repair_checkpoint")
    shown: dict[str, object] = {
        "model": config.model.name + (f" at {config.model.revision}" if config.model.revision else ""),
        "numbers": f"{settings.get('runtime_dtype') or config.dtype} on {config.device}",
        "repair": f"family {repair.family}, rank {repair.rank}, on {repair.apply_to} in layers {layers}, {repair.form} form",
        "training": f"{train.steps} steps of {train.batch_size} × {train.prefix_len} tokens, learning rate {train.lr:g}",
        "penalties": f"lambda_contr {train.lambda_contr:g}, alpha_contr {train.alpha_contr:g}, lambda_id {train.lambda_id:g}",
        "checkpoint": f"{checkpoint['file']} ({checkpoint['sha256'][:12]}…)" if checkpoint else "none: the operator was never trained",
        "trained on damage": config.corruption.mixture + (f" without {config.eval.ood_protocol}" if config.eval.ood_protocol else ""),
        "evaluated on": listed(f"{TYPES.get(kind, kind)} ({kind})" for kind in settings["types"]),
        "severity": f"{config.corruption.severity}, {config.corruption.inject} injection, heuristics see the {config.eval.heuristic_mask}",
        "best heuristic": f"{results.best_heuristic} (largest area of {_areas(results)})",
        "seed": str(config.seed),
    }
    sources = {task_name(results, name): _source(held) for name, held in _data_sources(settings).items()}
    again = f"python -m cachemedicpp.plots --run_dir {results.folder.name}"
    return section(
        "Settings",
        facts(shown | sources),
        paragraph("Every value stands in config_resolved.yaml. This page again, from the folder above the run:"),
        code(again),
    )


def _areas(results: RunResults) -> str:
    return listed(f"{name} {number(area, 4)}" for name, area in results.metrics["heuristic_auc"].items())


def _data_sources(settings: Mapping[str, Any]) -> dict[str, Any]:
    found = settings.get("data_source")
    return {name: held for name, held in found.items() if name != "text_splits"} if isinstance(found, Mapping) else {}


def _source(held: Any) -> str:
    """Where the examples of a task came from."""
    if not isinstance(held, Mapping):
        return str(held)
    parts = [str(held.get("source", held.get("kind", "")))]
    parts += [f"split {held['split']}"] if held.get("split") else []
    parts += [f"items {held['first']} to {held['last']}"] if held.get("first") is not None else []
    parts += [f"seed {held['seed']}"] if held.get("seed") is not None else []
    return ", ".join(parts)


def _not_shown(results: RunResults) -> Html:
    family = results.config.repair.family
    rival = (
        f"The operator of family {family} is one linear map for every cached token, damaged or not: it never looks at the cache. Whatever "
        "it gains has to be compared with the same operator trained without damage, which this page does not hold. "
        if family in ("A", "B", "C")
        else "An operator of equal size that never looks at the cache (family A), and one trained without damage, belong beside this one. "
    )
    return section(
        "What this does not show",
        paragraph(
            rival,
            "Intervals are over the examples of one run; they hold neither the spread between training seeds nor that between draws of the "
            "damage. Many cells are tested at once, so some intervals leave zero by chance. The damage is synthetic: it is no adaptive "
            "attack, and no hardware fault was measured. Speed is that of one machine at one prompt length.",
        ),
    )

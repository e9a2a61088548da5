"""A run on one self-contained HTML page: what to serve, why, and every number behind it. (specs/autotune.md, 15)

Everything comes from the rows of the database and the document made of them, so that a page can be made again at any time; only what
an experiment found is not stored, and stands on the page that its own run writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from macprovider.autotune.plan import COMMAND
from macprovider.autotune.records import plots
from macprovider.autotune.records.database import Row
from macprovider.autotune.records.measured import Measured, finite, measured
from macprovider.autotune.records.page_tables import stage_one, stage_two
from macprovider.autotune.records.page_words import headline
from macprovider.weights.progress import size_text
from modelwright.files import write_text
from modelwright.report import Html, escape, facts, number, page, paragraph, section


def write_page(path: Path, told: Mapping[str, Any], run: Row, trials: Sequence[Row]) -> None:
    """Write the page, whole or not at all. Raises StorageError."""
    write_text(path, tuning_page(told, run, trials))


def tuning_page(told: Mapping[str, Any], run: Row, trials: Sequence[Row]) -> str:
    """The whole page. told: the document of the run; trials: its rows in the order they began."""
    probes, cells = measured(trials, 1), measured(trials, 2)
    best = recommended_cell(told, cells)
    title, lead = headline(told, run, probes, cells)
    sections = [_recommendation(told, best), _experiment(told), _machine(told, run, [*probes, *cells]), stage_one(told, probes)]
    sections += [stage_two(told, cells, best), _plots(told, cells, best), *([_caveats()] if cells else [])]
    footer = f"Run {told['run_id']}, made from {told['db_path']} by {COMMAND} {told['machine']['binary_version']}."
    return page(title, *(part for part in sections if part), lead=lead, footer=footer)


def recommended_cell(told: Mapping[str, Any], cells: Sequence[Measured]) -> Measured | None:
    """The cell that is recommended: the one that was kept, or, when the run ended early, the one that the partial recommendation names."""
    recommended = told["recommendation"]
    if recommended is None:
        return None
    kept = [cell for cell in cells if cell.kept]
    named = [cell for cell in cells if cell.fits and cell.model == recommended["model"] and cell.knobs.as_yaml() == recommended["knobs"]]
    return next(iter(kept or named), None)


def _recommendation(told: Mapping[str, Any], best: Measured | None) -> Html:
    recommended = told["recommendation"]
    if recommended is None:
        return Html("")
    knobs = recommended["knobs"]
    least, most = finite(recommended.get("tps_min")), finite(recommended.get("tps_max"))
    spread = f", {number(least, 4)} to {number(most, 4)}" if least is not None and most is not None else ""
    counted = "one request" if recommended["replicates"] == 1 else f"median of {recommended['replicates']} requests{spread}"
    shown: dict[str, object] = {
        "model": recommended["model"],
        "context": f"{knobs['max_context_override']} tokens of prompt and answer",
        "cache": "unquantised (kv_bits unset)" if knobs["kv_bits"] is None else f"{knobs['kv_bits']} bits",
        **({"repair": knobs["repair"]} if knobs.get("repair") else {}),
        "requests at the same time": str(knobs["max_concurrency_override"]),
        "tokens per second": f"{number(recommended['tps_median'], 4)} ({counted})",
        "first token": f"after {number(recommended['ttft_p95_ms'], 4)} ms (p95)",
    }
    if best is not None and (held := plots.full_cache(best)) is not None:
        shown["full cache"] = f"{size_text(round(held))} ({number(best.kv_bytes_per_token, 4)} bytes for each token)"
    if recommended.get("quality"):
        shown["quality"] = recommended["quality"].get("words")
    shown["recipe"] = told["recipe_hash"]
    blocks = [_command(recommended["serve_command"]), facts(shown)]
    if recommended["partial"]:
        blocks.append(paragraph("A partial recommendation is never written into the settings file."))
    elif told["applied"]:
        blocks.append(paragraph("It was written into the settings file."))
    else:
        blocks += [paragraph("A run that also writes it into the settings file:"), _command(f"{COMMAND} autotune --apply")]
    if told["alternates"]:
        blocks.append(paragraph("Smaller models of the list that were not tried. To tune one of them instead:"))
        blocks.append(_command("\n".join(f"{COMMAND} autotune --candidate-models {model}" for model in told["alternates"])))
    return section("Serve it", *blocks)


def _experiment(told: Mapping[str, Any]) -> Html:
    finding = told.get("finding")
    if told["experiment"] is None or not isinstance(finding, dict):
        return Html("")
    figures = finding.get("figures")
    shown = {name: _flat(value) for name, value in figures.items()} if isinstance(figures, dict) else {}
    decision = "Keep the default" if finding.get("keep") else "Change the default"
    return section("What the experiment found", paragraph(f"{decision}: {finding.get('advice', '')}"), *([facts(shown)] if shown else []))


def _flat(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{'unset' if name is None else name}: {_flat(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, int | float) else str(value)


def _machine(told: Mapping[str, Any], run: Row, trials: Sequence[Measured]) -> Html:
    machine, inputs = told["machine"], told["inputs"]
    said = next((trial.facts for trial in trials if trial.facts), {})
    engine = " ".join(str(said[name]) for name in ("engine", "version", "dtype") if said.get(name)) or run["engine"]
    shown: dict[str, object] = {
        "processor": machine["chip"],
        "memory": f"{machine['ram_gb']} GiB",
        "system": machine["os_version"],
        "program": f"{COMMAND} {machine['binary_version']}",
        "engine": engine,
        "target context": f"{inputs['target_context']} tokens of prompt and answer",
        "gate": f"first token within {inputs['gate_ttft_ms']} ms, every request answered, no stop token leaked",
        "requests measured": f"{inputs['stage1_replicates']} for a model, {inputs['stage2_replicates']} for a cell",
        "started": run["started_at_utc"],
        "ended": run["ended_at_utc"] or "no end was written",
        "how it ended": told["exit_reason"],
    }
    return section("Machine and run", facts(shown))


def _plots(told: Mapping[str, Any], cells: Sequence[Measured], best: Measured | None) -> Html:
    if not cells:
        return Html("")
    inputs = told["inputs"]
    figures = [plots.throughput(cells, best, inputs["tps_tie_epsilon"]), plots.first_token(cells, best, inputs["gate_ttft_ms"])]
    return section("The cells side by side", *figures, *plots.quality(cells), *plots.memory(cells, best))


def _caveats() -> Html:
    return section(
        "What this does not show",
        paragraph(
            "One request was measured at a time, in cells for several requests too: their gain under load is not on this page. The numbers "
            "hold for this machine as it was then; a few requests of each cell tell a large difference, not a small one."
        ),
    )


def _command(text: str) -> Html:
    """A command to copy, all of it in sight: its lines wrap, and come out whole when they are copied."""
    return Html(f'<pre class="wrap"><code>{escape(text)}</code></pre>')

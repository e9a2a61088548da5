"""The first words of a run's page: what to serve, or why there is nothing to recommend. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from macprovider.autotune.records.database import Row
from macprovider.autotune.records.measured import Measured
from macprovider.weights.candidates import size_order
from modelwright.report import number

NOT_RECOMMENDED: dict[str, str] = {
    "interrupted": "The run was interrupted before a model was chosen.",
    "budget_exhausted_no_model_selected": "The time of --max-duration was over before a model was chosen. More time, or a shorter list "
    "of candidates, will get further.",
    "provider_conflict": "Another provider or another tuning run was in the way. It was left alone, and tuning did not go on.",
    "config_error": "The run could not begin: a setting, a folder or the database was at fault. The terminal said which.",
    "internal_error": "A fault of the program or of its disk ended the run. The note of its last row says more, where one was written.",
}
"""Exit reason → why there is no recommendation; the others depend on what was measured."""


def headline(told: Mapping[str, Any], run: Row, probes: Sequence[Measured], cells: Sequence[Measured]) -> tuple[str, str]:
    """Title and first sentences."""
    if told["experiment"] is not None:
        return f"Autotune experiment: {told['experiment']}", _of_experiment(told)
    recommended = told["recommendation"]
    if recommended is None:
        return "Autotune: no recommendation", _why_not(told, run, probes, cells)
    early = ""
    if recommended["partial"]:
        early = f"Partial: the run ended early ({told['exit_reason']}). This is the best that was measured until then. "
        if not any(cell.fits for cell in cells):
            early += "No setting was compared with another; the numbers are those of Stage 1. "
    return f"Autotune: {'so far' if early else 'serve'} {recommended['model']}", early + _what(recommended)


def _what(recommended: Mapping[str, Any]) -> str:
    knobs = recommended["knobs"]
    cache = "an unquantised cache" if knobs["kv_bits"] is None else f"a cache of {knobs['kv_bits']} bits"
    cache += ", mended by a repair operator" if knobs.get("repair") else ""
    batch = knobs["max_concurrency_override"]
    requests = "one request at a time" if batch == 1 else f"up to {batch} requests at the same time"
    return (
        f"The first model of the list that this machine can serve at {recommended['target_context']} tokens is {recommended['model']}. "
        f"It is best served with {cache}, {requests} and a context of {knobs['max_context_override']} tokens: it then gives "
        f"{number(recommended['tps_median'], 4)} tokens per second, the first of them within {number(recommended['ttft_p95_ms'], 4)} ms."
    )


def _why_not(told: Mapping[str, Any], run: Row, probes: Sequence[Measured], cells: Sequence[Measured]) -> str:
    reason = told["exit_reason"]
    if reason == "internal_error" and run["ended_at_utc"] is None:
        return "This run wrote no end: it is still at work, or it was ended from outside without a word. What it had measured stands below."
    if reason == "no_feasible" and cells:
        return f"{cells[-1].model} fits, but none of its settings could be served: {_ended(_first_reason(told, cells))}"
    if reason == "no_feasible":
        listed = told["infeasible"]
        smallest = [listed[place] for place in size_order([entry["model"] for entry in listed])]
        least = f" The smallest one, {smallest[0]['model']}: {_ended(smallest[0]['reason'])}" if smallest else ""
        target = told["inputs"]["target_context"]
        return f"No candidate can be served at a target context of {target} tokens.{least} Try a smaller --target-context, or other models."
    if reason == "pre_warm_integrity_failure":
        wrong = next((probe for probe in probes if probe.verdict == "wrong weights"), None)
        named = "" if wrong is None else f" {wrong.model}: {_ended(wrong.reason)}"
        return f"The run stopped: weights are not what their publisher listed, and such weights must not be served.{named}"
    return NOT_RECOMMENDED.get(reason, f"The run ended with {reason}.")


def _first_reason(told: Mapping[str, Any], cells: Sequence[Measured]) -> str:
    """What the document names for the chosen model, the reason of its last cell."""
    return next((str(entry["reason"]) for entry in told["infeasible"] if entry["model"] == cells[-1].model), cells[-1].reason)


def _of_experiment(told: Mapping[str, Any]) -> str:
    words = "This run tested the method itself. It measured ordinary trials, recommends nothing, and changed no default."
    if told["exit_reason"] == "ok":
        return words
    return f"{words} It ended early ({told['exit_reason']}), so what stands here is not the whole experiment."


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."

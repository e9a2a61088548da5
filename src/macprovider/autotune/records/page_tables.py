"""The two tables of a run's page: every candidate, and every cell of settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from macprovider.autotune.plan import kv_word
from macprovider.autotune.records.measured import Measured, finite
from macprovider.weights.candidates import weight_footprint
from macprovider.weights.progress import size_text
from modelwright.report import Html, escape, facts, number, paragraph, section, table

Column = tuple[str, Callable[[Measured], object]]
"""Head of a column, and what stands in it for a trial."""


def stage_one(told: Mapping[str, Any], probes: Sequence[Measured]) -> Html:
    """Every candidate of the list, those that were not tried too; "" when there is nothing to show."""
    listed = told["inputs"]["candidate_models"]

    def rank(probe: Measured) -> str:
        return str(listed.index(probe.model) + 1) if probe.model in listed else "–"

    columns: list[Column] = [
        ("rank", rank),
        ("model", lambda probe: escape(probe.model)),
        ("verdict", lambda probe: _whole(probe.verdict)),
        ("weights", _weights),
    ]
    columns += _memory(probes)
    columns.append(("load, s", lambda probe: _exact(probe.load_s)))
    rows = [[cell(probe) for _, cell in columns] for probe in probes]
    if told["experiment"] is None:
        tried = {probe.model for probe in probes}
        gap = [None] * (len(columns) - 4)
        rows += [
            [str(place), escape(model), _whole("not tried"), _named(model), *gap]
            for place, model in enumerate(listed, start=1)
            if model not in tried
        ]
    if not rows:
        return Html("")
    words = "Models are started one after the other in the order of the list. The first that answers at the target context within the "
    words += "gate is chosen; what follows it is not tried."
    why = _reasons({f"{probe.number}. {probe.model}": probe.reason for probe in probes})
    return section("Stage 1: which model", paragraph(words), table([head for head, _ in columns], rows), *why)


def stage_two(told: Mapping[str, Any], cells: Sequence[Measured], best: Measured | None) -> Html:
    """Every cell; "" when none was begun."""
    if not cells:
        return Html("")
    several = len({cell.model for cell in cells}) > 1
    columns: list[Column] = [("cell", lambda cell: str(cell.number))]
    columns += [("model", lambda cell: escape(cell.model))] if several else []
    columns.append(("kv bits", lambda cell: kv_word(cell.knobs.kv_bits)))
    columns += [("repair", lambda cell: escape(cell.repair() or "none"))] if any(cell.knobs.repair for cell in cells) else []
    columns += [
        ("batch", lambda cell: str(cell.knobs.max_batch)),
        ("context", lambda cell: "default" if cell.knobs.max_context is None else str(cell.knobs.max_context)),
        ("kept", lambda cell: "kept" if cell.kept else _whole("best so far") if cell is best else ""),
        ("verdict", lambda cell: _whole(cell.verdict)),
        ("tokens/s", lambda cell: _exact(cell.tps)),
        ("least to most", _spread),
        ("first token p95, ms", lambda cell: _exact(cell.ttft_ms)),
        ("requests", _requests),
        ("cache, bytes per token", lambda cell: _exact(cell.kv_bytes_per_token)),
    ]
    if any(cell.quality for cell in cells):
        columns += [("answers the same", _same), ("KL, nats", lambda cell: number(finite(cell.quality.get("kl")), 2))]
    columns += _memory(cells)
    whose = "each model" if several else "the model" if told["experiment"] else "the chosen model"
    words = f"Every combination of settings of {whose} was started as a server of its own and measured with one request after the other."
    rows = [[cell(trial) for _, cell in columns] for trial in cells]
    why = _reasons({f"cell {cell.number}": cell.reason for cell in cells})
    return section("Stage 2: which settings", paragraph(words), table([head for head, _ in columns], rows), *why)


def _memory(trials: Sequence[Measured]) -> list[Column]:
    """Predicted and peak, where any trial has them."""
    if not any(trial.memory for trial in trials):
        return []
    return [
        ("memory predicted", lambda trial: _bytes(trial.memory.get("predicted_bytes"))),
        ("memory peak", lambda trial: _bytes(trial.memory.get("peak_bytes"))),
    ]


def _reasons(reasons: Mapping[str, str]) -> list[Html]:
    """Why trials did not fit, below their table: sentences in a column of it would have no room on a phone."""
    given = {name: reason for name, reason in reasons.items() if reason}
    return [paragraph("Why not:"), facts(given)] if given else []


def _weights(probe: Measured) -> str:
    """Bytes as the engine says, else as the model's name has it."""
    said = finite(probe.facts.get("weight_bytes"))
    return _named(probe.model) if said is None else size_text(round(said))


def _named(model: str) -> str:
    footprint = weight_footprint(model)
    return "unknown" if footprint is None else f"about {size_text(round(footprint))}"


def _spread(cell: Measured) -> str | None:
    return f"{number(min(cell.rates), 4)} to {number(max(cell.rates), 4)}" if cell.rates else None


def _same(cell: Measured) -> str | None:
    """Greedy answers that are those of the unquantised cache."""
    return f"{cell.quality.get('same')} of {cell.quality.get('prompts')}" if cell.quality else None


def _whole(words: str) -> str:
    """A few words that stay on one line."""
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _requests(cell: Measured) -> str:
    failed = min(cell.failed, cell.requests)  # a candidate that failed as a whole counts as one, without a request
    return f"{cell.requests}, {failed} failed" if failed else str(cell.requests)


def _exact(value: float | None) -> str:
    return number(value, 4)


def _bytes(value: object) -> str | None:
    count = finite(value)
    return None if count is None else size_text(round(count))

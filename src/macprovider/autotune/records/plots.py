"""The figures of a tuning run, made from its cells: throughput, first token, quality, throughput against cache memory."""

from __future__ import annotations

from collections.abc import Sequence

from macprovider.autotune.plan import kv_word
from macprovider.autotune.records.measured import Measured, finite
from macprovider.autotune.records.strips import Band, Limit, Point, State, Strip, scatter, strip_chart
from modelwright.report import Html, number

UNITS = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1.0))
NAME_CHARACTERS = 19
"""What the quieter line of a label has room for."""


def throughput(cells: Sequence[Measured], best: Measured | None, epsilon: float) -> Html:
    """Tokens per second of every request; the tie band lies below the fastest cell that fits. best: the recommended cell. Cells of
    several models, in an experiment, have no band: speeds of models are never compared.
    """
    one_model = len({cell.model for cell in cells}) == 1
    rates = [cell.tps for cell in cells if cell.fits and cell.tps is not None and one_model]
    band = Band(max(rates) * (1 - epsilon), max(rates), f"ties with the fastest (within {epsilon:g})") if rates else None
    caption = "Every request is a dot, their median the longer mark. Further to the right is faster."
    if band:
        caption += " In the shaded band speeds count as equal; what decides there is the earlier first token, or the objective."
    if band and best is not None and best.tps is not None and best.tps < band.low:
        caption += " The winner lies left of the band: it tied with the holder of its time, and the order of the cells decides in a tie."
    return strip_chart(
        [Strip(cell.label(), _note(cell, cells, best), cell.rates, cell.tps, _state(cell, best)) for cell in cells],
        title="Tokens per second of each cell",
        caption=caption,
        axis="tokens per second of one request",
        middle="median",
        band=band,
    )


def first_token(cells: Sequence[Measured], best: Measured | None, gate_ms: int) -> Html:
    """Milliseconds to the first token of every request, against the gate."""
    return strip_chart(
        [Strip(cell.label(), _note(cell, cells, best), cell.times, cell.ttft_ms, _state(cell, best)) for cell in cells],
        title="Time to the first token of each cell",
        caption="Every request is a dot, the longer mark the 95th percentile (of fewer than 20 requests: the slowest). Further to the "
        f"left is better; beyond the gate of {number(gate_ms, 6)} ms a cell does not fit.",
        axis="milliseconds to the first token",
        middle="p95",
        limit=Limit(gate_ms, f"gate {number(gate_ms, 6)} ms"),
    )


def quality(cells: Sequence[Measured]) -> list[Html]:
    """Agreement and divergence of every setting of the cache that was compared with the unquantised one; nothing without any."""
    compared = {
        (cell.model, cell.knobs.kv_bits, cell.knobs.repair): cell for cell in cells if finite(cell.quality.get("agreement")) is not None
    }
    rows = list(compared.values())
    if not rows:
        return []
    limits = rows[0].limits
    several = len({cell.model for cell in rows}) > 1
    figures = [
        strip_chart(
            [_one(cell, "agreement", several) for cell in rows],
            title="Greedy answers that are the same as with the unquantised cache",
            caption="The share of prompts that each setting of the cache answers token for token as the unquantised cache does. Further to "
            "the right is better.",
            axis="share of answers that are the same",
            middle="share",
            limit=_limit(limits.get("min_agreement"), "at least"),
            span=(0.0, 1.0),
        )
    ]
    if any(finite(cell.quality.get("kl")) is not None for cell in rows):
        figures.append(
            strip_chart(
                [_one(cell, "kl", several) for cell in rows],
                title="Divergence of the next token from the unquantised cache",
                caption="Kullback-Leibler divergence, the mean over all compared tokens; a lower bound, as a server names its most likely "
                "tokens only. Further to the left is better.",
                axis="nats per token",
                middle="mean",
                limit=_limit(limits.get("max_kl"), "at most"),
            )
        )
    return figures


def memory(cells: Sequence[Measured], best: Measured | None) -> list[Html]:
    """Throughput against the memory of a full cache; nothing unless two cells that fit differ in it."""
    found = [(cell, held, cell.tps) for cell in cells if cell.fits and cell.tps is not None and (held := full_cache(cell)) is not None]
    if len({held for _, held, _ in found}) < 2:
        return []
    unit, scale = next((unit, scale) for unit, scale in UNITS if max(held for _, held, _ in found) >= scale or scale == 1)
    return [
        scatter(
            [
                Point(cell.number, held / scale, tps, f"{cell.label()}{', with repair' if cell.knobs.repair else ''}", _state(cell, best))
                for cell, held, tps in found
            ],
            title="Tokens per second against memory of the cache",
            caption="The memory is what a full cache takes: bytes per token as the engine says, times context, times requests at the same "
            "time. Up is faster, left is smaller; the numbers are those of the table.",
            x_label=f"full KV cache, {unit}",
            y_label="tokens per second",
        )
    ]


def full_cache(cell: Measured) -> float | None:
    """Bytes of the cell's cache when it is full, None when the engine did not say."""
    per_token, context = cell.kv_bytes_per_token, cell.knobs.max_context or finite(cell.facts.get("context"))
    return None if per_token is None or context is None else per_token * context * cell.knobs.max_batch


def _state(cell: Measured, best: Measured | None) -> State:
    return "refused" if not cell.fits else "winner" if cell is best else "fits"


def _note(cell: Measured, cells: Sequence[Measured], best: Measured | None) -> str:
    """What tells this cell from the others beyond its label, most important first."""
    words = ["recommended" if cell.kept else "best so far"] if cell is best else [] if cell.fits else [cell.verdict]
    words += ["with repair"] if cell.knobs.repair else []
    if len({other.knobs.max_context for other in cells}) > 1:
        words.append(f"ctx {cell.knobs.max_context or 'default'}")
    if len({other.model for other in cells}) > 1:
        words.append(cell.model.rpartition("/")[2])
    elif len({(other.knobs, other.model) for other in cells}) < len(cells):
        words.append(f"cell {cell.number}")  # an experiment measures the same knobs again
    return _cut(words)


def _cut(words: Sequence[str]) -> str:
    text = ", ".join(words)
    return text if len(text) <= NAME_CHARACTERS else f"{text[: NAME_CHARACTERS - 1]}…"


def _one(cell: Measured, name: str, several: bool) -> Strip:
    value = finite(cell.quality.get(name))
    words = [*(["with repair"] if cell.knobs.repair else []), *([cell.model.rpartition("/")[2]] if several else [])]
    state: State = "refused" if cell.notes.startswith("quality below the gate") else "fits"
    return Strip(f"kv {kv_word(cell.knobs.kv_bits)}", _cut(words), (), value, state)


def _limit(value: object, words: str) -> Limit | None:
    limit = finite(value)
    return None if limit is None else Limit(limit, f"limit: {words} {limit:g}")

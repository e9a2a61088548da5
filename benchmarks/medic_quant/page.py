"""The Markdown of the study, made from its result alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]
Row = Mapping[str, Any]
AGAINST = {
    ("same method", "recomputed"): "Its terms computed anew from every read (no further bytes), against the same setting without it",
    ("same method", "kept"): "Its terms kept beside the cache, against the same method with as many bytes",
    ("any method", "recomputed"): "Terms computed anew, against the best plain setting that needs no more bytes and no more time",
    ("any method", "kept"): "Terms kept, against the best plain setting that needs no more bytes and no more time",
}


def page(result: Result) -> list[str]:
    """Tables and sentences for every model of a result of `benchmarks.medic_quant.run`."""
    lines: list[str] = []
    for clean in result["clean"]:
        model = clean["model"]
        plain = [row for row in result["results"] if row["model"] == model]
        repaired = [row for row in result["repaired"] if row["model"] == model]
        lines += ["", f"### `{model}`", "", _clean_words(clean, result), *_quality(plain, repaired), *_front(plain), *_decisions(repaired)]
    lines += ["", *_all_models(result["repaired"])]
    return lines


def _clean_words(clean: Row, result: Result) -> str:
    size, training = result["settings"]["size"], result["settings"]["training"]
    return (
        f"{clean['texts']} test texts: {size['prefix']} tokens quantised, {size['tail']} read on them. Clean cache: perplexity "
        f"{_figure(clean['perplexity'])}, passkey {_share(clean['recall'])} of {clean['prompts']} prompts of {size['prompt_tokens']} "
        f"tokens. D has rank {training['rank']} on every layer and was trained for {training['steps']} steps of {training['batch']} texts."
    )


def _quality(plain: Sequence[Row], repaired: Sequence[Row]) -> Iterator[str]:
    with_repair = {row["settings"]: row for row in repaired}
    header = (
        "setting",
        "bits per value",
        "KL, millinats",
        "perplexity",
        "tail tokens agree",
        "whole answer equal",
        "passkey",
        "ms per token",
    )
    rows: list[tuple[str, ...]] = []
    for row in plain:
        found = with_repair.get(row["settings"])
        if found is None:
            continue
        rows.append((f"`{row['settings']}`", f"{row['bits_per_value']:.2f}", *_measures(row), _figure(row["ms"], 3)))
        kept = next(one["bits_per_value"] for one in found["comparisons"] if one["placement"] == "kept")
        times = f"{_figure(found['ms']['recomputed'], 3)} / {_figure(found['ms']['kept'], 3)}"
        seeds = len(found["seeds"])
        rows.append((f"+ D ({seeds} seed{'s' * (seeds > 1)})", f"{row['bits_per_value']:.2f} / {kept:.2f}", *_measures(found), times))
    yield from _table(header, rows)
    yield (
        "Two figures stand for terms computed anew from every read / kept beside the cache as float16. Bits count scales, outliers, "
        "factors, window and unfinished blocks at this length. Time is append, read and attention of all layers for one token. KL with its "
        "95 % interval."
    )


def _measures(row: Row) -> tuple[str, ...]:
    kl = row["kl"]
    shown = f"{_milli(kl['estimate'])} ({_milli(kl['low'])} to {_milli(kl['high'])})"
    return (shown, _figure(row["perplexity"], 3), _share(row["agreement"]), _share(row["same_continuation"]), _share(row["recall"]))


def _front(plain: Sequence[Row]) -> Iterator[str]:
    """The plain settings that no other beats in both bytes and divergence."""
    front: list[Row] = []
    for row in sorted(plain, key=lambda row: (row["bits_per_value"], row["kl"]["estimate"])):
        if not front or row["kl"]["estimate"] < front[-1]["kl"]["estimate"]:
            front.append(row)
    words = ", ".join(f"`{row['settings']}` ({row['bits_per_value']:.2f} bits, {_milli(row['kl']['estimate'])})" for row in front)
    yield ""
    yield f"Without a repair, no other of the {len(plain)} settings has fewer bits and a smaller KL (millinats) than: {words}."


def _decisions(repaired: Sequence[Row]) -> Iterator[str]:
    rows = []
    for row in repaired:
        for one in row["comparisons"]:
            if one["against"] == "same method" or one["placement"] == "recomputed":
                ends = one["difference"]
                rows.append(
                    (
                        f"`{row['settings']}` + D",
                        one["placement"],
                        f"{one['bits_per_value']:.2f}",
                        one["rival"] + (" (nearest measured)" if one["how"] == "nearest" else ""),
                        f"{one['rival_bits_per_value']:.2f}",
                        _figure(one["ratio"], 2),
                        f"{_milli(ends['low'])} to {_milli(ends['high'])}",
                        one["verdict"],
                    )
                )
    header = (
        "repaired setting",
        "terms",
        "bits per value",
        "rival without repair",
        "its bits",
        "KL, times the rival's",
        "difference, millinats, 95 %",
    )
    yield from _table((*header, "with D"), list(dict.fromkeys(rows)))  # the best of any method is often the same method


def _all_models(repaired: Sequence[Row]) -> Iterator[str]:
    for (against, placement), words in AGAINST.items():
        found = [one for row in repaired for one in row["comparisons"] if (one["against"], one["placement"]) == (against, placement)]
        if not found:
            continue
        counts = Counter(one["verdict"] for one in found)
        by_method = _by_method(repaired, against, placement)
        yield (
            f"- {words}: better in {counts['better']}, worse in {counts['worse']}, undecided in {counts['undecided']} of {len(found)} "
            f"comparisons. Verdict by method: {by_method}."
        )


def _by_method(repaired: Sequence[Row], against: str, placement: str) -> str:
    """`KIVI better (3 of 3)`; a method is undecided unless one verdict holds at all its widths and models."""
    held: dict[str, list[str]] = {}
    for row in repaired:
        for one in row["comparisons"]:
            if (one["against"], one["placement"]) == (against, placement):
                held.setdefault(row["method"], []).append(one["verdict"])
    parts = []
    for method, found in held.items():
        counts = Counter(found)
        alike = next(iter(counts)) if len(counts) == 1 else "mixed"
        detail = ", ".join(f"{counts[name]} {name}" for name in ("better", "worse", "undecided") if counts[name])
        parts.append(f"{method} {alike}" if len(counts) == 1 else f"{method} {alike} ({detail})")
    return "; ".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _figure(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _milli(value: float | None) -> str:
    """Thousandths with three significant digits."""
    return "–" if value is None else f"{1000 * value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.0f} %"

"""The serving benchmarks as lines of the results page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def engine_page(result: Result) -> Iterator[str]:
    """`serve_engine`: decoding speed by cache setting, batch and length."""
    rows = [
        (
            f"{row['context']:,}",
            row["batch"],
            row["variant"],
            f"{row['tokens_per_cpu_second']:.0f} ({row['lowest']:.0f} to {row['highest']:.0f})",
            f"{row['against_16_bits']:.2f}",
            f"{row['kv_bytes'] / 1e6:.1f}" if "kv_bytes" in row else "–",
            f"{row['kv_bytes_per_token']:,.0f}" if "kv_bytes_per_token" in row else "–",
        )
        for row in result["results"]
    ]
    header = ("cached tokens", "streams", "cache", "tokens per processor second", "of unquantised", "cache, MB", "bytes per token")
    yield from _table(header, rows)
    for one in result["decisions"]:
        yield f"- {one['figure']}: {one['measured']:.2f}, target at least {one['target']:g}: {_verdict(one['met'])}"


def http_page(result: Result) -> Iterator[str]:
    """`serve_http`: the server against its own engine."""
    for key, words in (("tokens_per_cpu_s", "per processor second"), ("tokens_per_s", "per second")):
        found = result["ratios"][key]
        yield (
            f"- Tokens {words}, server / bare engine: {found['median']:.3f} (turns {found['low']:.3f} to {found['high']:.3f})"
            + (f", target at least {result['target']:g}: {_verdict(result['met'])}" if key == "tokens_per_cpu_s" else "")
        )
    settings = result["settings"]
    yield f"- {settings['clients']} streaming clients, model of {settings['shape'].upper()}, {settings['turns']} turns of each."


def peers_page(result: Result) -> Iterator[str]:
    """`serve_peers`: our server beside others."""
    for clients in dict.fromkeys(row["clients"] for row in result["results"]):
        rows = [
            (
                row["server"],
                f"{row['tokens_per_cpu_s']:.0f} ({row['spread_tokens_per_cpu_s'][0]:.0f} to {row['spread_tokens_per_cpu_s'][1]:.0f})",
                f"{row['tokens_per_s']:.0f}",
                f"{row['first_median_s']:.2f} / {row['first_p95_s']:.2f}",
                f"{row['memory_mb']:,.0f}",
            )
            for row in result["results"]
            if row["clients"] == clients
        ]
        yield ""
        lengths, answered = _prompt(result, clients), result["settings"]["max_tokens"]
        yield f"{clients} client{'s' * (clients > 1)}, prompts of {lengths} tokens, {answered} answered:"
        header = ("server", "tokens per processor second", "tokens per second", "first token, median / p95, s", "memory, MB")
        yield from _table(header, rows)
    for one in result["decisions"]:
        yield f"- {one['figure']}: {one['measured']:g}, target {one['target']}: {_verdict(one['met'])}"
    yield from (f"- {line}" for line in result["left_out"])


def quality_page(result: Result) -> Iterator[str]:
    """`serve_quality`: what a quantised cache changes, engine by engine."""

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.0f} %"

    rows = [
        (
            row["engine"],
            row["dtype"],
            row["cache"],
            f"{row['bytes_per_token']:,.0f}",
            share(row["agreement"]),
            share(row["kept"]),
            "–" if row["kl"] is None else f"{row['kl']:.4f}",
            share(row["agreement_16"]),
        )
        for row in result["results"]
    ]
    header = (
        "engine",
        "weights",
        "cache",
        "bytes per token",
        "same answers",
        "tokens kept",
        "KL, nats, at least",
        "same as transformers",
    )
    yield from _table(header, rows)
    settings = result["settings"]
    yield f"- {settings['model']}, {settings['prompts']} prompts that fill a context of {settings['context']} tokens, answered greedily."
    yield from (f"- {line}" for line in result["left_out"])


def _prompt(result: Result, clients: int) -> str:
    lengths = [row["prompt_tokens"] for row in result["results"] if row["clients"] == clients]
    return f"{min(lengths):.0f} to {max(lengths):.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield ""
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"
    yield ""


def _verdict(met: bool) -> str:
    return "met" if met else "**missed**"

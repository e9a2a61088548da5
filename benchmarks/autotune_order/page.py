"""`autotune_order` as lines of the results page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any


def page(result: Mapping[str, Any]) -> Iterator[str]:
    """Winners by order, and the experiment's own advice."""
    yield ""
    yield "| model | winner in forward order (times) | in reverse order | other order, other winner | same order, other winner |"
    yield "|---|---|---|---|---|"
    for one in result["results"]:
        forward, reverse = (_times(runs) for runs in zip(*one["winners"], strict=True))
        crossed = f"{one['mismatches']} of {one['pairs']}"
        alike = f"{one['same_order_mismatches']} of {one['same_order_pairs']}"
        yield f"| {one['model']} | {forward} | {reverse} | {crossed} | {alike} |"
    yield ""
    for one in result["results"]:
        yield f"- {one['model']}: the experiment says: {one['advice']}"
        if one["same_order_pairs"] and one["same_order_mismatches"] / one["same_order_pairs"] >= one["mismatches"] / one["pairs"]:
            yield "- Runs in the same order differ at least as often: noise between these cells explains it, and no order."
    settings = result["settings"]
    yield (
        f"- {settings['pairs']} pairs with {settings['rest']} s of rest between them; cells: KV {settings['kv_bits_axis']}, batch "
        f"{settings['max_batch_axis']}; context {settings['target_context']}; engine {settings['engine']}."
    )


def _times(winners: tuple[str | None, ...]) -> str:
    return ", ".join(f"{(name or 'none').partition(',')[0]} ({times})" for name, times in Counter(winners).most_common())

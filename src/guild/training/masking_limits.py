"""Which share of a batch may go untrained, by what its rows are. (specs/guild.md 5.3 and the masking-ratio validator)

A correction row is a long prompt with a short verdict, a row of plain text nearly all answer: one pair of limits for both would refuse
right files, or pass wrong ones.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskingLimits:
    """lowest, highest: masked share of the tokens that are no padding, 0 to 1. conversation: rows are chats with marked answers; else
    each document is one trained text behind its preface."""

    lowest: float = 0.30
    highest: float = 0.85
    conversation: bool = True


DEFAULT = MaskingLimits()
LIMITS: dict[str, MaskingLimits] = {
    "chat_sft_v1": DEFAULT,
    "syllo_v1": MaskingLimits(0.20, 0.97),
    "completion_v1": MaskingLimits(0.0, 0.85, conversation=False),
    "regime3": MaskingLimits(0.30, 0.95),
    "sparring": MaskingLimits(0.30, 0.97),
    "syllo_api": MaskingLimits(0.20, 0.97),
    "syllo_local": MaskingLimits(0.20, 0.97),
    "bin_api": MaskingLimits(0.05, 0.97),
}
"""By schema id, generator id or profile name. Binary arithmetic answers `True` to a long question and works whole pages out for a short
one, so its limits are wide on both sides."""


def limits_for(*names: str | None) -> MaskingLimits:
    """The limits of the first name that has its own, most specific first: `limits_for(generator, profile, schema)`."""
    return next((LIMITS[name] for name in names if name is not None and name in LIMITS), DEFAULT)

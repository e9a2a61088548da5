"""Text lines and labelled reviews, each with a record of where they came from. (specs/medic.md, 4.1, 6.1)

    lines = load_text(config.data, "train", limit=training_line_count(config.train.steps))
    lines.items                # tuple of lines
    lines.provenance.as_dict() # what the metrics file keeps: source, split, line range, SHA-256

Three splits that never meet [C11]: training reads `train`, tuning reads `validation`, reports read `test`. Hub data sets
bring their splits; a file is cut into fixed ranges of its lines. Where the same line stands in two splits it belongs to
the earlier one and is left out of the later, so the texts are disjoint and not only the line numbers.

With `data.use_offline` only files are read and no connection is tried; without it only the hub, and what it does not
deliver ends the command [C31].
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal

from cachemedicpp.inputs.sources import (
    LIBRARY,
    SPLITS,
    DataUnavailableError,
    Item,
    Parts,
    Review,
    Split,
    file_parts,
    hub_review_parts,
    hub_text_parts,
    library_parts,
    review_rows,
    text_lines,
)
from modelwright.errors import UsageError
from modelwright.files import sha256_bytes

if TYPE_CHECKING:
    from cachemedicpp.config.sections import DataSettings


@dataclass(frozen=True)
class Provenance:
    """Where items came from.

    source: hub reference, path as configured, or `stdlib://held-out`. split: ours; `source_split` names the hub's own.
    first, last: 1-based numbers, within the non-empty lines of that source split, of the first and last item read.
    items: how many; repeated: lines of the range left out because an earlier split, or the range itself, holds them already.
    sha256: of the items, in order. source_sha256: of the whole file, or of the library's files; null for the hub.
    """

    kind: Literal["hub", "file", "library"]
    source: str
    split: Split
    source_split: str | None
    first: int
    last: int
    items: int
    repeated: int
    sha256: str
    source_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """Items of one split, never empty, and where they came from."""

    items: tuple[Item, ...]
    provenance: Provenance


def training_line_count(steps: int) -> int:
    """How many lines training reads: `max(512, steps // 2 + 64)`. (4.1)"""
    return max(512, steps // 2 + 64)


def load_text(data: DataSettings, split: Split, limit: int | None = None) -> Loaded[str]:
    """The first `limit` (default: all) non-empty lines of `split`, without surrounding white space.

    Raises DataUnavailableError when the hub does not deliver, a file is missing, unreadable or too short for three splits;
    UsageError for an unknown split.
    """
    if not data.use_offline:
        return _taken(hub_text_parts(_checked(split)), split, limit, _line_bytes)
    reference = data.offline_paths.wikitext2
    if reference == LIBRARY:
        return _taken(library_parts(), _checked(split), limit, _line_bytes)
    parts = file_parts("data.offline_paths.wikitext2", reference, text_lines)
    return _taken(parts, _checked(split), limit, _line_bytes)


def load_reviews(data: DataSettings, split: Split, limit: int | None = None) -> Loaded[Review]:
    """The first `limit` (default: all) labelled reviews of `split`.

    The hub's own test split has no labels. There `test` is the published validation split, `validation` the last 2,000
    rows of the published training split, and `train` the rest. Raises as `load_text`.
    """
    if not data.use_offline:
        return _taken(hub_review_parts(_checked(split)), split, limit, _review_bytes)
    parts = file_parts("data.offline_paths.sst2", data.offline_paths.sst2, review_rows)
    return _taken(parts, _checked(split), limit, _review_bytes)


# ---------------------------------------------------------------------- ranges


def _taken(parts: Parts[Item], split: Split, limit: int | None, encode: Callable[[Item], bytes]) -> Loaded[Item]:
    """The first `limit` items of `split` that stand neither in an earlier split nor earlier in this one."""
    part = parts[split]
    seen = {item for earlier in SPLITS[: SPLITS.index(split)] for item in parts[earlier].items}
    kept: list[Item] = []
    repeated = last = 0
    for number, item in enumerate(part.items):
        if len(kept) == limit:
            break
        last = number
        if item in seen:
            repeated += 1
        else:
            kept.append(item)
            seen.add(item)
    if not kept:
        raise DataUnavailableError(
            f"{part.source} has no line for the split {split} that an earlier split does not hold; give it at least five different lines."
        )
    return Loaded(
        tuple(kept),
        Provenance(
            kind=part.kind,
            source=part.source,
            split=split,
            source_split=part.source_split,
            first=part.first,
            last=part.first + last,
            items=len(kept),
            repeated=repeated,
            sha256=_digest(map(encode, kept)),
            source_sha256=part.source_sha256,
        ),
    )


def _digest(items: Iterable[bytes]) -> str:
    """SHA-256 (hex) of the items, each ended by a line feed."""
    return sha256_bytes(b"".join(item + b"\n" for item in items))


def _line_bytes(line: str) -> bytes:
    return line.encode()


def _review_bytes(review: Review) -> bytes:
    return json.dumps([review.text, review.label], ensure_ascii=False).encode()


def _checked(split: str) -> Split:
    for known in SPLITS:
        if split == known:
            return known
    raise UsageError(f"The split is {split!r}; allowed are {', '.join(SPLITS)}.")

"""Encoded documents to training windows of one length, with documents isolated from each other.

How isolation works. Every document in a window has positions that restart at 0. transformers reads these restarts and
builds a block-diagonal causal mask from them, but *only* when it gets no `attention_mask` and no cache; with a mask
of ones, or with the default cache, the documents silently see each other. So a batch here never carries an attention
mask and carries `use_cache=False`; padding is a document of its own whose labels are ignored. Where a model or a path
ignores positions, `block_mask` gives the same isolation as an explicit 4-D mask.
`tests/modelwright/data/test_isolation.py` proves all three statements on numbers.

Rotary and learned positions both restart too, so a packed document is computed exactly as if it stood alone.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from modelwright.data.encoding import IGNORED, EncodedDocument
from modelwright.errors import LoadError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Piece:
    """A document, or a stretch of one cut to fit: ids and labels (int32 arrays of equal length). Its first label is
    never counted.
    """

    input_ids: array[int]
    labels: array[int]


@dataclass(frozen=True)
class Window:
    """One training row of `length` tokens: ids, labels and positions (int32 arrays); positions restart at each
    piece.
    """

    input_ids: array[int]
    labels: array[int]
    position_ids: array[int]
    pieces: tuple[int, ...]
    """Token count of each piece, padding not included."""


@dataclass(frozen=True)
class PackingReport:
    """What packing did. Counts are documents, windows or tokens; shares are 0..1."""

    length: int
    documents: int
    tokens: int
    windows: int
    pieces: int
    efficiency: float
    loss_share: float
    native_length: int | None
    native_share: float
    truncated_documents: int
    dropped_documents: int
    histogram: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class PackedDataset:
    """A sequence of windows that a Trainer can read: items are dicts of int64 tensors of shape [length]."""

    windows: tuple[Window, ...]
    report: PackingReport

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        import torch

        window = self.windows[index]
        fields = {"input_ids": window.input_ids, "position_ids": window.position_ids, "labels": window.labels}
        return {name: torch.frombuffer(values, dtype=torch.int32).long() for name, values in fields.items()}


def pack(
    documents: Iterable[EncodedDocument],
    length: int,
    *,
    pad_id: int,
    seed: int,
    native_length: int | None = None,
    native_share: float = 0.0,
    join_text: bool = False,
    drop_below: float = 0.0,
) -> PackedDataset:
    """Pack documents into windows of `length` tokens.

    Plain text longer than its limit is cut into consecutive pieces; other records are cut at the end, and left out
    when no answer token remains. Pieces are placed best-fit, longest first; windows come in an order drawn from
    `seed`. The same input gives the same windows.

    `native_length` and `native_share`: this share of the tokens comes in pieces no longer than `native_length`, in
    the same windows of `length`, which protects short context at no cost in uniform shapes. Only text is cut for it;
    where text and short records are too few, the report's `native_share` says what was reached. `join_text`
    concatenates plain-text documents of the dataset *without* isolation before cutting, for long-context training on
    text whose documents are short; off unless asked for. `drop_below` drops windows filled less than this share.
    Raises LoadError when nothing is left to train on, ValueError for a bad number.
    """
    _check(length, native_length, native_share, drop_below)
    originals = list(documents)
    order = list(range(len(originals)))
    Random(f"pack:{seed}").shuffle(order)
    total = sum(len(document) for document in originals)
    native, rest = _split_native([originals[i] for i in order], native_share * total, native_length)
    truncated = dropped = 0
    pieces: list[Piece] = []
    for group, limit in ((native, native_length or length), (_joined(rest) if join_text else rest, length)):
        for document in group:
            made = _pieces(document, limit)
            truncated += document.shape != "text" and len(document) > limit
            dropped += not made
            pieces += made
    windows = [_window(members, length, pad_id) for members in _best_fit(pieces, length)]
    windows = [window for window in windows if sum(window.pieces) >= drop_below * length]
    if not windows:
        raise LoadError(f"Nothing to train on: of {len(originals)} documents none has an answer token inside {length} tokens.")
    Random(f"windows:{seed}").shuffle(windows)
    report = _report(windows, originals, length, native_length, truncated, dropped)
    return PackedDataset(tuple(windows), report)


def long_windows(documents: Iterable[EncodedDocument], length: int, *, pad_id: int, seed: int, join_text: bool = False) -> PackedDataset:
    """Full windows of continuous plain text only: documents are cut consecutively and what does not fill a window is
    left out.

    For perplexity and for long-context training without packing. Raises LoadError when no document (or, with
    `join_text`, no concatenation) fills one window.
    """
    text = [document for document in documents if document.shape == "text"]
    full = [
        EncodedDocument(document.input_ids[at : at + length], document.labels[at : at + length], "text", document.where)
        for document in (_joined(text) if join_text else text)
        for at in range(0, len(document) - length + 1, length)
    ]
    if not full:
        longest = max(map(len, text), default=0)
        raise LoadError(
            f"No text fills a window of {length} tokens: the longest of {len(text)} documents has {longest}; join "
            "short ones or give longer text."
        )
    return pack(full, length, pad_id=pad_id, seed=seed)


def collate(items: Sequence[dict[str, torch.Tensor]]) -> dict[str, Any]:
    """Stack windows into a batch [B, length] for `model(**batch)`: no attention mask, no cache, so that documents stay
    isolated.
    """
    import torch

    return {**{name: torch.stack([item[name] for item in items]) for name in items[0]}, "use_cache": False}


def block_mask(position_ids: torch.Tensor) -> torch.Tensor:
    """The explicit mask of the same isolation: bool [B, 1, T, T], True where a query may look. `position_ids` is [B,
    T].
    """
    import torch

    starts = torch.diff(position_ids, prepend=position_ids[:, :1] - 1, dim=-1) != 1
    document = starts.cumsum(-1)
    causal = torch.ones(position_ids.shape[-1], position_ids.shape[-1], dtype=torch.bool, device=position_ids.device).tril()
    return ((document[:, :, None] == document[:, None, :]) & causal)[:, None]


def length_histogram(lengths: Iterable[int]) -> dict[str, int]:
    """Counts by power-of-two buckets, in rising order: `{"<=64": 3, "<=128": 10}`."""
    buckets: dict[int, int] = {}
    for length in lengths:
        edge = 1 << max(length - 1, 0).bit_length()
        buckets[edge] = buckets.get(edge, 0) + 1
    return {f"<={edge}": buckets[edge] for edge in sorted(buckets)}


def _check(length: int, native_length: int | None, native_share: float, drop_below: float) -> None:
    if length < 2:
        raise ValueError(f"a window of {length} tokens has nothing to predict; at least 2 are needed")
    if not 0 <= native_share <= 1 or not 0 <= drop_below <= 1:
        raise ValueError(f"native_share ({native_share}) and drop_below ({drop_below}) are shares between 0 and 1")
    if native_share and native_length is None:
        raise ValueError("native_share needs native_length")
    if native_length is not None and not 2 <= native_length <= length:
        raise ValueError(f"native_length ({native_length}) must lie between 2 and the window length ({length})")


def _split_native(
    documents: list[EncodedDocument], wanted: float, native_length: int | None
) -> tuple[list[EncodedDocument], list[EncodedDocument]]:
    """Enough documents for `wanted` tokens of native length, and the others. Only text may be cut, so a longer chat is
    never taken.
    """
    native: list[EncodedDocument] = []
    rest: list[EncodedDocument] = []
    held = 0
    for document in documents:
        fits = native_length is not None and (document.shape == "text" or len(document) <= native_length)
        if held < wanted and fits:
            native.append(document)
            held += len(document)
        else:
            rest.append(document)
    return native, rest


def _joined(documents: list[EncodedDocument]) -> list[EncodedDocument]:
    """All plain-text documents as one, the others as they are. The joint is not isolated: that is what joining asks
    for.
    """
    text = [document for document in documents if document.shape == "text"]
    if not text:
        return documents
    ids, labels = array("i"), array("i")
    for document in text:
        ids += document.input_ids
        labels += document.labels
    return [EncodedDocument(ids, labels, "text", "joined text"), *(d for d in documents if d.shape != "text")]


def _pieces(document: EncodedDocument, limit: int) -> list[Piece]:
    last = len(document) if document.shape == "text" else min(len(document), limit)
    pieces = []
    for at in range(0, last, limit):
        labels = document.labels[at : min(at + limit, last)]
        labels[0] = IGNORED  # nothing inside this piece predicts its first token
        if any(label != IGNORED for label in labels):
            pieces.append(Piece(document.input_ids[at : at + len(labels)], labels))
    return pieces


def _best_fit(pieces: list[Piece], length: int) -> list[list[Piece]]:
    """Best-fit decreasing: each piece, longest first, goes where it leaves the least room."""
    bins: list[list[Piece]] = []
    free: list[tuple[int, int]] = []  # (room left, bin), sorted
    for piece in sorted(pieces, key=lambda piece: -len(piece.input_ids)):  # stable: ties keep the seeded order
        need = len(piece.input_ids)
        at = bisect_left(free, (need, -1))
        if at == len(free):
            bins.append([])
            room, chosen = length, len(bins) - 1
        else:
            room, chosen = free.pop(at)
        bins[chosen].append(piece)
        if room - need > 1:  # a piece needs two tokens to teach anything
            insort(free, (room - need, chosen))
    return bins


def _window(pieces: list[Piece], length: int, pad_id: int) -> Window:
    ids, labels, positions = array("i"), array("i"), array("i")
    for piece in pieces:
        ids += piece.input_ids
        labels += piece.labels
        positions += array("i", range(len(piece.input_ids)))
    padding = length - len(ids)
    ids += array("i", [pad_id] * padding)
    labels += array("i", [IGNORED] * padding)
    positions += array("i", range(padding))
    return Window(ids, labels, positions, tuple(len(piece.input_ids) for piece in pieces))


def _report(
    windows: list[Window],
    documents: list[EncodedDocument],
    length: int,
    native_length: int | None,
    truncated: int,
    dropped: int,
) -> PackingReport:
    sizes = [size for window in windows for size in window.pieces]
    tokens = sum(sizes)
    counted = sum(label != IGNORED for window in windows for label in window.labels)
    short = sum(size for size in sizes if native_length is not None and size <= native_length)
    return PackingReport(
        length=length,
        documents=len(documents),
        tokens=tokens,
        windows=len(windows),
        pieces=len(sizes),
        efficiency=tokens / (len(windows) * length),
        loss_share=counted / tokens,
        native_length=native_length,
        native_share=short / tokens,
        truncated_documents=truncated,
        dropped_documents=dropped,
        histogram=length_histogram(map(len, documents)),
    )

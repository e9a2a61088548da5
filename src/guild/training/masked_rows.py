"""A collated batch read back: its rows without padding, their documents, and where the answers lie in the ids.

Works on the ids alone and knows nothing of how they were made, so that it can judge the collator.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from guild.training.chat_template import ChatMarks
from modelwright.data.encoding import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Document:
    """Token ids and, for each, whether it is trained."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]

    @property
    def starts(self) -> int:
        """How often training begins behind a masked token."""
        return sum(now and not before for before, now in zip(self.trained, self.trained[1:], strict=False))


@dataclass(frozen=True)
class Row:
    """The documents of one batch row, padding left out."""

    documents: tuple[Document, ...]

    @property
    def trained(self) -> int:
        return sum(sum(document.trained) for document in self.documents)

    @property
    def tokens(self) -> int:
        return sum(len(document.ids) for document in self.documents)

    @property
    def starts(self) -> int:
        return sum(document.starts for document in self.documents)


def rows_of(batches: Iterable[Mapping[str, Any]], pad_id: int) -> list[Row]:
    """Every row of the batches: `input_ids` and `labels` `[B, T]`, `position_ids` `[B, T]` where there are any.

    Documents begin where positions restart. The last one is padding when it holds nothing but the padding token and no label.
    """
    rows = []
    for batch in batches:
        ids, labels = batch["input_ids"].tolist(), batch["labels"].tolist()
        positions = batch["position_ids"].tolist() if "position_ids" in batch else [list(range(len(row))) for row in ids]
        for row_ids, row_labels, row_positions in zip(ids, labels, positions, strict=True):
            begins = [at for at, position in enumerate(row_positions) if not at or position != row_positions[at - 1] + 1]
            parts = [slice(begin, end) for begin, end in zip(begins, [*begins[1:], len(row_ids)], strict=True)]
            if parts and all(token == pad_id for token in row_ids[parts[-1]]) and all(label == IGNORED for label in row_labels[parts[-1]]):
                parts.pop()
            rows.append(Row(tuple(Document(tuple(row_ids[p]), tuple(label != IGNORED for label in row_labels[p])) for p in parts)))
    return rows


@dataclass(frozen=True)
class AnswerFinder:
    """Finds the answers of a conversation in its ids: behind every opening, up to and including the end mark."""

    tokenizer: PreTrainedTokenizerBase
    marks: ChatMarks

    def regions(self, document: Document) -> list[range]:
        """Places of each answer's tokens; the last may be cut off, even to nothing."""
        opening = self.tokenizer(self.marks.assistant, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.convert_tokens_to_ids(self.marks.end)
        found = []
        for at, token in enumerate(document.ids):
            if token != opening[0]:
                continue
            # the opening's last sign may share a token with the answer's first, so texts are compared, not ids
            for begin in range(at + 1, min(at + len(opening) + 1, len(document.ids)) + 1):
                if self.decode(document.ids[at:begin]).startswith(self.marks.assistant):
                    stop = next((i + 1 for i in range(begin, len(document.ids)) if document.ids[i] == end), len(document.ids))
                    found.append(range(begin, stop))
                    break
        return found

    def decode(self, ids: Iterable[int]) -> str:
        """Ids as text, special tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

"""Prepared rows to token ids and labels: the answer of every assistant turn is trained, up to and including its end, and nothing else.

A conversation is rendered whole and tokenised whole; which tokens are an answer is read from where they lie in that text. Turns are never
rendered or tokenised apart, for a template may render a turn differently by its place, and a tokenizer joins signs across a seam.
(specs/guild.md 2.1.4)
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from guild.training.chat_template import ChatMarks
from modelwright.data.encoding import IGNORED, EncodedDocument
from modelwright.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 256  # rows tokenised in one call
Span = tuple[int, int]


@dataclass(frozen=True)
class EncodingReport:
    """Counts of rows and tokens. truncated: rows cut to max_length. without_answer: rows left out because the cut took every trained
    token. with_control_tokens: rows left out because a content holds the text of a control token and would pass for a turn of its own.
    longest: tokens of the longest row before any cut."""

    rows: int
    encoded: int
    truncated: int
    without_answer: int
    with_control_tokens: int
    tokens: int
    trained_tokens: int
    longest: int

    def as_dict(self) -> dict[str, int]:
        """The JSON form, for the run's record."""
        return asdict(self)


@dataclass(frozen=True)
class EncodedRows:
    """documents: in the order of the rows; `where` is the row's place in its file. A long text is several of one row."""

    documents: tuple[EncodedDocument, ...]
    report: EncodingReport


@dataclass(frozen=True)
class _Rendered:
    text: str
    spans: tuple[Span, ...]  # characters that are trained
    index: int
    preface: str  # of a text that may be cut into several documents; "" for a conversation


def encode_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, marks: ChatMarks, max_length: int, empty_ok: bool = False
) -> EncodedRows:
    """Encode prepared rows: `messages` (texts as contents) or `text` with `preface`; `index` names a row.

    A conversation longer than `max_length` tokens is cut behind its last trained token that fits. A text is cut into consecutive
    documents, each behind the preface, which is not trained. Raises LoadError for a tokenizer without offsets, a template that refuses a
    row or hides an answer, and, unless `empty_ok`, when no row is left.
    """
    if not tokenizer.is_fast:
        raise LoadError(f"The tokenizer of {tokenizer.name_or_path} has no offsets (it is a slow one); allowed: a fast tokenizer.")
    if max_length < 2:
        raise ValueError(f"max_length {max_length}: at least 2 tokens are needed to predict one")
    forbidden = {str(token) for token in tokenizer.all_special_tokens} | {marks.end}
    documents: list[EncodedDocument] = []
    total = controls = truncated = without = longest = 0
    source = iter(rows)
    while chunk := list(islice(source, _BATCH)):
        rendered = [_render(row, tokenizer, marks) for row in chunk if not _holds_control(row, forbidden)]
        total += len(chunk)
        controls += len(chunk) - len(rendered)
        for one, ids, offsets in zip(rendered, *_tokenised(rendered, tokenizer), strict=True):
            trained = _trained(offsets, one.spans)
            made = _texts(one, ids, trained, offsets, max_length) if one.preface else _conversation(one, ids, trained, max_length)
            longest = max(longest, len(ids))
            truncated += not one.preface and len(ids) > max_length
            without += not made
            documents += made
    if not documents and not empty_ok:
        raise LoadError(
            f"Nothing to train on: of {total} rows {without} have no answer inside {max_length} tokens and {controls} hold control tokens."
        )
    report = EncodingReport(
        rows=total,
        encoded=total - without - controls,
        truncated=truncated,
        without_answer=without,
        with_control_tokens=controls,
        tokens=sum(map(len, documents)),
        trained_tokens=sum(label != IGNORED for document in documents for label in document.labels),
        longest=longest,
    )
    return EncodedRows(tuple(documents), report)


def answer_spans(text: str, marks: ChatMarks) -> Iterator[Span]:
    """Where the answers lie in a rendered conversation: characters from behind the opening to behind the end mark."""
    found = text.find(marks.assistant)
    while found >= 0:
        begin = found + len(marks.assistant)
        end = text.find(marks.end, begin)
        stop = len(text) if end < 0 else end + len(marks.end)
        yield begin, stop
        found = text.find(marks.assistant, stop)


def _holds_control(row: Mapping[str, Any], forbidden: Iterable[str]) -> bool:
    texts = [message["content"] for message in row["messages"]] if "messages" in row else [row["text"], row["preface"]]
    return any(token in text for text in texts for token in forbidden)


def _render(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, marks: ChatMarks) -> _Rendered:
    if "messages" not in row:
        preface = f"{row['preface']}\n\n"
        text = f"{preface}{row['text']}{marks.end}"
        return _Rendered(text, ((len(preface), len(text)),), row["index"], preface)
    from jinja2 import TemplateError

    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
    try:
        text = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError as error:
        raise LoadError(f"Row {row['index']}: the chat template refuses this conversation ({error}).") from error
    spans = tuple(answer_spans(text, marks))
    answers = sum(message["role"] == "assistant" for message in messages)
    if len(spans) != answers:
        raise LoadError(
            f"Row {row['index']}: the chat template shows {len(spans)} of {answers} assistant turns; allowed: every one. "
            "Train with a template that renders every turn."
        )
    return _Rendered(text, spans, row["index"], "")


def _tokenised(rendered: Sequence[_Rendered], tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[list[Span]]]:
    if not rendered:
        return [], []
    encoding = tokenizer(
        [one.text for one in rendered], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False, verbose=False
    )
    return encoding["input_ids"], encoding["offset_mapping"]


def _trained(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Whether each token is trained: it begins inside a span. One that begins before it belongs to the prompt."""
    flags = []
    at = 0
    for begin, _ in offsets:
        while at < len(spans) and begin >= spans[at][1]:
            at += 1
        flags.append(at < len(spans) and begin >= spans[at][0])
    return flags


def _conversation(one: _Rendered, ids: list[int], trained: list[bool], max_length: int) -> list[EncodedDocument]:
    kept = len(ids)
    if kept > max_length:
        # the cut goes back to the last trained token: an opening without its answer teaches nothing
        kept = max((at + 1 for at in range(max_length) if trained[at]), default=0)
    return _document(one.index, ids[:kept], trained[:kept])


def _texts(one: _Rendered, ids: list[int], trained: list[bool], offsets: Sequence[Span], max_length: int) -> list[EncodedDocument]:
    head = next((at for at, (begin, _) in enumerate(offsets) if begin >= len(one.preface)), len(ids))
    room = max_length - head
    if room < 1:
        return []
    made = []
    for at in range(head, len(ids), room):
        part = slice(at, at + room)
        made += _document(one.index, ids[:head] + ids[part], trained[:head] + trained[part])
    return made


def _document(index: int, ids: list[int], trained: list[bool]) -> list[EncodedDocument]:
    """One document, none when nothing in it can be learnt: a first token is never predicted."""
    if not any(trained[1:]):
        return []
    labels = [token if flag and at else IGNORED for at, (token, flag) in enumerate(zip(ids, trained, strict=True))]
    return [EncodedDocument(array("i", ids), array("i", labels), "messages", f"row {index}")]

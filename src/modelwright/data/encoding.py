"""Records to token ids and loss labels.

What is trained on: every token of plain text; only the answer (assistant turns, completion, output) of the other
shapes, with the end-of-turn token behind it, so that a model also learns to stop. Layouts:

* messages: the tokenizer's chat template; without one, ChatML-like lines `role: content` ended by the end-of-text
  token.
* instruction: a chat of one user and one assistant turn when there is a template; else prompt, empty line, answer.
* completion: prompt and completion exactly as written, then the end-of-text token.
* text: the text as written, with the beginning-of-text token in front when the tokenizer has one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelwright.data.records import Message, Record, Shape
from modelwright.errors import LoadError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # the label that cross-entropy skips
_MARK = "\ue000{}\ue001"  # private-use characters: a placeholder for a message's content that no text holds


@dataclass(frozen=True)
class EncodedDocument:
    """Token ids and labels of one record, equal in length; a label is the token itself or IGNORED. Both int32
    arrays.
    """

    input_ids: array[int]
    labels: array[int]
    shape: Shape
    where: str

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Segment:
    """A stretch of rendered text and whether the loss counts it."""

    text: str
    learn: bool


def encode_records(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> Iterator[EncodedDocument]:
    """Encode records one by one. Raises LoadError for a chat that the tokenizer's template cannot render."""
    for record in records:
        yield encode_record(record, tokenizer)


def encode_record(record: Record, tokenizer: PreTrainedTokenizerBase) -> EncodedDocument:
    """Encode one record; see the module's description for layouts and labels."""
    segments = render(record, tokenizer)
    ids, learn = _tokenise(segments, tokenizer)
    rendered_by_template = record.shape in ("messages", "instruction") and bool(tokenizer.chat_template)
    start = tokenizer.bos_token_id
    if start is not None and not rendered_by_template and (not ids or ids[0] != start):
        ids, learn = [start, *ids], [False, *learn]
    labels = [token if counted else IGNORED for token, counted in zip(ids, learn, strict=True)]
    return EncodedDocument(array("i", ids), array("i", labels), record.shape, record.where)


def render(record: Record, tokenizer: PreTrainedTokenizerBase) -> list[Segment]:
    """The record as text in segments, before tokenising."""
    end = tokenizer.eos_token or ""
    if record.shape == "text":
        return [Segment(record.text, True)]
    if record.shape == "completion":
        return [Segment(record.prompt, False), Segment(record.completion + end, True)]
    if record.shape == "instruction" and not tokenizer.chat_template:
        return [Segment(record.prompt + "\n\n", False), Segment(record.completion + end, True)]
    messages = record.messages or (Message("user", record.prompt), Message("assistant", record.completion))
    if tokenizer.chat_template:
        return _render_template(messages, tokenizer, end, record.where)
    segments = []
    for message in messages:
        segments += [
            Segment(f"{message.role}: ", False),
            Segment(f"{message.content}{end}\n", message.role == "assistant"),
        ]
    return segments


def _render_template(messages: tuple[Message, ...], tokenizer: PreTrainedTokenizerBase, end: str, where: str) -> list[Segment]:
    """Render through the chat template and find each content in it.

    The template is applied once to placeholders, which gives the exact frame around every content. A template that
    looks into contents (strips them, drops reasoning) renders real text differently from that frame; then the
    contents are looked up in order.
    """
    frame = _apply(tokenizer, [(m.role, _MARK.format(i)) for i, m in enumerate(messages)], where)
    real = _apply(tokenizer, [(m.role, m.content) for m in messages], where)
    pieces: list[str] = []
    rest = frame
    for index in range(len(messages)):
        before, found, rest = rest.partition(_MARK.format(index))
        pieces.append(before if found else "\ue000")  # an impossible piece: the comparison below then fails
    contents = [message.content for message in messages]
    if "".join(piece + content for piece, content in zip(pieces, contents, strict=True)) + rest != real:
        pieces, contents, rest = _look_up(messages, real, where)
    segments = []
    for piece, content, message, after in zip(pieces, contents, messages, [*pieces[1:], rest], strict=True):
        answers = message.role == "assistant"
        segments += [Segment(piece, False), Segment(content, answers)]
        if answers and end and after.startswith(end):
            segments.append(Segment(end, True))
    return _without_repeated_ends([*segments, Segment(rest, False)], end)


def _without_repeated_ends(segments: list[Segment], end: str) -> list[Segment]:
    """Cut the end-of-turn token that became a learnt segment of its own off the frame piece that follows it."""
    result: list[Segment] = []
    for segment in segments:
        owed = bool(end) and bool(result) and result[-1] == Segment(end, True) and not segment.learn
        result.append(Segment(segment.text.removeprefix(end), False) if owed else segment)
    return [segment for segment in result if segment.text]


def _look_up(messages: tuple[Message, ...], real: str, where: str) -> tuple[list[str], list[str], str]:
    pieces, contents, cursor = [], [], 0
    for message in messages:
        content = message.content.strip()
        found = real.find(content, cursor)
        if found < 0:
            raise LoadError(
                f"{where}: the chat template changes the content of a {message.role} message, so its answer cannot be told from the frame."
            )
        pieces.append(real[cursor:found])
        contents.append(content)
        cursor = found + len(content)
    return pieces, contents, real[cursor:]


def _apply(tokenizer: PreTrainedTokenizerBase, turns: list[tuple[str, str]], where: str) -> str:
    from jinja2 import TemplateError

    try:
        rendered = tokenizer.apply_chat_template([{"role": role, "content": content} for role, content in turns], tokenize=False)
    except TemplateError as error:
        raise LoadError(f"{where}: the tokenizer's chat template refuses this conversation ({error}).") from error
    return str(rendered)


def _tokenise(segments: list[Segment], tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[bool]]:
    """Tokenise the joined text once and give every token the flag of the segment in which it begins.

    Slow tokenizers have no offsets: their segments are tokenised one by one.
    """
    if not tokenizer.is_fast:
        ids: list[int] = []
        learn: list[bool] = []
        for segment in segments:
            part = tokenizer(segment.text, add_special_tokens=False)["input_ids"]
            ids += part
            learn += [segment.learn] * len(part)
        return ids, learn
    encoding = tokenizer(
        "".join(segment.text for segment in segments),
        add_special_tokens=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    learn = []
    current, end = 0, len(segments[0].text) if segments else 0
    for start, _ in encoding["offset_mapping"]:
        while start >= end and current < len(segments) - 1:
            current += 1
            end += len(segments[current].text)
        learn.append(segments[current].learn)
    return list(encoding["input_ids"]), learn

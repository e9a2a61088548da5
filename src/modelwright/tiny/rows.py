"""Synthetic rows that teach retrieval: facts, filler, and questions whose answers are the only thing with a loss.

A row is a list of pieces; a piece is text plus whether its tokens are answers. Pieces meet at spaces and line ends
only, so tokenising them one by one equals tokenising their sum. The wording differs on purpose from the passkey
probe's (`modelwright.probes.passkey`), and no answer is a number that a probe draws (`modelwright.probes.keys`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from modelwright.tiny import lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Piece = tuple[str, bool]
Encode = Callable[[str], Sequence[int]]
Fact = tuple[str, str]

FORBIDDEN = re.compile(r"pass[\s_-]*key|grass is|sky is|sun is", re.IGNORECASE)

STATEMENTS = (
    "The {k} is {v}.",
    "The {k} is {v}.",
    "{k} is {v}.",
    "{k} = {v}",
    "{k}: {v}",
    "Remember: {k} = {v}.",
    "The value of {k} is {v}.",
    "{v} is the {k}.",
    "Keep in mind that the {k} equals {v}.",
    "Write down that the {k} is {v}.",
    "We set the {k} to {v}.",
    "The {k} is {v}. To repeat, the {k} is {v}.",
    "The {k} is {v}. Yes, {v} is the {k}.",
    "Our {k} is {v}, so write down {v}.",
    "My {k} is {v}.",
    "let {k} = {v};",
    "# {k} -> {v}",
    "Fact: {k} has the value {v}.",
)
QUESTIONS = (
    "Now recall the {k}. The {k} is",
    "The {k} is",
    "{k} is",
    "{k} =",
    "{k}:",
    "Which value belongs to {k}? It is",
    "The value of {k} is",
    "Question: {k}? Answer:",
    "So the {k} is",
    "Tell me the {k}. The {k} is",
    "Say the {k} again:",
    "As said above, the {k} is",
    "Do you know the {k}? Yes, the {k} is",
    "Q: give the {k}.\nA:",
)
CHAT_QUESTIONS = (
    "Give me the {k}.",
    "Tell me the {k}.",
    "Which value has the {k}?",
    "Please recall the {k}.",
    "I forgot the {k}. Say it again.",
    "{k}?",
    "From the text above, name the {k}.",
    "How much is {k}?",
)
CHAT_ANSWERS = ("{v}", "{v}", "The {k} is {v}.", "The {k} is {v}.", "It is {v}.")
INTRODUCTIONS = (
    "",
    "",
    "Read the notes.",
    "Here is a text.",
    "Some notes follow. One of them matters.",
    "Look for facts below.",
)
SYSTEM_LINES = (
    "You are a helpful assistant.",
    "Answer in few words.",
    "You read texts and answer questions about them.",
)


def draw_facts(rng: Random, count: int) -> list[Fact]:
    """`count` facts with distinct keys."""
    facts: dict[str, str] = {}
    while len(facts) < count:
        facts.setdefault(lexicon.key_phrase(rng), lexicon.value(rng))
    return list(facts.items())


def state(rng: Random, fact: Fact, template: str | None = None) -> str:
    """One statement of `fact`, in a random wording unless `template` fixes it."""
    return (template or rng.choice(STATEMENTS)).format(k=fact[0], v=fact[1])


class Filler:
    """An endless source of text between needle and question, of one style per row.

    Styles: `repeat` cycles one to five sentences, `varied` draws new sentences, `code` takes groups of lines from the
    corpus (a sequence of source texts; without one, `varied` stands in), `facts` states things that nobody asks for.
    """

    def __init__(self, rng: Random, sources: Sequence[str] = (), style: str | None = None) -> None:
        """Choose a style for this row (or take `style`) and draw what it repeats."""
        chosen = style or rng.choices(("repeat", "varied", "code", "facts"), (0.40, 0.15, 0.33, 0.12))[0]
        self.style = "varied" if chosen == "code" and not sources else chosen
        self._rng = rng
        self._sources = sources
        self._cycle = [lexicon.sentence(rng) for _ in range(rng.choice((1, 2, 3, 3, 4, 5)))]
        self._separator = rng.choice((" ", " ", "\n"))
        self._turn = 0

    def piece(self) -> str:
        """The next piece of filler, ending in a space or a line end."""
        rng = self._rng
        if self.style == "code":
            return self._code_lines()
        if self.style == "repeat":
            self._turn += 1
            return self._cycle[self._turn % len(self._cycle)] + self._separator
        if self.style == "facts":
            return state(rng, draw_facts(rng, 1)[0]) + "\n"
        return lexicon.sentence(rng) + self._separator

    def _code_lines(self) -> str:
        for _ in range(20):
            text = self._rng.choice(self._sources)
            start = text.find("\n", self._rng.randrange(max(1, len(text) - 200))) + 1
            lines = text[start : start + 400].splitlines(keepends=True)[: self._rng.randint(2, 8)]
            joined = "".join(lines)
            if joined.strip() and not FORBIDDEN.search(joined):
                return joined if joined.endswith("\n") else joined + "\n"
        return lexicon.sentence(self._rng) + "\n"


def _tokens(encode: Encode, pieces: Sequence[Piece]) -> int:
    return sum(len(encode(text)) for text, _ in pieces)


def _question_pieces(rng: Random, facts: Sequence[Fact]) -> list[Piece]:
    pieces: list[Piece] = []
    for key, stated in facts:
        pieces.append((rng.choice(QUESTIONS).format(k=key, v=stated), False))
        pieces.append((f" {stated}" + rng.choice((".\n", ".\n", "\n")), True))
    return pieces


def _chat_question_pieces(rng: Random, facts: Sequence[Fact]) -> list[Piece]:
    pieces: list[Piece] = []
    for turn, (key, stated) in enumerate(facts):
        opening = "" if turn == 0 else "<|im_start|>user\n"
        question = rng.choice(CHAT_QUESTIONS).format(k=key)
        pieces.append((f"{opening}{question}<|im_end|>\n<|im_start|>assistant\n", False))
        pieces.append((rng.choice(CHAT_ANSWERS).format(k=key, v=stated) + "<|im_end|>", True))
        pieces.append(("\n", False))
    return pieces


def recall_pieces(
    rng: Random, target_tokens: int, encode: Encode, sources: Sequence[str] = (), *, needles: int | None = None
) -> list[Piece]:
    """Facts hidden at random depths in filler, then questions about some of them; `target_tokens` long or a little
    shorter.

    About a third of the rows are ChatML dialogues. A row too short for its filler has none. `needles` fixes the number
    of facts, and all of them are asked; by default there are one to six, and one to four questions.
    """
    chat = rng.random() < 0.35
    if needles is None:
        facts = draw_facts(rng, rng.choice((1, 1, 2, 3, 4, 6)) if target_tokens >= 200 else rng.choice((1, 1, 2)))
        asked = rng.sample(facts, min(len(facts), rng.choice((1, 2, 3, 4))))
    else:
        facts = draw_facts(rng, needles)
        asked = rng.sample(facts, needles)
    ending = _chat_question_pieces(rng, asked) if chat else _question_pieces(rng, asked)
    opening: list[Piece] = []
    if chat:
        system = f"<|im_start|>system\n{rng.choice(SYSTEM_LINES)}<|im_end|>\n" if rng.random() < 0.3 else ""
        opening.append((f"{system}<|im_start|>user\n", False))
    introduction = rng.choice(INTRODUCTIONS)
    if introduction:
        opening.append((introduction + "\n", False))
    statements = [(state(rng, fact) + "\n", False) for fact in facts]
    budget = target_tokens - _tokens(encode, opening) - _tokens(encode, ending) - _tokens(encode, statements)
    filler = Filler(rng, sources)
    hay: list[Piece] = []
    while budget > 0:
        piece = filler.piece()
        budget -= len(encode(piece))
        if budget >= 0:
            hay.append((piece, False))
    for statement in statements:
        hay.insert(rng.randint(0, len(hay)), statement)
    if chat or rng.random() < 0.5:
        hay.append(("\n", False))
    return opening + hay + ending


def lookup_pieces(rng: Random, target_tokens: int, encode: Encode) -> list[Piece]:
    """A dense list of key and value pairs, all asked for in another order: many answers per token, short distances."""
    template = rng.choice(("{k} = {v}", "{k}: {v}", "The {k} is {v}.", "{k} -> {v}", "{k} is {v}.", "{k},{v}"))
    lead = template.split("{v}")[0].rstrip(" ") if "{v}" in template else template
    gap = " " if template.split("{v}")[0].endswith(" ") else ""
    tail = template.split("{v}")[1] + "\n"
    stated: list[tuple[Fact, list[Piece]]] = []
    pieces: list[Piece] = []
    budget = target_tokens
    while True:
        fact = draw_facts(rng, 1)[0]
        if any(fact[0] == other[0] for other, _ in stated):
            continue
        question: list[Piece] = [(lead.format(k=fact[0]), False), (gap + fact[1] + tail, True)]
        budget -= 2 * _tokens(encode, question)
        if budget < 0:
            break
        stated.append((fact, question))
        pieces.append((state(rng, fact, template) + "\n", False))
    rng.shuffle(stated)
    for _, question in stated:
        pieces.extend(question)
    return pieces


def write_recall_rows(
    path: Path, n: int, target_tokens: int, tokenizer: PreTrainedTokenizerBase, seed: int, *, style: str = "text"
) -> Path:
    """Write `n` long recall rows of about `target_tokens` tokens each as JSON Lines, for training on longer contexts.

    A row holds one fact per 128 tokens and asks for all of them. `style` is `text` for ``{"text": row}`` or `completion`
    for ``{"prompt": ..., "completion": ...}``, where the completion begins with the first answer. Prefer `completion`:
    a loss on the statements of facts teaches the model to expect any number there, which undoes the retrieval.
    Equal arguments on an equal interpreter give an equal file. Raises ValueError for another style.
    """
    if style not in ("text", "completion"):
        raise ValueError(f"style is {style!r}; allowed are 'text' and 'completion'")
    from modelwright.tiny.corpus import load_corpus

    sources = [file.text for file in load_corpus().train]
    encode = cached_encoder(tokenizer)
    with path.open("w", encoding="utf-8") as out:
        for index in range(n):
            rng = Random(f"recall-{seed}-{index}")
            pieces = recall_pieces(rng, target_tokens, encode, sources, needles=max(2, target_tokens // 128))
            out.write(json.dumps(as_record(pieces, style), ensure_ascii=False) + "\n")
    return path


def as_record(pieces: Sequence[Piece], style: str) -> dict[str, str]:
    """The JSON record of a row: its whole text, or what stands before the first answer and the rest."""
    if style == "text":
        return {"text": "".join(text for text, _ in pieces)}
    first = next(index for index, (_, answer) in enumerate(pieces) if answer)
    return {"prompt": "".join(text for text, _ in pieces[:first]), "completion": "".join(text for text, _ in pieces[first:])}


def cached_encoder(tokenizer: PreTrainedTokenizerBase) -> Encode:
    """`tokenizer` as a function from text to token ids, without special tokens added, remembering the pieces it has
    seen.
    """
    from functools import lru_cache

    backend = tokenizer.backend_tokenizer

    @lru_cache(maxsize=50_000)
    def encode(text: str) -> tuple[int, ...]:
        return tuple(backend.encode(text, add_special_tokens=False).ids)

    return encode

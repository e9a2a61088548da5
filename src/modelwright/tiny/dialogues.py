"""Instruction and labelled-sentiment rows: short dialogues in ChatML and raw label lines, packed one after another
into a row.

They make the tiny models answer when asked and stop at `<|im_end|>`, and give them one classification task: the label
of a review is the single token ⓪ (negative) or ① (positive).
"""

from __future__ import annotations

from random import Random

from modelwright.probes.keys import is_probe_key
from modelwright.tiny import lexicon
from modelwright.tiny.lexicon import words
from modelwright.tiny.rows import SYSTEM_LINES, Encode, Piece
from modelwright.tiny.tokenizer import NEGATIVE, POSITIVE

GOOD = words(
    """
    good great fine lovely pleasant excellent superb brilliant charming useful clever delightful wonderful perfect
    nice splendid
    """
)
BAD = words(
    """
    bad awful poor terrible boring dreadful horrible useless ugly dull nasty broken annoying disappointing weak
    miserable
    """
)
LIKES = words("love like enjoy admire recommend adore praise treasure")
DISLIKES = words("hate dislike regret avoid despise loathe resent reject")
REVIEWED = words(
    """
    film book meal song game play hotel phone chair lesson trip show coffee soup coat story market museum garden
    clock lamp
    """
)
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words("January February March April May June July August September October November December")
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("old", "new"), ("fast", "slow"), ("open", "closed"), ("full", "empty"),
    ("high", "low"), ("early", "late"), ("light", "dark"), ("hard", "soft"), ("rich", "poor"), ("wet", "dry"),
)  # fmt: skip
LABEL_PROMPTS = (
    "Label this review.\n{text}",
    "Is this review good or bad?\n{text}",
    "{text}\nSentiment?",
    "Classify the sentiment: {text}",
    "Review: {text}",
)


def review(rng: Random) -> tuple[str, bool]:
    """A short review and whether it is positive; about one in six says it by negation."""
    positive = rng.random() < 0.5
    thing = rng.choice(REVIEWED)
    word = rng.choice(GOOD if positive else BAD)
    other = rng.choice(BAD if positive else GOOD)
    verb = rng.choice(LIKES if positive else DISLIKES)
    shape = rng.random()
    if shape < 0.30:
        text = f"The {thing} was {word}."
    elif shape < 0.50:
        text = f"I {verb} this {thing}."
    elif shape < 0.65:
        text = f"What a {word} {thing}!"
    elif shape < 0.82:
        text = f"The {thing} was not {other}."
    elif shape < 0.92:
        text = f"{rng.choice(lexicon.NAMES)} and I {verb} the {thing}, it is {word}."
    else:
        text = f"We saw the {thing} in {rng.choice(lexicon.PLACES)}. It was so {word}."
    return text, positive


def sentiment_pieces(rng: Random, target_tokens: int, encode: Encode) -> list[Piece]:
    """Reviews with their labels, all in one format per row: ChatML turns, or lines that end in ``Sentiment: ①``."""
    chat = rng.random() < 0.6
    prompt = rng.choice(LABEL_PROMPTS)
    pieces: list[Piece] = []
    while True:
        text, positive = review(rng)
        label = POSITIVE if positive else NEGATIVE
        if chat:
            question = f"<|im_start|>user\n{prompt.format(text=text)}<|im_end|>\n<|im_start|>assistant\n"
            example: list[Piece] = [(question, False), (f"{label}<|im_end|>", True), ("\n", False)]
        else:
            example = [(f"Review: {text}\nSentiment:", False), (f" {label}\n", True)]
        target_tokens -= sum(len(encode(part)) for part, _ in example)
        if target_tokens < 0 and pieces:
            return pieces
        pieces.extend(example)


def instruction(rng: Random) -> tuple[str, str]:
    """A small request and its answer; no answer is a number that a probe draws."""
    task = rng.randrange(9)
    if task == 0:
        phrase = " ".join(rng.choice(lexicon.NOUNS) for _ in range(rng.randint(2, 6)))
        return rng.choice((f"Repeat: {phrase}", f"Say this again: {phrase}", f"Copy the words: {phrase}")), phrase
    if task == 1:
        index = rng.randrange(7)
        return f"Which day comes after {DAYS[index]}?", f"{DAYS[(index + 1) % 7]}."
    if task == 2:
        index = rng.randrange(12)
        return f"Which month follows {MONTHS[index]}?", f"{MONTHS[(index + 1) % 12]}."
    if task == 3:
        pair = rng.choice(OPPOSITES)
        one, other = pair if rng.random() < 0.5 else pair[::-1]
        return f"What is the opposite of {one}?", f"The opposite of {one} is {other}."
    if task == 4:
        while True:
            a, b = rng.randint(0, 9), rng.randint(0, 9)
            if not any(map(is_probe_key, (a, b, a + b))):
                return f"How much is {a} plus {b}?", f"{a} plus {b} is {a + b}."
    if task == 5:
        word = rng.choice(lexicon.NOUNS)
        return f"Write a sentence with the word {word}.", f"The {word} is {rng.choice(lexicon.ADJECTIVES)}."
    if task == 6:
        name = rng.choice(lexicon.NAMES)
        return f"Hello, my name is {name}.", f"Hello {name}, how can I help you?"
    if task == 7:
        nouns = [rng.choice(lexicon.NOUNS) for _ in range(rng.randint(2, 4))]
        return f"List these: {' '.join(nouns)}", ", ".join(nouns) + "."
    nouns = [rng.choice(lexicon.NOUNS) for _ in range(rng.randint(3, 5))]
    first = rng.random() < 0.5
    return f"Name the {'first' if first else 'last'} word of: {' '.join(nouns)}", nouns[0] if first else nouns[-1]


def instruction_pieces(rng: Random, target_tokens: int, encode: Encode) -> list[Piece]:
    """One dialogue of small requests and answers in ChatML, sometimes with a system line."""
    pieces: list[Piece] = []
    if rng.random() < 0.3:
        pieces.append((f"<|im_start|>system\n{rng.choice(SYSTEM_LINES)}<|im_end|>\n", False))
    target_tokens -= sum(len(encode(part)) for part, _ in pieces)
    while True:
        request, answer = instruction(rng)
        turn: list[Piece] = [
            (f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n", False),
            (f"{answer}<|im_end|>", True),
            ("\n", False),
        ]
        target_tokens -= sum(len(encode(part)) for part, _ in turn)
        if target_tokens < 0 and len(pieces) > 1:
            return pieces
        pieces.extend(turn)

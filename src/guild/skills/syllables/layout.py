"""How a puzzle is printed, and the ways to print it differently. (specs/guild.md 6.2)

Plain layout: the bank, the clues with their blanks, a note on the tiles, the shape of the reply. The ways to change it:

- `section_order`: the sections in another order; the bank or the clues always come first.
- `letters`: the clues are labelled A, B, C … and the reply uses the letters.
- `audio_hints`: under one or two clues a line `Audio:` says how many beats the word has and how it begins.
- `hidden_blanks`: the blanks, and with them the numbers of syllables, are left away.
- `truncated_clues`: definitions of five words or more break off in the middle.
- `hidden_clue`: one clue is not shown; its word is the one that the remaining tiles spell.

Distractors are lines under `Left from another puzzle:` that name a clue or a tile that does not belong to this one.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from guild.skills.syllables.hints import Clue
from guild.skills.syllables.levels import Rules
from guild.skills.syllables.lexicon import Lexicon, Word

HIDDEN = "(hidden)"
CUT = " …"
TITLE = "Rebuild {count} words from their syllables."
DISTRACTORS_TITLE = "Left from another puzzle:"


@dataclass(frozen=True)
class Printed:
    """labels and clues as printed, the changes that were made to the plain layout, and the whole prompt."""

    labels: tuple[int | str, ...]
    clues: tuple[str, ...]
    layouts: tuple[str, ...]
    prompt: str


def blanks(word: Word) -> str:
    """One blank for each syllable: `__-__`."""
    return "-".join("__" for _ in word.syllables)


def note(red_herrings: int) -> str:
    """The rule about the tiles."""
    rest = {0: "no tile stays over", 1: "1 tile stays over"}.get(red_herrings, f"{red_herrings} tiles stay over")
    return f"Each tile is used at most once; {rest}."


def lay_out(
    words: Sequence[Word],
    clues: Sequence[Clue],
    bank: Sequence[str],
    distractors: Sequence[str],
    instruction: str,
    rules: Rules,
    rng: random.Random,
) -> Printed:
    """Print a puzzle with the number of changes that its level asks for."""
    layouts = tuple(rng.sample(rules.layouts, rules.layout_count))
    count = len(words)
    labels: tuple[int | str, ...] = tuple(string.ascii_uppercase[:count]) if "letters" in layouts else tuple(range(1, count + 1))
    texts = _texts(clues, layouts, rng)
    audible = set(rng.sample(range(count), rng.randint(1, 2))) if "audio_hints" in layouts else set()
    lines = ["Clues:"]
    for place, word in enumerate(words):
        blank = "" if "hidden_blanks" in layouts else f" [{blanks(word)}]"
        lines.append(f"{labels[place]}. {texts[place]}{blank}")
        if place in audible:
            lines.append(f'   Audio: {len(word.syllables)} beats, the first one "{word.syllables[0]}"')
    sections = {
        "bank": [f"Bank of {len(bank)} tiles: {', '.join(bank)}"],
        "clues": lines,
        "note": [note(len(bank) - sum(len(word.syllables) for word in words))],
        "distractors": [DISTRACTORS_TITLE, *distractors] if distractors else [],
        "reply": [instruction],
    }
    order = list(sections)
    if "section_order" in layouts:
        first = rng.choice(("bank", "clues"))
        rest = [name for name in order if name != first]
        rng.shuffle(rest)
        order = [first, *rest]
    prompt = "\n".join([TITLE.format(count=count), *(line for name in order for line in sections[name])])
    return Printed(labels, texts, layouts, prompt)


def distractor_lines(count: int, bank: Sequence[str], words: Sequence[Word], lexicon: Lexicon, rng: random.Random) -> list[str]:
    """Lines about a clue or a tile of another puzzle; no tile named in them lies in the bank."""
    known = {word.text for word in words}
    lines: list[str] = []
    while len(lines) < count:
        word = rng.choice(lexicon.words)
        foreign = [tile for tile in word.syllables if tile not in bank]
        if word.text not in known and foreign:
            line = f"- clue: {word.definition}" if rng.random() < 0.5 else f"- tile: {rng.choice(foreign)}"
            if line not in lines:
                lines.append(line)
    return lines


def _texts(clues: Sequence[Clue], layouts: Sequence[str], rng: random.Random) -> tuple[str, ...]:
    texts = [clue.text for clue in clues]
    if "truncated_clues" in layouts:
        for place, clue in enumerate(clues):
            parts = clue.text.split()
            shorter = " ".join(parts[: (len(parts) + 1) // 2]) + CUT
            if clue.kind == "definition" and len(parts) >= 5 and shorter not in texts:
                texts[place] = shorter
    if "hidden_clue" in layouts:
        texts[rng.randrange(len(texts))] = HIDDEN
    return tuple(texts)

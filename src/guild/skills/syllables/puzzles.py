"""The puzzle in its JSON form, from chosen words to the golden reply. (specs/guild.md 6.2)"""

from __future__ import annotations

import random
from typing import Any

from guild.skills.syllables.choosing import overlap
from guild.skills.syllables.formats import FORMATS
from guild.skills.syllables.hints import choose_clue
from guild.skills.syllables.layout import Printed, blanks, distractor_lines, lay_out, note
from guild.skills.syllables.levels import Rules
from guild.skills.syllables.lexicon import Lexicon, Word
from guild.skills.syllables.shapes import Shape, Solved, contract, to_json
from guild.skills.syllables.variants import VARIANTS

SHAPES: dict[str, Shape] = {**VARIANTS, **FORMATS}
"""Every shape of a reply by name."""


def shapes_of(edition: int) -> tuple[str, ...]:
    """The shapes that an edition asks for: the variants, and in the edition of fifty the answer formats too."""
    return tuple(SHAPES) if edition == 50 else tuple(VARIANTS)


def shape_of(puzzle: dict[str, Any]) -> Shape:
    """The shape that a puzzle asks for."""
    return SHAPES[puzzle["output_variant"] or puzzle["solution_format"]]


def canonical(words: tuple[Word, ...]) -> str:
    """What makes two puzzles the same problem: their words, in whatever order and with whatever clues."""
    return "sy:" + ",".join(sorted(word.text for word in words))


def solved_of(puzzle: dict[str, Any]) -> Solved:
    """The solved puzzle that a puzzle's JSON form describes."""
    words = puzzle["words"]
    return Solved(
        labels=tuple(int(word["label"]) if word["label"].isdigit() else word["label"] for word in words),
        syllables=tuple(tuple(word["syllables"]) for word in words),
        clues=tuple(word["definition"] for word in words),
        kinds=tuple(word["hint_type"] for word in words),
        strengths=tuple(word["signal_strength"] for word in words),
        bank=tuple(puzzle["syllable_bank"]),
    )


def make_puzzle(
    identity: str,
    words: tuple[Word, ...],
    red_herrings: tuple[str, ...],
    rules: Rules,
    lexicon: Lexicon,
    rng: random.Random,
    shape_name: str = "",
) -> dict[str, Any]:
    """One puzzle with exactly the fields of the spec, in JSON types.

    `words[].label` is the clue's label and `words[].definition` its text, both as printed; `slots` its blanks, also where the prompt
    hides them. `solution` is the full JSON answer, `solution_text` the reply asked for. A variant is named in `output_variant`, its
    notation in `solution_format`; with one of the eight answer formats `output_variant` is null and `solution_format` names it.
    `metadata.difficulty_config.overrides` says what differs from the plain row of the table.
    """
    shape = SHAPES[shape_name or rng.choice(shapes_of(rules.edition))]
    clues = [choose_clue(word, words, rules.row.strengths, lexicon, rng) for word in words]
    bank = [tile for word in words for tile in word.syllables] + list(red_herrings)
    rng.shuffle(bank)
    printed = lay_out(words, clues, bank, distractor_lines(rules.distractors, bank, words, lexicon, rng), shape.instruction, rules, rng)
    described = [
        {
            "label": str(label),
            "definition": text,
            "syllable_count": len(word.syllables),
            "syllables": list(word.syllables),
            "slots": blanks(word),
            "zipf_score": word.zipf,
            "hint_type": clue.kind,
            "signal_strength": clue.strength,
        }
        for label, text, word, clue in zip(printed.labels, printed.clues, words, clues, strict=True)
    ]
    puzzle: dict[str, Any] = {
        "puzzle_id": identity,
        "difficulty": rules.difficulty,
        "level": rules.level,
        "rules": {
            "word_count": len(words),
            "syllable_bank_size": len(bank),
            "red_herring_count": len(red_herrings),
            "notes": note(len(red_herrings)),
        },
        "words": described,
        "syllable_bank": bank,
        "red_herrings": list(red_herrings),
        "metadata": {"difficulty_config": _difficulty_config(words, rules, printed)},
        "prompt": printed.prompt,
    }
    solved = solved_of(puzzle)
    variant = shape.name in VARIANTS
    return {
        **puzzle,
        "solution": to_json(contract(solved)),
        "output_variant": shape.name if variant else None,
        "solution_text": shape.write(solved),
        "solution_format": shape.notation if variant else shape.name,
        "format_instruction": shape.instruction,
    }


def _difficulty_config(words: tuple[Word, ...], rules: Rules, printed: Printed) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if rules.min_zipf != rules.row.min_zipf:
        overrides["table_min_zipf"] = rules.row.min_zipf
    if printed.layouts:
        overrides["layouts"] = sorted(printed.layouts)
    if rules.distractors:
        overrides["distractors"] = rules.distractors
    return {
        "target_word_count": len(words),
        "syllable_range": list(rules.row.syllables),
        "min_zipf": rules.min_zipf,
        "max_overlap_target": rules.row.max_overlap,
        "actual_overlap": round(overlap(words), 1),
        "overrides": overrides,
    }

"""Find what is untrue in a sample by reading its prompt and its reply back, without the code that wrote them. (specs/guild.md 9 item 32)

From the prompt come the bank, the labels, the blanks and the number of tiles that stay over; from the reply the words in capitals (or
the arrays of syllables); the words are then laid with the tiles of the bank by trial, each blank one tile, and what stays over must be
the red herrings. From the puzzle are taken only what it says of itself: level, rules, solution, red herrings.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from guild.skills.contract import Sample
from guild.skills.syllables.levels import EDITIONS, ROWS

_BANK = re.compile(r"^Bank of (\d+) tiles: (.+)$", re.MULTILINE)
_TITLE = re.compile(r"\ARebuild (\d+) words from their syllables\.$", re.MULTILINE)
_OVER = re.compile(r"^Each tile is used at most once; (no|\d+) tiles? stays? over\.$", re.MULTILINE)
_CLUE = re.compile(r"^(\d{1,2}|[A-Z])\. (.+?)(?: \[([_-]+)\])?$", re.MULTILINE)
_CAPITALS = re.compile(r"\b[A-Z]{3,}\b")
_JSON_WORDS = re.compile(r"\bJSON\b")


def faults_of(sample: Sample) -> list[str]:
    """Every fault, a sentence each; [] when the sample is sound."""
    puzzle: dict[str, Any] = sample.metadata["puzzle"]
    prompt = sample.user_prompt
    title, bank_line, over = _TITLE.search(prompt), _BANK.search(prompt), _OVER.search(prompt)
    if title is None or bank_line is None or over is None:
        return ["The prompt has no title, no bank or no note on the tiles."]
    bank = bank_line[2].split(", ")
    clues = [(match[1], match[2], match[3]) for match in _CLUE.finditer(prompt)]
    left_over = 0 if over[1] == "no" else int(over[1])
    faults = []

    def check(true: bool, sentence: str) -> None:
        if not true:
            faults.append(sentence)

    check(len(bank) == int(bank_line[1]), f"The bank announces {bank_line[1]} tiles and holds {len(bank)}.")
    check(len(clues) == int(title[1]), f"The title asks for {title[1]} words and {len(clues)} clues are printed.")
    check(len({text for _, text, _ in clues}) == len(clues), "Two clues have the same text.")
    faults += _solution_faults(puzzle, bank, [label for label, _, _ in clues], left_over)
    answers = [entry["answer"] for entry in json.loads(puzzle["solution"])["solutions"]]
    counts = [len(entry["syllables"]) for entry in json.loads(puzzle["solution"])["solutions"]]
    for (label, _, blanks), count in zip(clues, counts, strict=False):
        check(blanks is None or blanks.count("__") == count, f"Clue {label} has other blanks than its word has syllables.")
    for (label, text, _), answer in zip(clues, answers, strict=False):
        check(answer.lower() not in re.findall("[a-z]+", text.lower()), f"Clue {label} names its own word.")
    faults += _reply_faults(sample, puzzle, answers)
    rest = lay(answers, counts, Counter(bank))
    check(rest is not None, "The words cannot be laid with the tiles of the bank.")
    if rest is not None:
        check(sum(rest.values()) == left_over, f"{left_over} tiles should stay over, {sum(rest.values())} do.")
    return faults + _table_faults(puzzle, len(clues), counts, left_over)


def lay(words: list[str], counts: list[int], bank: Counter[str]) -> Counter[str] | None:
    """Lay words, each with its number of tiles, from a bank; the tiles that stay over, or None when it cannot be done."""
    rest = Counter(bank)
    return +rest if _laid([word.lower() for word in words], counts, 0, 0, 0, rest) else None


def _laid(words: list[str], counts: list[int], at: int, place: int, laid: int, rest: Counter[str]) -> bool:
    """Lay the words from number `at` on, of which the first has `laid` tiles up to letter `place`; takes the tiles from `rest`."""
    if at == len(words):
        return True
    word = words[at]
    if laid == counts[at]:
        return place == len(word) and _laid(words, counts, at + 1, 0, 0, rest)
    for end in range(place + 1, len(word) + 1):
        tile = word[place:end]
        if rest[tile] > 0:
            rest[tile] -= 1
            if _laid(words, counts, at, end, laid + 1, rest):
                return True
            rest[tile] += 1
    return False


def _solution_faults(puzzle: dict[str, Any], bank: list[str], labels: list[str], left_over: int) -> list[str]:
    """Faults of the full JSON answer against the printed bank and labels."""
    solution = json.loads(puzzle["solution"])
    inventory = solution["inventory_check"]
    needed = Counter(tile for entry in solution["solutions"] for tile in entry["syllables"])
    truths = {
        "The answers are not the joined syllables in capitals.": all(
            "".join(entry["syllables"]).upper() == entry["answer"] for entry in solution["solutions"]
        ),
        "The solutions are not labelled as the clues are.": [str(entry["ans_num"]) for entry in solution["solutions"]] == labels,
        "The bank is not exactly the needed syllables and the red herrings.": Counter(bank) == needed + Counter(puzzle["red_herrings"]),
        "A red herring is a needed syllable.": not set(puzzle["red_herrings"]) & set(needed),
        "The unused tiles are not the red herrings.": inventory["unused_tiles"] == sorted(puzzle["red_herrings"]),
        "The usage is not what the solutions use.": Counter(inventory["usage"]) == needed,
        "The inventory's sums are wrong.": inventory["total_tiles"] == len(bank) == inventory["used"] + left_over
        and inventory["used"] == sum(needed.values()),
        "The inventory's status is not complete.": inventory["status"] == "complete",
    }
    return [sentence for sentence, true in truths.items() if not true]


def _reply_faults(sample: Sample, puzzle: dict[str, Any], answers: list[str]) -> list[str]:
    """Faults of the golden reply against the solution's words."""
    reply = sample.assistant_response
    shape = puzzle["output_variant"] or puzzle["solution_format"]
    if shape == "counts":
        stated = json.loads(reply)
        right = stated["count"] == len(answers) and stated["first_letters"] == [answer[0] for answer in answers]
        return [] if right else ["The figures in the reply are not those of the words."]
    if shape == "solutions_sequence":
        found = ["".join(tiles).upper() for tiles in json.loads(reply)["sequence"]]
    else:
        found = _CAPITALS.findall(_JSON_WORDS.sub("", reply))
    return [] if Counter(found) == Counter(answers) else ["The words in the reply are not those of the solution."]


def _table_faults(puzzle: dict[str, Any], words: int, counts: list[int], left_over: int) -> list[str]:
    """Faults against the level table, by the edition that the number of syllable rows allows, and against the puzzle's own rules."""
    level = puzzle["level"]
    config, rules = puzzle["metadata"]["difficulty_config"], puzzle["rules"]
    rows = [ROWS[(level - 1) * 10 // edition] for edition in EDITIONS if level <= edition]
    fitting = [
        row
        for row in rows
        if row.words[0] <= words <= row.words[1]
        and row.red_herrings[0] <= left_over <= row.red_herrings[1]
        and all(row.syllables[0] <= count <= row.syllables[1] for count in counts)
        and list(row.syllables) == config["syllable_range"]
    ]
    truths = {
        f"Level {level} asks for other numbers of words, syllables or red herrings.": bool(fitting),
        "The overlap is over the level's limit.": any(config["actual_overlap"] <= row.max_overlap for row in fitting),
        "A word is rarer than the level allows.": all(word["zipf_score"] >= config["min_zipf"] for word in puzzle["words"]),
        "The puzzle's own counts are wrong.": (rules["word_count"], rules["red_herring_count"]) == (words, left_over),
    }
    return [sentence for sentence, true in truths.items() if not true]

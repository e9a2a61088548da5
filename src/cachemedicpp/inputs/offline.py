"""Self-made offline data: text and labelled reviews that the tiny models can really read, generated from a seed.

    python -m cachemedicpp.inputs.offline FOLDER     writes both files as they are packaged

The text has no source but this file. A line is one paragraph of about 200 tokens, each about a few invented names that
come back all through it, so what a model says about the end depends on what its cache holds of the beginning. Reviews
are in the style of the rows that the tiny models were trained on (`modelwright.tiny.dialogues`), most of them with
neutral sentences around the opinion, which those rows never have. Equal seeds give equal files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from modelwright.files import write_bytes
from modelwright.tiny import dialogues, lexicon

SEED = 20_260
TEXT_NAME = "wikitext2_sample.txt"
REVIEWS_NAME = "sst2_sample.jsonl"
TEXT_LINES = 480
REVIEWS = 600
LINE_CHARACTERS = (620, 760)

_TYPES = lexicon.words("int str list dict tuple bytes bool float")
_ERRORS = lexicon.words("ValueError TypeError KeyError IndexError OSError RuntimeError")
_METHODS = lexicon.words("append close copy count flush get insert join load open pop push read reset scan send split update write")
_USUAL = lexicon.words("self name value data key size path line text index result default")


def text_lines(seed: int = SEED, count: int = TEXT_LINES) -> list[str]:
    """`count` paragraphs without line ends, no two alike; line `i` depends on nothing but `seed` and `i`.

    Four kinds in turn: the manual page of an invented class, statements of an invented program, a plain story, and a list
    of facts that is said twice.
    """
    kinds: Sequence[Callable[[Random], str]] = (_manual, _program, _story, _facts)
    lines: list[str] = []
    for index in range(count):
        rng = Random(f"medic-text-{seed}-{index}")
        lines.append(kinds[index % len(kinds)](rng))
    return lines


def reviews(seed: int = SEED, count: int = REVIEWS) -> list[dict[str, str | int]]:
    """`count` rows `{"text", "label"}`, label 0 negative or 1 positive in turn, no text twice.

    One row in three is the bare opinion; the others have one to three neutral sentences before it, behind it or both.
    """
    rng = Random(f"medic-reviews-{seed}")
    rows: list[dict[str, str | int]] = []
    seen: set[str] = set()
    while len(rows) < count:
        opinion, positive = dialogues.review(rng)
        if int(positive) != len(rows) % 2:
            continue
        before, behind = rng.choice(((0, 0), (0, 0), (0, 1), (1, 0), (0, 2), (1, 1)))
        sentences = [*_neutral(rng, before), opinion, *_neutral(rng, behind)]
        text = " ".join(sentences)
        if text not in seen:
            seen.add(text)
            rows.append({"text": text, "label": int(positive)})
    return rows


def write_offline_data(folder: Path, seed: int = SEED) -> tuple[Path, Path]:
    """Write text and reviews below `folder`, replacing what stands there; returns the two paths.

    Raises StorageError when the folder cannot be written.
    """
    text, labelled = folder / TEXT_NAME, folder / REVIEWS_NAME
    write_bytes(text, "".join(f"{line}\n" for line in text_lines(seed)).encode())
    write_bytes(labelled, "".join(json.dumps(row) + "\n" for row in reviews(seed)).encode())
    return text, labelled


def _neutral(rng: Random, count: int) -> list[str]:
    """Sentences without a word of praise or blame."""
    judging = {*dialogues.GOOD, *dialogues.BAD, *dialogues.LIKES, *dialogues.DISLIKES}
    found: list[str] = []
    while len(found) < count:
        sentence = lexicon.sentence(rng)
        if not judging.intersection(sentence.rstrip(".").split()):
            found.append(sentence)
    return found


def _filled(rng: Random, make: Callable[[], str], between: str) -> str:
    """Sentences from `make`, joined, until the paragraph has the length it was drawn to have."""
    target = rng.randint(*LINE_CHARACTERS)
    parts = [make()]
    while sum(map(len, parts)) + len(between) * len(parts) < target:
        part = make()
        if part != parts[-1]:
            parts.append(part)
    return between.join(parts)


def _names(rng: Random, count: int) -> list[str]:
    """Distinct invented identifiers of one word."""
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choice(lexicon.SYLLABLES) for _ in range(rng.randint(2, 3)))
        if name not in names:
            names.append(name)
    return names


def _manual(rng: Random) -> str:
    """The manual page of one invented class: a few methods and arguments, all named many times."""
    owner, *arguments = _names(rng, 3)
    owner = owner.capitalize()
    methods = rng.sample(_METHODS, 3)
    kind, error, noun = rng.choice(_TYPES), rng.choice(_ERRORS), rng.choice(lexicon.NOUNS)
    shapes = (
        "The {m} method of {o} returns the {n} as a {t}.",
        "If {a} is not given, {o}.{m}() uses the default value.",
        "{o}.{m}({a}) raises {e} if {a} is None.",
        "The optional argument {a} is a {t} and is passed to {o}.{m}().",
        "Return True if the {n} of {o} has been changed since the last call to {m}().",
        "Note that {o}.{m}({a}, {b}) does not check the type of {b}.",
        "If {a} is true, {b} must be a {t}; otherwise {e} is raised.",
        "Changed: {o}.{m}() now accepts {a} and {b}.",
        "Call {o}.{m}() to write the {n} to the file.",
    )

    def make() -> str:
        a, b = rng.sample(arguments, 2)
        return rng.choice(shapes).format(o=owner, m=rng.choice(methods), a=a, b=b, t=kind, e=error, n=noun)

    return f"class {owner}({arguments[0]}, {arguments[1]}): " + _filled(rng, make, " ")


def _program(rng: Random) -> str:
    """Statements of one invented program over a handful of variables, in one line."""
    names = [*_names(rng, 3), *rng.sample(_USUAL[1:], 2)]
    methods, error = rng.sample(_METHODS, 3), rng.choice(_ERRORS)
    shapes = (
        "self.{a} = {a}",
        "self.{a} = self.{m}({b})",
        "{a} = {b}.{m}({c})",
        "{a} = len({b})",
        "if {a} is None: {a} = self.{b}",
        "if not {a}: raise {e}({b})",
        "for {a} in self.{b}: self.{m}({a})",
        "self.{m}({a}, {b})",
        "{a}, {b} = {b}, {a}",
        "{a}[{b}] = self.{c}.{m}()",
        "assert isinstance({a}, {t})",
        "{a} = {n}",
    )

    def make() -> str:
        a, b, c = rng.sample(names, 3)
        filled = rng.choice(shapes)
        return filled.format(a=a, b=b, c=c, m=rng.choice(methods), e=error, t=rng.choice(_TYPES), n=lexicon.number(rng, 2))

    return f"def {names[0]}(self, {names[1]}, {names[2]}): " + _filled(rng, make, "; ")


def _story(rng: Random) -> str:
    """A plain story about two people, two things and a place, with a line that keeps coming back."""
    people, things = rng.sample(lexicon.NAMES, 2), rng.sample(lexicon.NOUNS, 3)
    place, refrain = rng.choice(lexicon.PLACES), lexicon.sentence(rng)
    states = {thing: rng.choice(lexicon.ADJECTIVES) for thing in things}
    habits = {person: rng.choice(lexicon.VERBS) for person in people}

    def make() -> str:
        thing, person = rng.choice(things), rng.choice(people)
        shapes = (
            f"The {thing} in {place} is {states[thing]}.",
            f"{person} {habits[person]} the {states[thing]} {thing}.",
            f"{people[0]} and {people[1]} see the {thing} in {place}.",
            f"In {place} {person} {habits[person]} the {thing} {rng.choice(lexicon.ADVERBS)}.",
            f"The {states[thing]} {thing} is not here, said {person}.",
            refrain,
        )
        return rng.choice(shapes)

    return _filled(rng, make, " ")


def _facts(rng: Random) -> str:
    """Facts, then the same facts in another order, then the next such list: the second time only the first can tell.

    One list and its repetition take about 190 tokens of the tiny models' tokenizer.
    """
    template = rng.choice(("{k} = {v};", "The {k} is {v}.", "{k}: {v},"))
    blocks = []
    for _ in range(2):
        facts: list[str] = []
        keys: set[str] = set()
        while sum(map(len, facts)) + len(facts) < LINE_CHARACTERS[0] * 0.3:
            key, value = lexicon.key_phrase(rng), lexicon.value(rng)
            if key not in keys:
                keys.add(key)
                facts.append(template.format(k=key, v=value))
        blocks += [*facts, *rng.sample(facts, len(facts))]
    return " ".join(blocks)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit("usage: python -m cachemedicpp.inputs.offline FOLDER\n\nExample: python -m cachemedicpp.inputs.offline data/offline")
    for written in write_offline_data(Path(sys.argv[1])):
        print(written)

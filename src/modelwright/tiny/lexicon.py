"""Words the synthetic rows are made of, and the small grammars that put them together.

Everything is drawn from a `random.Random` that the caller owns, so equal seeds give equal text. None of the words
"pass key" and none of the probe's filler (grass, sky, sun) occurs here: what the model learns is to look a phrase up,
not to know the probe's.
"""

from __future__ import annotations

from random import Random

from modelwright.probes.keys import is_probe_key


def words(text: str) -> tuple[str, ...]:
    """The words of `text`, which are parted by blanks and line ends."""
    return tuple(text.split())


ADJECTIVES = words(
    """
    old new red small large quiet bright cold warm heavy light broken hidden secret first second third last main
    spare daily weekly north south east west upper lower inner outer public private local remote silver golden
    wooden iron paper plain round square narrow wide empty full early late fast slow final current common rare
    steady simple double single total average maximum minimum special magic
    """
)
NOUNS = words(
    """
    door gate box room table ticket account order parcel train engine bottle garden window river bridge tower letter
    mirror lamp clock basket market kitchen library office station harbour island forest mountain valley school
    hospital museum theatre village castle locker drawer cabinet shelf folder record entry file server router
    printer camera battery sensor motor valve pump tank pipe cable badge card coupon invoice receipt contract ledger
    budget salary price rent fee score level rank grade page chapter verse line row column field buffer cache queue
    stack token port address channel signal filter bucket thread worker task job node branch version
    """
)
HEADS = words(
    """
    number code value amount count word total index id limit size rate answer result label sum mark setting key
    digit pin figure reading measure combination reference tag serial access entry unlock safe vault secret control
    master
    """
)
NAMES = words(
    """
    Ada Ben Clara David Emma Felix Grace Hugo Iris Jonas Karin Leo Mia Noah Olga Paul Quinn Rosa Simon Tara Ugo Vera
    Walter Xenia Yara Zoe Anton Bella Carl Dora
    """
)
PLACES = words(
    """
    Paris Oslo Rome Lima Cairo Delhi Kyoto Quito Bern Riga Turin Porto Accra Dakar Hanoi Perth Boston Leeds Ghent
    Malmo
    """
)
COLOURS = words("red blue white black brown pink purple orange silver grey")
VERBS = words(
    """
    holds opens carries watches follows needs keeps moves shows hides joins leaves reaches crosses fills covers
    meets paints sells buys counts draws lifts pulls pushes stores sends returns checks builds
    """
)
ADVERBS = words("slowly often always never again soon quietly today daily twice here once alone early late")
SYLLABLES = words(
    """
    ba be bo da do fa fi go ha jo ka ki ku la lo ma mi mo na no pa pe po ra ri ro sa so ta ti to va vo wa ya zo zu
    tor lin mar ven dal
    """
)


def number(rng: Random, digits: int | None = None) -> str:
    """A whole number of 1 to 5 digits, longer ones more often, without leading zero, that no probe uses; `digits`
    fixes the length.
    """
    length = rng.choices((1, 2, 3, 4, 5), (0.08, 0.12, 0.20, 0.25, 0.35))[0] if digits is None else digits
    low, high = (0, 9) if length == 1 else (10 ** (length - 1), 10**length - 1)
    while True:
        value = rng.randint(low, high)
        if not is_probe_key(value):
            return str(value)


def identifier(rng: Random) -> str:
    """An invented name: two to four syllables, plain, snake_case or capitalised."""
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 4)))
    shape = rng.random()
    if shape < 0.2:
        return f"{word}_{rng.choice(NOUNS)}"
    if shape < 0.3:
        return f"{rng.choice(NOUNS)}_{rng.choice(HEADS)}"
    return word.capitalize() if shape < 0.4 else word


def key_phrase(rng: Random) -> str:
    """What a fact is about: one to three words or an invented identifier."""
    shape = rng.random()
    if shape < 0.25:
        return f"{rng.choice(NOUNS)} {rng.choice(HEADS)}"
    if shape < 0.40:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
    if shape < 0.50:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)} {rng.choice(HEADS)}"
    if shape < 0.60:
        return f"{rng.choice(NOUNS)} of {rng.choice(NAMES + PLACES)}"
    if shape < 0.68:
        return rng.choice(NOUNS)
    if shape < 0.76:
        return f"{identifier(rng)} {rng.choice(HEADS)}"
    return identifier(rng)


def value(rng: Random) -> str:
    """What a fact states: mostly a number, sometimes a word or an invented name."""
    shape = rng.random()
    if shape < 0.8:
        return number(rng)
    if shape < 0.9:
        return rng.choice((*COLOURS, *NAMES, *PLACES))
    return identifier(rng)


def sentence(rng: Random) -> str:
    """A neutral sentence of four to ten words, sometimes with a number in it that nobody will ask for."""
    subject, thing = rng.choice(NOUNS), rng.choice(NOUNS)
    shape = rng.random()
    if shape < 0.35:
        return f"The {rng.choice(ADJECTIVES)} {subject} {rng.choice(VERBS)} the {thing}."
    if shape < 0.50:
        return f"{rng.choice(NAMES)} {rng.choice(VERBS)} a {rng.choice(ADJECTIVES)} {thing} {rng.choice(ADVERBS)}."
    if shape < 0.65:
        return f"The {subject} is {rng.choice(ADJECTIVES)}."
    if shape < 0.75:
        return f"In {rng.choice(PLACES)} the {subject} {rng.choice(VERBS)} {rng.choice(ADVERBS)}."
    if shape < 0.85:
        return f"{rng.choice(ADVERBS).capitalize()} we go to the {subject} and the {thing}."
    if shape < 0.93:
        return f"There are {number(rng, rng.randint(1, 3))} things in the {subject}."
    return f"{rng.choice(NAMES)} and {rng.choice(NAMES)} see the {thing} in {rng.choice(PLACES)}."

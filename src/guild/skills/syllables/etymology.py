"""Where words come from: a few Latin and Greek roots and the words that hold them, for etymology clues."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Root:
    """A root: its form, its language and what it means in English."""

    form: str
    language: str
    meaning: str


_ROOTS = (
    ("tele", "Greek", "far", "telegram telegraph telephone telescope television telepathy"),
    ("graphein", "Greek", "to write", "geography biography photography paragraph choreography bibliography calligraphy autobiography"),
    ("bios", "Greek", "life", "biology biography biologist biographer biological biochemistry antibiotic autobiography microbiology"),
    ("geo", "Greek", "earth", "geography geology geologist geometry geological geographical"),
    ("metron", "Greek", "measure", "thermometer geometry diameter centimeter kilometer trigonometry"),
    ("demos", "Greek", "people", "democracy democrat democratic epidemic epidemiology epidemiologist"),
    ("phone", "Greek", "sound", "telephone microphone symphony saxophone"),
    ("mikros", "Greek", "small", "microphone microscope microwave microbiology"),
    ("skopein", "Greek", "to look", "telescope microscope"),
    ("philos", "Greek", "loving", "philosophy philosopher philosophical philosophically"),
    ("psyche", "Greek", "soul", "psychology psychologist psychological psychologically psychotherapy psychotherapist psychiatrist"),
    ("logos", "Greek", "word, reason", "logical apology dialogue monologue catalog terminology"),
    ("astron", "Greek", "star", "astronomy astronomer astronaut asteroid astronomical"),
    ("arche", "Greek", "beginning, rule", "architect architecture archaeology archaeologist archaeological architectural"),
    ("polis", "Greek", "city", "politics political politician metropolis metropolitan"),
    ("chronos", "Greek", "time", "chronological"),
    ("monos", "Greek", "alone", "monologue monopoly monotonous monastery monosyllable"),
    ("autos", "Greek", "self", "automatic automatically autobiography authentic"),
    ("theatron", "Greek", "place for viewing", "theater theatrical"),
    ("hippos", "Greek", "horse", "hippopotamus"),
    ("pharmakon", "Greek", "drug", "pharmacy pharmacist pharmaceutical pharmacology"),
    ("therapeia", "Greek", "healing", "therapy therapist therapeutic psychotherapy"),
    ("hydor", "Greek", "water", "hydrogen carbohydrate"),
    ("aqua", "Latin", "water", "aquarium"),
    ("civis", "Latin", "citizen", "civilization citizen citizenship"),
    ("dominus", "Latin", "master", "dominate domination predominant"),
    ("liber", "Latin", "free", "liberty liberate liberal liberation"),
    ("mater", "Latin", "mother", "maternity metropolis"),
    ("pater", "Latin", "father", "paternally patriot"),
    ("manus", "Latin", "hand", "manual manufacture manufacturer manipulate"),
    ("navis", "Latin", "ship", "navigate navigation navigator navigable circumnavigate"),
    ("videre", "Latin", "to see", "video visible invisible visibility invisibility evidence television visitor"),
    ("dicere", "Latin", "to say", "dictionary dictator contradiction prediction dictatorship contradictory predictable unpredictable"),
    ("scribere", "Latin", "to write", "subscription manuscript"),
    ("portare", "Latin", "to carry", "portable transportation important supporter"),
    ("ducere", "Latin", "to lead", "education conductor production reduction introduction educator educational productivity"),
    ("mittere", "Latin", "to send", "commission transmission permission missionary committee"),
    ("vivere", "Latin", "to live", "survival survivor revival"),
    ("fortis", "Latin", "strong", "fortification comfortable uncomfortable"),
    ("nasci", "Latin", "to be born", "nation national natural nature nationality nationalist supernatural international"),
    ("novus", "Latin", "new", "innovation innovative renovation innovator renovate"),
    ("unus", "Latin", "one", "uniform universe universal university unification unify unanimously unilateral unicorn"),
    ("centum", "Latin", "hundred", "century percentage centimeter"),
    ("mille", "Latin", "thousand", "million millennium"),
    ("annus", "Latin", "year", "annual anniversary millennium"),
    ("populus", "Latin", "people", "popular population popularity unpopular populate"),
    ("verus", "Latin", "true", "verification"),
    ("vocare", "Latin", "to call", "vocabulary provocative provocation irrevocably"),
    ("sentire", "Latin", "to feel", "sentence sensitive sentiment sentimental sensible sensitivity sensational"),
    ("specere", "Latin", "to look", "spectator spectacular spectacle inspector perspective suspicion suspicious"),
    ("credere", "Latin", "to believe", "incredible credibility incredibly"),
    ("gradus", "Latin", "step", "gradual graduate gradually graduation undergraduate"),
    ("volvere", "Latin", "to roll", "revolution evolution involvement revolutionary"),
    ("legere", "Latin", "to read, to choose", "election selection legendary intelligent intelligence eligible"),
    ("locus", "Latin", "place", "local locational"),
    ("memor", "Latin", "mindful", "memory memorial remember memorize memorable commemorate memorandum"),
    ("mors", "Latin", "death", "immortality mortality"),
    ("numerus", "Latin", "number", "number numerous numeral numerical outnumber"),
    ("pes", "Latin", "foot", "pedestal pedestrian expedition"),
    ("solus", "Latin", "alone", "solitary soliloquy"),
    ("struere", "Latin", "to build", "construction instructor destruction instrument instruction"),
    ("tempus", "Latin", "time", "temporary contemporary"),
    ("terra", "Latin", "earth", "territory territorial"),
    ("vincere", "Latin", "to conquer", "victory victorious invincible conviction invincibility"),
)


@cache
def _by_word() -> dict[str, tuple[Root, ...]]:
    found: dict[str, tuple[Root, ...]] = {}
    for form, language, meaning, words in _ROOTS:
        for word in words.split():
            found[word] = (*found.get(word, ()), Root(form, language, meaning))
    return found


def roots_of(word: str) -> tuple[Root, ...]:
    """The known roots of a word; () when none is known."""
    return _by_word().get(word, ())

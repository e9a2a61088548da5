"""The fallback lexicon: size, spelling, definitions, and enough words for every row of the level table."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from guild.skills.syllables.choosing import pool_of
from guild.skills.syllables.etymology import roots_of
from guild.skills.syllables.hints import HINTS, clues_for
from guild.skills.syllables.levels import rules_of
from guild.skills.syllables.lexicon import PARTS, Lexicon, fallback_lexicon, lexicon_of, read_words, related
from modelwright.errors import ConfigError, ModelwrightError

POOLS = (500, 200, 590, 900, 1500, 1800, 1100, 1250, 1250, 1350)
"""Words that rows 1 to 10 have at least."""


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return fallback_lexicon()


def test_it_has_two_thousand_words_of_two_to_six_syllables(lexicon: Lexicon) -> None:
    counts = Counter(len(word.syllables) for word in lexicon.words)
    assert len(lexicon.words) == len(lexicon.by_text) >= 2000
    assert set(counts) == {2, 3, 4, 5, 6} and min(counts.values()) >= 100


def test_syllables_spell_the_word_and_can_be_said(lexicon: Lexicon) -> None:
    for word in lexicon.words:
        assert "".join(word.syllables) == word.text and word.text.isascii() and word.text.islower()
        assert all(re.search("[aeiouy]", syllable) for syllable in word.syllables), word
        assert max(map(len, word.syllables)) <= 8, word


def test_every_word_has_a_definition_of_its_own_that_does_not_give_it_away(lexicon: Lexicon) -> None:
    assert len({word.definition for word in lexicon.words}) == len(lexicon.words)
    for word in lexicon.words:
        parts = re.findall("[a-z]+", word.definition.lower())
        stem = word.text[: max(5, len(word.text) - 3)]
        assert 1 <= len(parts) <= 14, word
        assert word.text not in parts and not any(len(word.text) > 5 and part.startswith(stem) for part in parts), word
        assert word.part in PARTS and 1.0 <= word.zipf <= 7.0 and word.domain.isalpha()
        assert word.text not in word.synonyms and word.text not in (word.antonym, word.hypernym)


@pytest.mark.parametrize("row", range(1, 11))
def test_every_row_of_the_table_has_a_pool(row: int, lexicon: Lexicon) -> None:
    rules = rules_of(row, 10)
    assert len(pool_of(lexicon, rules).words) >= POOLS[row - 1]
    assert rules.min_zipf == (4.5 if row == 1 else rules.row.min_zipf)


def test_relations_and_roots_are_there_for_a_good_part(lexicon: Lexicon) -> None:
    some = {kind: sum(bool(clues_for(word, kind, lexicon)) for word in lexicon.words) for kind in HINTS}
    assert some["definition"] == some["domain"] == some["first_letter"] == some["syllable_hint"] == len(lexicon.words)
    assert min(some[kind] for kind in ("synonym", "hypernym", "antonym", "morphology")) > 800
    assert some["etymology"] >= 150 and some["example"] >= 30
    assert {root.form for root in roots_of("telephone")} == {"tele", "phone"}


def test_related_words_are_found(lexicon: Lexicon) -> None:
    words = lexicon.by_text
    assert related(words["maybe"], words["perhaps"]) and related(words["above"], words["over"])
    assert not related(words["maybe"], words["kitchen"])


def test_spellable_finds_what_a_search_of_all_words_finds(lexicon: Lexicon) -> None:
    bank = Counter(tile for text in ("coconut", "education", "nation", "mother", "calendar") for tile in lexicon.by_text[text].syllables)
    slow = {word.text for word in lexicon.words if not Counter(word.syllables) - bank}
    assert {word.text for word in lexicon.spellable(bank)} == slow >= {"coconut", "education", "mother"}
    lone = Counter(tile for tile in lexicon.by_text["coconut"].syllables) - Counter(["co"])
    assert "coconut" not in {word.text for word in lexicon.spellable(lone)}


def test_a_damaged_file_is_told_line_by_line() -> None:
    words, faults = read_words(
        "# remark\n\nwa-ter|5.4|n|nature|a clear liquid\nwa ter|5.4|n|nature|x\na|b\nwa-ter|5|q|nature|x\n", "mine.txt"
    )
    assert [word.text for word in words] == ["water"]
    assert [fault.path for fault in faults] == ["mine.txt line 4", "mine.txt line 5", "mine.txt line 6"]
    with pytest.raises(ConfigError, match="'water' twice"):
        lexicon_of("mine", words * 2)


def test_a_small_lexicon_is_refused_with_its_numbers(lexicon: Lexicon) -> None:
    with pytest.raises(ModelwrightError, match=r"level 10: the lexicon 'small' has \d+ words of 4 to 6 syllables .* at least 60"):
        pool_of(Lexicon("small", lexicon.words[:40]), rules_of(10, 10))

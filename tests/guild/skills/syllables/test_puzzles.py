"""Puzzles of every level: sound, within the table, distinct, the same everywhere, and kept apart for evaluation."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from guild.skills.contract import HELD_OUT_SHARE, Sample, held_out
from guild.skills.registry import load_skill, read_skill_file
from guild.skills.syllables.choosing import sets_of
from guild.skills.syllables.hints import Clue, choose_clue, fits
from guild.skills.syllables.layout import HIDDEN
from guild.skills.syllables.levels import PERTURBATIONS, ROWS, rules_of
from guild.skills.syllables.puzzles import SHAPES
from guild.skills.syllables.skill import SyllableSkill, seeded
from guild.skills.syllables.variants import VARIANTS
from modelwright.errors import ConfigError, UsageError

SKILL = SyllableSkill()
PLAIN = SyllableSkill(edition=10)
_FIELDS = """puzzle_id difficulty level rules words syllable_bank red_herrings metadata prompt solution
output_variant solution_text solution_format format_instruction"""
FIELDS = _FIELDS.split()
WORD_FIELDS = ["label", "definition", "syllable_count", "syllables", "slots", "zipf_score", "hint_type", "signal_strength"]


def words_of(sample: Sample) -> tuple[str, ...]:
    return tuple(sorted("".join(word["syllables"]) for word in sample.metadata["puzzle"]["words"]))


@pytest.mark.parametrize("level", range(1, 11))
def test_item_32_two_hundred_puzzles_of_every_level_are_sound(level: int) -> None:
    row = ROWS[level - 1]
    samples = PLAIN.generate(level, 200, seed=level)
    assert len({words_of(sample) for sample in samples}) == 200
    assert len({sample.user_prompt[:100] for sample in samples}) >= 160
    for sample in samples:
        puzzle = sample.metadata["puzzle"]
        assert PLAIN.check(sample) == [], sample
        needed = Counter(tile for word in puzzle["words"] for tile in word["syllables"])
        assert Counter(puzzle["syllable_bank"]) == needed + Counter(puzzle["red_herrings"])
        assert row.words[0] <= len(puzzle["words"]) <= row.words[1]
        assert row.red_herrings[0] <= len(puzzle["red_herrings"]) <= row.red_herrings[1]
        assert all(row.syllables[0] <= word["syllable_count"] <= row.syllables[1] for word in puzzle["words"])
        assert PLAIN.judge(sample, sample.assistant_response).correct


@pytest.mark.parametrize("start", range(1, 51, 5))
def test_item_32_the_edition_of_fifty_is_sound(start: int) -> None:
    for level in range(start, start + 5):
        for sample in SKILL.generate(level, 40, seed=5):
            assert SKILL.check(sample) == [], sample
            assert SKILL.judge(sample, sample.assistant_response).correct, sample


def test_the_bank_decides_the_words_and_no_clue_fits_two() -> None:
    lexicon = PLAIN.lexicon
    for sample in PLAIN.generate(9, 60, seed=2):
        puzzle = sample.metadata["puzzle"]
        assert sorted(word.text for word in lexicon.spellable(Counter(puzzle["syllable_bank"]))) == list(words_of(sample))
        for entry in puzzle["words"]:
            word = lexicon.by_text["".join(entry["syllables"])]
            others = [lexicon.by_text[text] for text in words_of(sample) if text != word.text]
            if entry["hint_type"] == "domain":
                assert all(other.domain != word.domain for other in others)
            if entry["hint_type"] == "first_letter":
                assert all(other.text[0] != word.text[0] for other in others)


def test_a_clue_that_fits_two_words_is_not_used() -> None:
    lexicon = PLAIN.lexicon
    mother, father = lexicon.by_text["mother"], lexicon.by_text["father"]
    assert fits(Clue("domain", "family", "a word from the field of family"), father, lexicon)
    for seed in range(50):
        clue = choose_clue(mother, (mother, father), (0, 0, 1, 0), lexicon, seeded(seed))
        assert not fits(clue, father, lexicon) and clue.kind in ("antonym", "morphology", "definition")


def test_the_json_form_has_exactly_the_fields_of_the_spec() -> None:
    for sample in SKILL.generate(23, 30, seed=3):
        puzzle = sample.metadata["puzzle"]
        assert sorted(puzzle) == sorted(FIELDS)
        assert all(list(word) == WORD_FIELDS for word in puzzle["words"])
        assert list(puzzle["rules"]) == ["word_count", "syllable_bank_size", "red_herring_count", "notes"]
        assert list(puzzle["metadata"]) == ["difficulty_config"]
        assert puzzle["prompt"] == sample.user_prompt and puzzle["solution_text"] == sample.assistant_response
        assert puzzle["format_instruction"] in puzzle["prompt"]
        assert json.loads(json.dumps(sample.as_dict())) == sample.as_dict()
        if puzzle["output_variant"] is None:
            assert puzzle["solution_format"] in SHAPES and puzzle["solution_format"] not in VARIANTS
        else:
            assert puzzle["output_variant"] in VARIANTS and puzzle["solution_format"] in ("json", "text", "markdown")


def test_overlap_stays_under_the_limit_and_rises_with_the_level() -> None:
    means = []
    for level in (1, 4, 7, 10):
        values = [s.metadata["puzzle"]["metadata"]["difficulty_config"]["actual_overlap"] for s in PLAIN.generate(level, 60, seed=1)]
        assert max(values) <= ROWS[level - 1].max_overlap
        means.append(sum(values) / len(values))
    assert means == sorted(means) and means[0] == 0 and means[-1] > 40


def test_layouts_and_distractors_of_the_edition_of_fifty() -> None:
    seen: Counter[str] = Counter()
    for level in (5, 19, 20, 30, 50):
        rules = rules_of(level, 50)
        for sample in SKILL.generate(level, 30, seed=9):
            overrides = sample.metadata["puzzle"]["metadata"]["difficulty_config"]["overrides"]
            layouts = overrides.get("layouts", [])
            assert len(layouts) == rules.layout_count and set(layouts) <= set(rules.layouts)
            assert ("Audio:" in sample.user_prompt) == ("audio_hints" in layouts)
            assert (HIDDEN in sample.user_prompt) == ("hidden_clue" in layouts)
            assert ("[__" in sample.user_prompt) != ("hidden_blanks" in layouts)
            assert ("\nA. " in sample.user_prompt) == ("letters" in layouts)
            assert sample.user_prompt.count("\n- clue: ") + sample.user_prompt.count("\n- tile: ") == rules.distractors
            seen.update(layouts)
    assert set(seen) == set(PERTURBATIONS)
    assert [rules_of(level, 50).distractors for level in (19, 20, 29, 30, 40, 50)] == [0, 1, 1, 2, 3, 3]
    assert [rules_of(level, 50).number for level in (1, 5, 6, 46, 50)] == [1, 1, 2, 10, 10]


def test_training_and_evaluation_never_share_a_word_set() -> None:
    training = {words_of(sample) for seed in (1, 2) for sample in PLAIN.generate(1, 400, seed=seed)}
    fixed = PLAIN.evaluation(1, 100)
    evaluation = {words_of(sample) for sample in fixed}
    assert len(evaluation) == 100 and not training & evaluation
    assert all(held_out("sy:" + ",".join(words)) for words in evaluation)
    assert not any(held_out("sy:" + ",".join(words)) for words in training)
    assert PLAIN.evaluation(1) == fixed[:20] and PLAIN.evaluation(1, 20, seed=1) != fixed[:20]
    assert HELD_OUT_SHARE == 0.2


@pytest.mark.parametrize("level", range(1, 11))
def test_every_level_has_ten_thousand_puzzles(level: int) -> None:
    rules = rules_of(level, 10)
    assert sets_of(PLAIN.lexicon, PLAIN._pool(rules), rules, walks=10, draws=20) > 10_000_000
    assert PLAIN.space(level) is None


def test_three_thousand_puzzles_of_one_batch_are_distinct() -> None:
    samples = PLAIN.generate(2, 3000, seed=4)
    assert len({words_of(sample) for sample in samples}) == len({sample.id for sample in samples}) == 3000


def test_the_same_seed_gives_the_same_batch_in_another_process() -> None:
    program = (
        "import hashlib, json; from guild.skills.syllables.skill import SyllableSkill;"
        "rows = [s.as_dict() for l in (1, 24, 50) for s in SyllableSkill().generate(l, 20, 6) + SyllableSkill().evaluation(l, 5)];"
        "print(hashlib.sha256(json.dumps(rows).encode()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    rows = [s.as_dict() for level in (1, 24, 50) for s in SKILL.generate(level, 20, 6) + SKILL.evaluation(level, 5)]
    assert digests == {hashlib.sha256(json.dumps(rows).encode()).hexdigest() + "\n"}
    assert SKILL.generate(24, 5, 6) == SKILL.generate(24, 20, 6)[:5] != SKILL.generate(24, 5, 7)


def test_a_small_space_is_used_up_and_then_repeated_evenly() -> None:
    skill = SyllableSkill(edition=10)
    whole = skill._pool(rules_of(1, 10))
    few = [word for word in whole.words if word.text in ("mother", "paper", "captain", "golden", "forest", "music")]
    index = {tile: tuple(word for word in few if tile in word.tiles) for word in few for tile in word.tiles}
    skill._pools[1] = replace(whole, words=tuple(few), by_syllable=index, syllables=tuple(sorted(index)))
    samples = skill.generate(1, 60, seed=1)
    uses = Counter(words_of(sample) for sample in samples)
    assert len(samples) == len({sample.id for sample in samples}) == 60
    assert len(uses) == len([s for s in uses if not held_out("sy:" + ",".join(s))]) <= 15  # 6 choose 4
    assert max(uses.values()) - min(uses.values()) <= 1
    assert len(skill.evaluation(1, 60)) == 15 - len(uses)
    assert len(uses) / 2 < skill.space(1) < len(uses) * 2  # type: ignore[operator]


def test_numbers_and_names_that_do_not_exist_are_refused() -> None:
    for level in (0, 51, True, "3"):
        with pytest.raises(UsageError, match="allowed: a whole number from 1 to 50"):
            SKILL.generate(level, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="from 1 to 10"):
        PLAIN.level_info(11)
    with pytest.raises(UsageError, match="count"):
        SKILL.generate(1, -1, 1)
    with pytest.raises(ConfigError) as caught:
        SyllableSkill(edition=7, lexicon="oxford")
    assert len(caught.value.faults) == 2


def test_the_lexicon_in_use_is_told() -> None:
    assert SKILL.info()["lexicon"] == "fallback" and SKILL.info()["zipf"] == "estimated"
    assert SKILL.level_info(1)["min_zipf"] == 4.5 and SKILL.level_info(1)["table_min_zipf"] == 5.5
    assert (SKILL.max_level, PLAIN.max_level) == (50, 10)


def test_the_shipped_file_of_sy_is_usable() -> None:
    folder = Path(__file__).parents[4] / "configs" / "guild" / "skills"
    document = read_skill_file(folder / "sy.yaml")
    assert (document["id"], document["max_level"], document["xp_multiplier"], document["api"]["port"]) == ("sy", 50, 1.0, 8080)
    assert document["version"] == SyllableSkill.version and document["description"] == SyllableSkill.description
    for name in ("sy", "syllo", "syllable", "syllables"):
        skill = load_skill(name, folder=folder)
        assert (skill.id, skill.max_level, skill.generator_id) == ("sy", 50, "syllo_api")

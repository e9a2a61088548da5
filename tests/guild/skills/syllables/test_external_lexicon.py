"""The lexicon from wordfreq, pyphen and WordNet: the reader of WordNet's files, and the whole where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from guild.skills.syllables.external_lexicon import VARIABLE, external_lexicon, mentions, vowel_groups
from guild.skills.syllables.skill import SyllableSkill
from guild.skills.syllables.wordnet import FIELDS, WordNet
from modelwright.errors import DamagedFileError, ModelwrightError

HEAD = "  1 A line of the licence, which stands at the head of each of these files.\n"


def synset(offset: int, rest: str) -> str:
    return f"{offset:08d} {rest}\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three words in WordNet's own format, written for this test."""
    liquid = len(HEAD)
    first = synset(liquid, '27 n 01 liquid 0 000 | something that flows; "he drank the liquid"')
    water = liquid + len(first)
    second = synset(water, f'27 n 03 water 0 H2O 0 wet_stuff 0 001 @ {liquid:08d} n 0000 | what rain is made of; "a glass of water"')
    near = len(HEAD)
    third_length = len(synset(near, f"00 a 01 open(a) 0 001 ! {near:08d} a 0101 | not shut"))
    shut = near + third_length
    third = synset(near, f"00 a 01 open(a) 0 001 ! {shut:08d} a 0101 | not shut")
    fourth = synset(shut, f"00 s 01 closed 0 001 ! {near:08d} a 0101 | not open")
    verb = synset(len(HEAD), "34 v 01 water 0 000 01 + 08 00 | give a plant something to drink")
    (tmp_path / "data.noun").write_text(HEAD + first + second)
    (tmp_path / "index.noun").write_text(
        f"{HEAD}liquid n 1 0 1 1 {liquid:08d}  \nwater n 1 1 @ 1 9 {water:08d}  \nh2o n 1 1 @ 1 0 {water:08d}  \n"
    )
    (tmp_path / "data.adj").write_text(HEAD + third + fourth)
    (tmp_path / "index.adj").write_text(f"{HEAD}open a 1 1 ! 1 3 {near:08d}  \nclosed a 1 1 ! 1 2 {shut:08d}  \n")
    (tmp_path / "data.verb").write_text(HEAD + verb)
    (tmp_path / "index.verb").write_text(f"{HEAD}water v 1 0 1 2 {len(HEAD):08d}  \n")
    (tmp_path / "data.adv").write_text(HEAD)
    (tmp_path / "index.adv").write_text(HEAD)
    return tmp_path


def test_a_sense_is_read_from_wordnets_files(files: Path) -> None:
    wordnet = WordNet(files)
    water, opened = wordnet.sense("water"), wordnet.sense("open")
    assert water is not None and opened is not None
    assert (water.part, water.domain, water.definition, water.hypernym) == ("n", "substances", "what rain is made of", "liquid")
    assert water.synonyms == ()  # neither a formula nor two words
    assert (opened.part, opened.antonym) == ("adj", "closed")
    assert wordnet.sense("fire") is None and len(FIELDS) == 45 and FIELDS[13] == "food" and FIELDS[18] == "people"


def test_a_damaged_file_is_told(files: Path) -> None:
    (files / "index.adv").write_text("well r 1 0\n")
    with pytest.raises(DamagedFileError, match=r"index\.adv.*'well'"):
        WordNet(files)
    (files / "index.adv").write_text("well r 1 0 1 1 00000003\n")
    with pytest.raises(DamagedFileError, match=r"data\.adv.*byte 3"):
        WordNet(files).sense("well")


def test_helpers_that_decide_which_words_stay() -> None:
    assert [vowel_groups(word) for word in ("water", "house", "table", "committee", "rhythm")] == [2, 1, 2, 3, 1]
    assert mentions("national", "of a nation") and not mentions("water", "what rain is made of")


def test_what_is_missing_is_named_and_nothing_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(ModelwrightError, match=r"not found: .*WordNet's files.*Install the extra `skills`, or use the lexicon 'fallback'"):
        SyllableSkill(lexicon="external").generate(1, 1, 1)


def test_the_external_lexicon_makes_puzzles_where_it_is_installed() -> None:
    pytest.importorskip("wordfreq")
    pytest.importorskip("pyphen")
    try:
        lexicon = external_lexicon()
    except ModelwrightError as error:
        pytest.skip(str(error))
    assert lexicon.counted and len(lexicon.words) > 2000
    skill = SyllableSkill(lexicon="external", edition=10)
    for level in range(1, 11):
        for sample in skill.generate(level, 20, 1):
            assert skill.check(sample) == [] and skill.judge(sample, sample.assistant_response).correct
    assert skill.info()["lexicon"] == "external" and skill.info()["zipf"] == "counted"

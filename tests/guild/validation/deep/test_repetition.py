"""The rules of repetition, against the same rules written plainly."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from guild.validation.deep.checks import ROW_CHECKS
from guild.validation.deep.views import view_of
from helpers.guild_rows import chat

PIECES = [*"ab0éж①", "no", "yes", "日本", " ", " ", " ", ".", ", ", "! ", "? ", ". ", "\n", "the lamp is old", "Go on with it"]


def plainly(reply: str) -> bool:
    text = reply.lower()
    words = [word for word in re.split(r"[\t-\r ,.;:!?\"()\-]+", text) if word]
    run = any(len(set(words[at : at + 5])) == 1 and any(map(str.isalpha, words[at])) for at in range(len(words) - 4))
    sentences = re.sub(r"\n|! |\? |。", ". ", text).rstrip(".!? ").split(". ")
    twice = any(sentences.count(one) > 1 and len(one.split()) >= 4 for one in sentences)
    solid = [character for character in text if character not in " \n"]
    letter = len(solid) >= 20 and any(solid.count(one) > 0.4 * len(solid) for one in set(solid) if one.isalpha())
    return run or twice or letter


@settings(max_examples=500, deadline=None)
@given(reply=st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text(max_size=60))
def test_the_check_finds_what_the_plain_rules_find(reply: str) -> None:
    found = ROW_CHECKS["repetition"].find(view_of(chat("Go on", reply), "messages"))
    assert (found is not None) == plainly(reply)

from __future__ import annotations

import pytest

from scaler_wizard.sentences import LANGUAGES, canonical_sentence, shorten

VALUES = {
    "gate": {"from_length": 65536, "to_length": 131072, "change": "at most 10 % drop"},
    "stop": {"step": 123456, "reason": "perplexity rising 0.200/step", "action": "rollback"},
    "warn": {"step": 12, "reason": "VRAM 92 % used"},
    "done": {"context": 131072, "scores": "passkey 98 %, perplexity 5.31"},
    "running": {"context": 4096, "phase": "P2"},
    "paused": {"context": 4096, "reason": "request"},
    "aborted": {"actor": "ada", "reason": "enough"},
    "failed": {"reason": "disk full"},
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", list(VALUES))
def test_every_sentence_fits_in_every_language(language: str, kind: str) -> None:
    sentence = canonical_sentence(kind, language, **VALUES[kind])  # type: ignore[arg-type]
    assert 0 < len(sentence) <= 120
    assert "{" not in sentence
    assert all(str(value) in sentence for value in VALUES[kind].values())


def test_a_long_reason_gives_way_to_the_advice() -> None:
    sentence = canonical_sentence("stop", step=1, reason="word " * 60, action="rollback")
    assert len(sentence) <= 120
    assert sentence.endswith("Recommended: rollback.")


def test_a_jobs_own_sentence_replaces_all_and_unknown_languages_read_english() -> None:
    assert canonical_sentence("warn", "de-DE", "Look here.", step=1, reason="x") == "Look here."
    assert canonical_sentence("failed", "xx-XX", reason="x") == "Failed: x."


def test_a_hole_is_an_error() -> None:
    with pytest.raises(KeyError):
        canonical_sentence("warn", step=1)


def test_shorten_cuts_at_a_word() -> None:
    assert shorten("one two three four", 10) == "one two…"
    assert shorten("short", 10) == "short"
    assert len(shorten("x" * 300)) == 120

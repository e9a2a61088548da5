"""Does a reply repeat itself? (specs/guild.md 5.2)

This is the dearest check, so each rule first asks something cheap and only then counts.
"""

from __future__ import annotations

from operator import eq

from guild.validation.deep.views import RowView

RUN = 5
"""A word so many times in a row is named."""
LETTER_SHARE = 0.40
LETTER_TEXT = 20
"""Characters, without spaces, of the shortest reply in which the share of one letter is looked at."""
SENTENCE_WORDS = 4
"""Words of the shortest sentence whose repetition counts: `Yes.` may come twice."""
_SPACED = bytes(0x20 if chr(byte) in ',.;:!?"()-' else byte for byte in range(256))
_NO_LETTERS = bytes(byte for byte in range(256) if not 0x61 <= byte <= 0x7A)
_SENTENCE_ENDS = ("\n", "! ", "? ", "。")
_FREQUENT = tuple(bytes([byte]) for byte in b"etaoinsrhldcumfpgwybvkxjqz")


def find_repetition(view: RowView) -> str | None:
    """One word five times in a row, one sentence twice, or one letter as more than 40 % of the reply."""
    for reply in view.replies:
        lower = reply.lower()
        raw = lower.encode()
        found = _word_run(raw) or _sentence(lower) or _letter(lower, raw)
        if found:
            return found
    return None


def _word_run(raw: bytes) -> str | None:
    words = raw.translate(_SPACED).split()
    # equal words four apart are needed and rare; only then it is worth to look closer
    if not any(map(eq, words, words[RUN - 1 :])):
        return None
    for at, (first, last) in enumerate(zip(words, words[RUN - 1 :], strict=False)):
        if first == last and words[at : at + RUN] == [first] * RUN:
            word = first.decode()
            if any(map(str.isalpha, word)):
                return f"the word {word[:20]!a} {RUN} times in a row"
    return None


def _sentence(text: str) -> str | None:
    for end in _SENTENCE_ENDS:
        if end in text:
            text = text.replace(end, ". ")
    sentences = text.rstrip(".!? ").split(". ")
    if len(sentences) == len(set(sentences)):
        return None
    seen = set()
    for sentence in sentences:
        if sentence in seen and len(sentence.split()) >= SENTENCE_WORDS:
            return f"the sentence {sentence.strip()[:40]!a} more than once"
        seen.add(sentence)
    return None


def _letter(text: str, raw: bytes) -> str | None:
    solid = len(text) - text.count(" ") - text.count("\n")
    if solid < LETTER_TEXT:
        return None
    limit = LETTER_SHARE * solid
    letters = raw.translate(None, _NO_LETTERS)
    left = len(letters)  # those that were not counted yet
    for letter in _FREQUENT:
        if left <= limit:
            break
        times = letters.count(letter)
        if times > limit:
            return _much(letter.decode(), times, solid)
        left -= times
    if text.isascii() or len(text) - len(text.encode("ascii", "ignore")) <= limit:
        return None
    for character in set(text):
        if character > "\x7f" and character.isalpha() and text.count(character) > limit:
            return _much(character, text.count(character), solid)
    return None


def _much(letter: str, times: int, solid: int) -> str:
    return f"the letter {letter!a} as {times / solid:.0%} of the reply"

"""A byte-level BPE tokenizer in the words of GGUF: tokens and their types, merges, special ids, chat template. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

from macprovider.codec import byte_of_character
from macprovider.weights.gguf_config import ExportError
from modelwright.files import read_json


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`"""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class GgufTokenizer:
    """pre: llama.cpp's name of the rule that parts text into words. tokens: one for each embedding row; bytes where `by_token` has
    written a token out. special: `bos`, `eos`, `padding` → id.
    """

    pre: str
    tokens: tuple[str | bytes, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...]
    special: dict[str, int]
    add_bos: bool
    chat_template: str


_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BY_PATTERN = {_WORDS.format(numbers=r"\p{N}"): "qwen2", _WORDS.format(numbers=r"\p{N}{1,3}"): "llama-bpe"}


def read_tokenizer(folder: Path, rows: int, name: str) -> GgufTokenizer:
    """The tokenizer of a model folder. rows: of the embedding; rows beyond the vocabulary become unused tokens.

    Raises ExportError for a tokenizer that GGUF's readers would not follow exactly.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ExportError(f"{name}: found no tokenizer.json; allowed for GGUF: a byte-level BPE tokenizer in tokenizer.json.")
    document = read_json(folder / "tokenizer.json")
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    model = document.get("model") or {}
    if model.get("type") != "BPE" or model.get("byte_fallback"):
        kind = "SentencePiece-style BPE" if model.get("byte_fallback") else model.get("type")
        raise ExportError(f"{name}: found a tokenizer of type {kind}; allowed for GGUF: byte-level BPE.")
    pre = _pre_tokenizer(document, name)
    tokens, types = _tokens(document, rows, name)
    ids = {token: number for number, token in enumerate(tokens)}
    special = {}
    for ours, theirs in (("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")):
        text = _text(config.get(theirs))
        if text in ids:
            special[ours] = ids[text]
    merges = tuple(entry if isinstance(entry, str) else " ".join(entry) for entry in model.get("merges") or ())
    if not merges:
        raise ExportError(f"{name}: found a tokenizer without merges; allowed for GGUF: at least one, as its readers demand.")
    return GgufTokenizer(pre, tokens, types, merges, special, _adds_bos(document, config), _chat_template(folder, config))


def by_token(tokenizer: GgufTokenizer) -> GgufTokenizer:
    """The tokenizer for llama-server's streams of token ids.

    llama-server holds back the tokens of an unfinished UTF-8 character: its stream tells the id of the last one alone. It does not
    look into control tokens. So every token that is no whole text of its own becomes one, spelt by its real bytes, which is what
    llama.cpp reads of a control token where text matters (grammars). Ids, weights and probabilities stay as they are; what encodes
    text by this file would differ, and nobody does.
    """
    table = byte_of_character()
    tokens, types = list(tokenizer.tokens), list(tokenizer.types)
    for number, (token, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind is not TokenType.NORMAL or not isinstance(token, str) or not all(character in table for character in token):
            continue
        spelt = bytes(table[character] for character in token)
        try:
            spelt.decode("utf-8")
        except UnicodeDecodeError:
            tokens[number], types[number] = spelt, TokenType.CONTROL
    return replace(tokenizer, tokens=tuple(tokens), types=tuple(types))


def _tokens(document: Mapping[str, Any], rows: int, name: str) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    by_id = {int(number): (str(token), TokenType.NORMAL) for token, number in document["model"]["vocab"].items()}
    for added in document.get("added_tokens") or ():
        by_id[int(added["id"])] = (str(added["content"]), TokenType.CONTROL if added.get("special") else TokenType.USER_DEFINED)
    highest = max(by_id, default=-1)
    if highest >= rows:
        raise ExportError(f"{name}: found the token id {highest} and an embedding of {rows} rows; allowed: ids below the rows.")
    entries = [by_id.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(rows)]
    return tuple(token for token, _ in entries), tuple(kind for _, kind in entries)


def _pre_tokenizer(document: Mapping[str, Any], name: str) -> str:
    normaliser = (document.get("normalizer") or {}).get("type")
    if normaliser not in (None, "NFC"):
        raise ExportError(f"{name}: found the text normaliser {normaliser}; allowed for GGUF: none, or NFC.")
    rule = document.get("pre_tokenizer") or {}
    steps = list(rule.get("pretokenizers") or ()) if rule.get("type") == "Sequence" else [rule]
    kinds = [step.get("type") for step in steps]
    known = ""
    if kinds and kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space"):
        if kinds == ["ByteLevel"] and steps[-1].get("use_regex", True):
            known = "gpt-2"
        elif kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits") and steps[-1].get("use_regex", True):
            known = "smollm"
        elif kinds == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated" and not steps[-1].get("use_regex", True):
            known = _BY_PATTERN.get((steps[0].get("pattern") or {}).get("Regex", ""), "")
    if not known:
        raise ExportError(
            f"{name}: found a tokenizer that parts words by {json.dumps(rule)[:200]}; allowed: those of GPT-2, SmolLM, Qwen2, Llama 3."
        )
    if document["model"].get("ignore_merges") and known != "llama-bpe":
        raise ExportError(f"{name}: found a tokenizer with ignore_merges; allowed for GGUF: only with the word rule of Llama 3.")
    return known


def _adds_bos(document: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether encoding a text puts the token of its beginning first."""
    bos = _text(config.get("bos_token"))
    rule = document.get("post_processor") or {}
    steps = rule.get("processors") or [rule]
    for step in steps:
        first: Mapping[str, Any] = next(iter(step.get("single") or ()), {}) if step.get("type") == "TemplateProcessing" else {}
        if bos and (first.get("SpecialToken") or {}).get("id") == bos:
            return True
    return False


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = config.get("chat_template") or ""
    if isinstance(found, list):
        found = next((entry["template"] for entry in found if entry.get("name") == "default"), "")
    return str(found)


def _text(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, Mapping) else str(token or "")

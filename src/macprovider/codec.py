"""Between text and token ids: chat templates, encoding, and answers decoded while they arrive.

`special_texts` and `StopText` need neither torch nor transformers; `Codec.load` does.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from modelwright.errors import LoadError, ModelwrightError

FALLBACK_SPECIALS = (
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<|im_end|>",
    "<|end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
"""Special tokens assumed where a model's own list is not at hand. (spec 3.6)"""
END_TEXTS = ("<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|im_end|>", "<|end|>", "<|eom_id|>")
"""Special tokens that end an answer in every model that has them, whether its generation config says so or not."""
REPLACEMENT = "\ufffd"


class TemplateError(ModelwrightError):
    """The model's chat template refuses these messages; `str()` is its reason."""


def special_texts(folder: Path) -> tuple[str, ...]:
    """The special tokens of the model in `folder`, blank and one-character ones left out, sorted.

    From `tokenizer_config.json` (eos, bos, pad, every `added_tokens_decoder` entry with `special: true`, extra special tokens) and
    the special added tokens of `tokenizer.json`; `FALLBACK_SPECIALS` where neither can be read. Local files only.
    """
    config, tokenizer = _json(folder / "tokenizer_config.json"), _json(folder / "tokenizer.json")
    if config is None and tokenizer is None:
        return tuple(sorted(FALLBACK_SPECIALS))
    found: list[Any] = []
    if config is not None:
        found += [config.get(name) for name in ("eos_token", "bos_token", "pad_token")]
        for name in ("additional_special_tokens", "extra_special_tokens"):
            extra = config.get(name) or []
            found += extra.values() if isinstance(extra, dict) else extra
        found += [entry for entry in (config.get("added_tokens_decoder") or {}).values() if entry.get("special")]
    if tokenizer is not None:
        found += [entry for entry in tokenizer.get("added_tokens") or [] if entry.get("special")]
    texts = {entry.get("content") if isinstance(entry, dict) else entry for entry in found}
    return tuple(sorted(text for text in texts if isinstance(text, str) and len(text.strip()) > 1))


class Detokeniser(Protocol):
    """Decodes one answer while it arrives; never gives half a character."""

    def push(self, ids: Iterable[int]) -> str:
        """The text that these further tokens complete, possibly none."""

    def finish(self) -> str:
        """What is still held at the end of the answer: U+FFFD where bytes are no character."""


class Codec:
    """The tokenizer of one served model.

    specials: id → text of its special tokens, which never appear in an answer. stop_ids: those that end one. name: for messages.
    """

    def __init__(self, tokenizer: Any, folder: Path, name: str) -> None:
        self._tokenizer, self.name = tokenizer, name
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        texts = set(special_texts(folder)) | {text for text in tokenizer.all_special_tokens if len(text.strip()) > 1}
        self.specials: dict[int, str] = {vocabulary[text]: text for text in sorted(texts) if text in vocabulary}
        self.stop_ids = _stop_ids(folder, tokenizer) | {index for index, text in self.specials.items() if text in END_TEXTS}
        self.specials |= {index: tokenizer.convert_ids_to_tokens(index) for index in self.stop_ids - set(self.specials)}
        self.vocabulary = max(vocabulary.values(), default=-1) + 1
        self._bytes = _token_bytes(vocabulary, tokenizer, self._backend)
        self._byte_level = _decoder_kind(self._backend) == "ByteLevel"
        template = tokenizer.chat_template
        self._template = template if isinstance(template, str) else json.dumps(template or "")

    @classmethod
    def load(cls, folder: Path, name: str) -> Codec:
        """The tokenizer in `folder`. Raises LoadError."""
        from modelwright.loading import load_tokenizer, resolve_tokenizer

        return cls(load_tokenizer(resolve_tokenizer(str(folder), offline=True)), folder, name)

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template."""
        return bool(self._tokenizer.chat_template)

    @property
    def template_shows_tools(self) -> bool:
        """Whether the chat template does anything with tools."""
        return "tools" in self._template

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The conversation as the model's text, ready for its answer. Raises TemplateError."""
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages], tools=list(tools) or None, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:  # templates are programs of the model's author: whatever they raise is their answer
            raise TemplateError(f"the chat template of {self.name} refuses these messages ({_first_line(error)})") from error

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`. special: add what the tokenizer puts around a plain text (a rendered chat has it already)."""
        if self._backend is not None:  # the wrapper changes the tokenizer while it encodes; this is safe from several threads
            return list(self._backend.encode(text, add_special_tokens=special).ids)
        return list(self._tokenizer.encode(text, add_special_tokens=special))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens included."""
        if self._backend is not None:
            return str(self._backend.decode(list(ids), skip_special_tokens=False))
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def token_bytes(self, index: int) -> bytes:
        """UTF-8 of one token, possibly part of a character; empty for an id beyond the vocabulary."""
        return self._bytes.get(index, b"")

    def detokeniser(self, keep: Iterable[str] = ()) -> Detokeniser:
        """For one answer. keep: special tokens whose text is wanted (marks of tool calls)."""
        kept = frozenset(keep)
        strip = frozenset(index for index, text in self.specials.items() if text not in kept)
        return _ByteDetokeniser(self._bytes, strip) if self._byte_level else _WindowDetokeniser(self, strip)


class _ByteDetokeniser:
    """For tokenizers whose tokens are bytes: a table and an incremental UTF-8 decoder."""

    def __init__(self, table: Mapping[int, bytes], strip: frozenset[int]) -> None:
        self._table, self._strip = table, strip
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, ids: Iterable[int]) -> str:
        table, strip = self._table, self._strip
        return self._decode(b"".join([table.get(index, b"") for index in ids if index not in strip]))

    def finish(self) -> str:
        return self._decode(b"", True)


class _WindowDetokeniser:
    """For any tokenizer: decodes a short window twice and gives the difference, since a token's text can depend on its left side."""

    def __init__(self, codec: Codec, strip: frozenset[int]) -> None:
        self._codec, self._strip = codec, strip
        self._ids: list[int] = []
        self._given = 0  # of these ids the text is out

    def push(self, ids: Iterable[int]) -> str:
        self._ids += [index for index in ids if index not in self._strip]
        before, text = self._codec.decode(self._ids[: self._given]), self._codec.decode(self._ids)
        if text.endswith(REPLACEMENT) or len(text) <= len(before):
            return ""
        # the ids whose text is out stay as the left side of the next ones
        self._ids, self._given = self._ids[self._given :], len(self._ids) - self._given
        return text[len(before) :]

    def finish(self) -> str:
        text = self._codec.decode(self._ids)[len(self._codec.decode(self._ids[: self._given])) :]
        self._ids, self._given = [], 0
        return text


class StopText:
    """Ends an answer where one of some texts is complete, wherever the borders of tokens lie.

    The stop that is complete first counts, the longest of those; it and what follows are not part of the answer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """What of the answer is certain now. After a stop was found (`stopped`) always nothing."""
        if self.stopped:
            return ""
        self._held += text
        ends = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            out, self._held = self._held[: min(ends)[1]], ""
            return out
        keep = self._begun()
        out, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return out

    def finish(self) -> str:
        """What was held back, at the end of an answer without a stop."""
        out, self._held = self._held, ""
        return out

    def _begun(self) -> int:
        """Length of the longest end of the held text with which a stop begins."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stops):
                return length
        return 0


def _stop_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    found: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        ids = (_json(folder / name) or {}).get("eos_token_id")
        found += ids if isinstance(ids, list) else [ids]
    return frozenset(index for index in found if isinstance(index, int))


def _decoder_kind(backend: Any) -> str:
    if backend is None:
        return ""
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    return str(decoder.get("type", ""))


def _token_bytes(vocabulary: Mapping[str, int], tokenizer: Any, backend: Any) -> dict[int, bytes]:
    """UTF-8 of every token, by the rules of its tokenizer's decoder."""
    if _decoder_kind(backend) == "ByteLevel":
        table = byte_of_character()
        return {
            index: bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode("utf-8", "replace")
            for piece, index in vocabulary.items()
        }
    return {index: _piece_bytes(piece) for piece, index in vocabulary.items()}


def _piece_bytes(piece: str) -> bytes:
    """A SentencePiece token: `<0x0A>` is a byte, `▁` a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("▁", " ").encode("utf-8", "replace")


def byte_of_character() -> dict[str, int]:
    """Byte-level BPE writes byte b as the character b where that is printable Latin-1, else as the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} could not be read ({error}); fetch the model again or repair the file.") from error
    return document if isinstance(document, dict) else None


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)

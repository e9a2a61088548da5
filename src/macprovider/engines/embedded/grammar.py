"""Answers that are JSON of a schema: the tokens that may come next, from the package llguidance.

A grammar is compiled when the request is submitted. The text has no spaces or line breaks between its parts, so that a model
cannot go on with blanks for ever; an answer that reaches its limit of tokens first may still be cut short.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macprovider.engines.base import EngineError
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    import torch


class Grammar:
    """Where one answer stands in its grammar."""

    def __init__(self, matcher: Any, width: int) -> None:
        """matcher: an LLMatcher. width: logits of a row, V."""
        self._matcher, self._width = matcher, width

    def forbidden(self, device: torch.device) -> torch.Tensor:
        """The tokens that may not come next, bool `[V]`. Raises EngineError when nothing may."""
        import torch

        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8)[: self._width]
        self._check()
        forbidden = torch.ones(self._width, dtype=torch.bool)
        forbidden[: len(allowed)] = allowed == 0
        return forbidden.to(device)

    def take(self, token: int) -> bool:
        """Go on with `token`; returns whether the text is complete and nothing can follow. Raises EngineError."""
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarError(f"The answer could not be kept to its JSON schema: {_first_line(self._matcher.get_error())}.")


class GrammarError(EngineError):
    """A schema that began well cannot be held to; the schema is at fault, not the engine."""


class Grammars:
    """Compiles schemas for the tokenizer in `folder`, which is loaded when the first schema comes.

    width: logits of the model. stop_ids: end an answer whose text is complete. Safe to use from several threads.
    """

    def __init__(self, folder: Path, width: int, stop_ids: Sequence[int]) -> None:
        self._folder, self._width, self._stop_ids = folder, width, frozenset(stop_ids)
        self._lock = threading.Lock()
        self._tokenizer: Any = None

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end an answer, those of the tokenizer included once a grammar has been compiled."""
        return self._stop_ids

    def compile(self, schema: str) -> Grammar:
        """The grammar of a JSON Schema (JSON text). Raises EngineError with the reason why it cannot be used."""
        from llguidance import LLMatcher

        with self._lock:
            tokenizer = self._loaded()
        try:
            text = LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": False})
        except ValueError as error:
            raise EngineError(f"The JSON schema is not JSON: {_first_line(error)}.") from error
        matcher = LLMatcher(tokenizer, text, log_level=0)
        if matcher.is_error():
            raise EngineError(f"The JSON schema cannot be used: {_first_line(matcher.get_error())}; leave out or change that part.")
        matcher.compute_logit_bias()  # limits of the parser show at the first token, where nobody else computes yet
        if matcher.is_error():
            raise EngineError(f"The JSON schema cannot be used: {_first_line(matcher.get_error())}; make it smaller or simpler.")
        return Grammar(matcher, self._width)

    def _loaded(self) -> Any:
        if self._tokenizer is None:
            from llguidance.hf import from_tokenizer

            from modelwright.loading import load_tokenizer, resolve_tokenizer

            try:
                tokenizer = load_tokenizer(resolve_tokenizer(str(self._folder)))
                if tokenizer.eos_token_id is not None:
                    self._stop_ids |= {tokenizer.eos_token_id}
                width = max(self._width, len(tokenizer))
                self._tokenizer = from_tokenizer(tokenizer, n_vocab=width, eos_token=sorted(self._stop_ids) or None)
            except (ModelwrightError, ValueError) as error:
                raise EngineError(f"A JSON schema needs the fast tokenizer of the model: {_first_line(error)}.") from error
        return self._tokenizer


def available() -> bool:
    """Whether the package llguidance is installed."""
    import importlib.util

    return importlib.util.find_spec("llguidance") is not None


def _first_line(error: object) -> str:
    return next((line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()), type(error).__name__)

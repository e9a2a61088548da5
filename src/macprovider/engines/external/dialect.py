"""What one kind of server is to the rest of this folder: how it is started, asked, understood, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from macprovider.engines.base import EngineFacts, EngineName, EngineSettings, Feature, FinishReason, GenerationRequest, Token
from macprovider.engines.external.child import Child


@dataclass(frozen=True)
class Prepared:
    """A server that is about to be started. command: its first word is the program's path. environment: the whole one. path: that
    answers are asked of. key: the child asks for it, so that nobody else on this machine talks to it.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    path: str
    key: str = ""


class Piece(NamedTuple):
    """What one event says. finish: None while the answer goes on. cached: prompt tokens that were not computed again, None where the
    event does not say. made: tokens that the server counts at the end, None where it does not say.
    """

    tokens: Sequence[Token] = ()
    finish: FinishReason | None = None
    cached: int | None = None
    made: int | None = None


class Dialect(Protocol):
    """One kind of server, for one engine's settings."""

    name: EngineName
    features: frozenset[Feature]
    ready_s: float
    """Seconds until the model must be loaded."""
    stops_itself: bool
    """Whether the server knows the request's stop ids: then its last event is waited for, else the connection is closed."""

    def prepare(self, settings: EngineSettings, port: int) -> Prepared:
        """Everything before the start. Raises EngineError for what the server cannot honour, and where the program is missing."""

    def ready(self, port: int) -> bool:
        """Whether it can be asked."""

    def read_back(self, settings: EngineSettings, child: Child, prepared: Prepared) -> tuple[EngineFacts, int]:
        """(facts, tokens that its cache holds). Raises EngineError for a knob that did not take effect."""

    def body(self, settings: EngineSettings, request: GenerationRequest, made: Sequence[int]) -> Mapping[str, Any]:
        """The JSON of one request. made: tokens of the answer that an earlier part brought, empty for a whole answer."""

    def piece(self, document: Any, request: GenerationRequest) -> Piece:
        """The meaning of one event, which carries no error."""

    def goes_on(self, request: GenerationRequest) -> bool:
        """Whether an answer that the server ends by itself is continued, because none of the request's stop ids ended it."""

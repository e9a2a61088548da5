"""From a request to what the engine runs: everything that can be refused is refused here, before it waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from macprovider.engines.base import EngineError, GenerationRequest, Listener
from macprovider.engines.embedded.rows import Answer
from macprovider.engines.embedded.sampling import draw_for

if TYPE_CHECKING:
    from macprovider.engines.embedded.loading import Loaded


def answer_to(request: GenerationRequest, listener: Listener, loaded: Loaded, wake: Callable[[], None]) -> Answer:
    """A new answer. Its limit is what the request or the context leaves, whichever is less. Raises EngineError."""
    context, width = loaded.facts.context, loaded.width
    prompt = list(request.prompt)
    if not prompt:
        raise EngineError("The prompt is empty; it needs at least one token.")
    if len(prompt) >= context:
        raise EngineError(f"The prompt has {len(prompt)} tokens; this engine holds {context} of prompt and answer together.")
    if min(prompt) < 0 or max(prompt) >= width:
        raise EngineError(
            f"The prompt holds a token id outside 0 to {width - 1}, the vocabulary of the model; use the model's own tokenizer."
        )
    if request.max_tokens < 1:
        raise EngineError(f"max_tokens is {request.max_tokens}; at least 1 is needed.")
    if wrong := [token for token in request.sampling.logit_bias if not 0 <= token < width]:
        raise EngineError(f"logit_bias names the token id {wrong[0]}; allowed are 0 to {width - 1}.")
    grammar, stop_ids = None, request.stop_ids
    if request.json_schema is not None:
        if loaded.grammars is None:
            raise EngineError(
                "An answer in JSON of a schema needs the package llguidance, which is not installed; install macprovider's extras."
            )
        grammar = loaded.grammars.compile(request.json_schema)
        stop_ids = stop_ids | loaded.grammars.stop_ids
    limit = min(request.max_tokens, context - len(prompt))
    return Answer(request, listener, draw_for(request, grammar), stop_ids, limit, wake)

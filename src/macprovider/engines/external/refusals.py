"""Requests and settings that an external engine cannot honour: refused by name, never ignored."""

from __future__ import annotations

from macprovider.engines.base import EngineError, EngineFacts, EngineSettings, Feature, GenerationRequest


def refuse_request(request: GenerationRequest, facts: EngineFacts, vocabulary: int) -> None:
    """Raises EngineError for a prompt that does not fit and for a feature that the engine lacks."""
    name = facts.engine
    if not request.prompt:
        raise EngineError(f"{name}: found an empty prompt; allowed: at least one token.")
    if len(request.prompt) + request.max_tokens > facts.context:
        raise EngineError(
            f"{name}: found {len(request.prompt)} prompt tokens and {request.max_tokens} to answer; "
            f"allowed: {facts.context} together. Shorten the prompt or serve with a larger --max-context."
        )
    if not (min(request.prompt) >= 0 and max(request.prompt) < vocabulary):
        raise EngineError(f"{name}: found a token id outside the vocabulary; allowed: 0 to {vocabulary - 1}.")
    for feature, words in _asked(request).items():
        if feature not in facts.features:
            raise EngineError(f"{name}: found {words}; this engine has none. Leave it out or serve by --engine transformers.")


def _asked(request: GenerationRequest) -> dict[Feature, str]:
    sampling = request.sampling
    asked: dict[Feature, str] = {}
    if request.top_logprobs is not None:
        asked["logprobs"] = "logprobs"
    if request.top_logprobs:
        asked["top_logprobs"] = "top_logprobs"
    if request.json_schema is not None:
        asked["json_schema"] = "a JSON Schema"
    if sampling.presence_penalty or sampling.frequency_penalty:
        asked["penalties"] = "a presence or frequency penalty"
    if sampling.logit_bias:
        asked["logit_bias"] = "logit_bias"
    if sampling.top_k:
        asked["top_k"] = "top_k"
    if sampling.seed is not None and sampling.temperature > 0:
        asked["seed"] = "a seed"
    return asked


def refuse_repair(name: str, settings: EngineSettings) -> None:
    """Raises EngineError where a repair operator is asked for: it lives in the transformers engine's cache."""
    if settings.repair is not None:
        raise EngineError(f"{name}: found --repair; this engine carries no repair operator. Serve by --engine transformers.")


def refuse_other(name: str, what: str, found: str, allowed: tuple[str, ...]) -> None:
    """Raises EngineError for a setting beyond the allowed values."""
    if found not in allowed:
        raise EngineError(f"{name}: found the {what} {found!r}; allowed: {', '.join(allowed)}.")

"""What both APIs share: how the answer is drawn, where it ends, what is reported about it.

A field that this module does not know is ignored, because clients send new ones before servers learn them. A field that is known to
change the answer, and that nothing here can do, is refused by name (`NEUTRAL`).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import orjson

from macprovider.engines.base import Feature, Sampling
from macprovider.serving.errors import ApiError, invalid, wrong
from macprovider.serving.fields import MAX_DEPTH, Document, deeper, mapping, number, required, text, truth, whole

MAX_CHOICES = 128
MAX_STOPS = 4
MAX_STOP_LENGTH = 1000
MAX_TOP_LOGPROBS = 20
MAX_ID_DIGITS = 18
"""Python refuses to read numbers of some thousand digits."""
SMALLEST_TOP_P = 1e-9
"""What `top_p: 0` means: the most likely token alone."""
NEUTRAL: dict[str, tuple[object, ...]] = {
    "min_p": (0,),
    "repetition_penalty": (1,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (),
    "audio": (),
    "modalities": (["text"],),
    "functions": (),
    "function_call": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "ignore_eos": (False,),
    "min_tokens": (0,),
}
"""Fields that would change the answer and that this server has no means for → values under which they change nothing."""
INSTEAD = {"functions": "tools", "function_call": "tool_choice", "guided_json": "response_format"}


@dataclass(frozen=True)
class Parameters:
    """max_tokens: as asked, None for the API's default. top_logprobs: None for none at all. json_schema: JSON text."""

    model: str
    stream: bool
    n: int
    max_tokens: int | None
    sampling: Sampling
    stops: tuple[str, ...]
    top_logprobs: int | None
    json_schema: str | None


def parse_parameters(document: Document, features: AbstractSet[Feature], *, chat: bool, vocabulary: int) -> Parameters:
    """Check the shared fields. features: what the engine can do; vocabulary: number of token ids.

    Raises ApiError 400 that names the first wrong field, or the first that the engine has no means for.
    """
    model = required(document, "model")
    if not isinstance(model, str) or not model.strip():
        raise wrong("model", model, "the id of the served model")
    for name, neutral in NEUTRAL.items():
        value = document.get(name)
        if value is not None and value not in neutral and not (name == "best_of" and value == document.get("n", 1)):
            hint = f"; use {INSTEAD[name]}" if name in INSTEAD else ""
            raise ApiError(400, "unsupported_parameter", f"{name} is not supported by this server{hint}.", name)
    mapping(document, "stream_options")
    text(document, "user")
    limit = whole(document, "max_tokens", 1)
    newer = whole(document, "max_completion_tokens", 1) if chat else None
    parameters = Parameters(
        model=model,
        stream=truth(document, "stream"),
        n=whole(document, "n", 1, MAX_CHOICES) or 1,
        max_tokens=limit if newer is None else newer,
        sampling=_sampling(document, features, vocabulary),
        stops=_stops(document),
        top_logprobs=_chat_logprobs(document) if chat else whole(document, "logprobs", 0, MAX_TOP_LOGPROBS),
        json_schema=_response_format(document),
    )
    if parameters.top_logprobs is not None:
        need("top_logprobs" if parameters.top_logprobs else "logprobs", features, "logprobs")
    if parameters.json_schema is not None:
        need("json_schema", features, "response_format")
    return parameters


def need(feature: Feature, features: AbstractSet[Feature], field: str) -> None:
    """Raises ApiError 400 `unsupported_parameter` when the engine lacks what the field asks for."""
    if feature not in features:
        raise ApiError(
            400,
            "unsupported_parameter",
            f"{field}: the engine that serves this model cannot do this ({feature}); leave the field out or serve with another --engine.",
            field,
        )


def _sampling(document: Document, features: AbstractSet[Feature], vocabulary: int) -> Sampling:
    top_k = whole(document, "top_k", -1) or 0
    sampling = Sampling(
        temperature=number(document, "temperature", 0, 2, 1.0),
        top_p=max(number(document, "top_p", 0, 1, 1.0), SMALLEST_TOP_P),
        top_k=max(top_k, 0),
        seed=whole(document, "seed", -(1 << 63), (1 << 63) - 1),
        presence_penalty=number(document, "presence_penalty", -2, 2, 0.0),
        frequency_penalty=number(document, "frequency_penalty", -2, 2, 0.0),
        logit_bias=_logit_bias(document, vocabulary),
    )
    if sampling.top_k:
        need("top_k", features, "top_k")
    if sampling.seed is not None:
        need("seed", features, "seed")
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name):
            need("penalties", features, name)
    if sampling.logit_bias:
        need("logit_bias", features, "logit_bias")
    return sampling


def _logit_bias(document: Document, vocabulary: int) -> dict[int, float]:
    bias: dict[int, float] = {}
    for key, value in (mapping(document, "logit_bias") or {}).items():
        if not key.isdecimal() or len(key) > MAX_ID_DIGITS or int(key) >= vocabulary:
            raise invalid(f"logit_bias: found the token id {key[:20]!r}; allowed: whole numbers from 0 to {vocabulary - 1}.", "logit_bias")
        bias[int(key)] = number({"logit_bias": value}, "logit_bias", -100, 100, 0.0)
    return bias


def _stops(document: Document) -> tuple[str, ...]:
    value = document.get("stop")
    stops = [value] if isinstance(value, str) else value or []
    right = isinstance(stops, list) and len(stops) <= MAX_STOPS
    if not right or not all(isinstance(stop, str) and 0 < len(stop) <= MAX_STOP_LENGTH for stop in stops):
        raise wrong("stop", value, f"text, or a list of up to {MAX_STOPS} texts, each of 1 to {MAX_STOP_LENGTH} characters")
    return tuple(stops)


def _chat_logprobs(document: Document) -> int | None:
    wanted = truth(document, "logprobs")
    top = whole(document, "top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top and not wanted:
        raise invalid("top_logprobs: found a number without logprobs; set logprobs to true.", "top_logprobs")
    return (top or 0) if wanted else None


def _response_format(document: Document) -> str | None:
    """The JSON Schema that the answer is held to, as JSON text; None for free text."""
    given = mapping(document, "response_format")
    if given is None or given.get("type") == "text":
        return None
    kind = given.get("type")
    if kind == "json_object":
        return '{"type":"object"}'
    if kind != "json_schema":
        raise invalid("response_format: allowed types are text, json_object and json_schema.", "response_format")
    described = given.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise invalid("response_format: json_schema.schema must be an object, the JSON Schema of the answer.", "response_format")
    _check_schema(schema)
    return orjson.dumps(schema).decode()


def _check_schema(schema: Document) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if deeper(schema):
        raise invalid(f"response_format: found a schema of more than {MAX_DEPTH} levels; allowed: at most {MAX_DEPTH}.", "response_format")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise invalid(f"response_format: json_schema.schema is no valid JSON Schema: {error.message}.", "response_format") from error

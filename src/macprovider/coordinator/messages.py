"""The messages of a coordinator session, both directions: JSON objects in text frames, told apart by `type`. (spec 3.5)

Fields that are not known are ignored, so that either side may grow; a field that is wrong makes the message no message.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

PROTOCOL_VERSION = 1
State = Literal["ready", "busy", "degraded", "draining", "unavailable"]
Phase = Literal["starting", "in_progress", "complete"]
Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
RequestId = Annotated[str, Field(min_length=1, max_length=200)]
Count = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """One text frame."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def frame(self) -> str:
        """The JSON text to send."""
        return self.model_dump_json()


# --- provider to coordinator


class Hello(Message):
    """The first message: who is there and what it can hold. model_params_b: billions. throughput_tps_estimate: tokens/s of one
    answer. endpoint_url: None when requests come through the session."""

    type: Literal["hello"] = "hello"
    version: int = PROTOCOL_VERSION
    tier: str
    provider_id: str
    hostname: str
    model_id: str
    model_params_b: float | None
    ram_gb: float | None
    max_context_tokens: Annotated[int, Field(ge=1)]
    max_concurrency: Annotated[int, Field(ge=1)]
    throughput_tps_estimate: Annotated[float, Field(ge=0)]
    binary_version: str
    attestation: None = None
    endpoint_url: str | None = None


class Heartbeat(Message):
    """Sent at the interval that the coordinator asked for."""

    type: Literal["heartbeat"] = "heartbeat"
    state: State
    requests_in_flight: Count
    requests_queued: Count
    throughput_tps_estimate: Annotated[float, Field(ge=0)]


class StateUpdate(Message):
    """Sent when the state is another one. reason: `shutdown` when this process ends."""

    type: Literal["state_update"] = "state_update"
    state: State
    reason: str = ""


class DrainStatus(Message):
    """How far this provider is on its way out of the pool."""

    type: Literal["drain_status"] = "drain_status"
    status: Phase
    requests_in_flight: Count


class PreflightAck(Message):
    """Whether a request like that would be taken now; reason: a sentence when not."""

    type: Literal["preflight_ack"] = "preflight_ack"
    request_id: RequestId
    accepted: bool
    reason: str = ""


class Nak(Message):
    """A message was not understood. received: its `type`, None where it had none."""

    type: Literal["nak"] = "nak"
    received: str | None
    request_id: str | None = None
    reason: str


class InferenceResponseChunk(Message):
    """One event of an answer, as the HTTP surface would stream it; index counts from 0."""

    type: Literal["inference_response_chunk"] = "inference_response_chunk"
    request_id: RequestId
    index: Count
    data: dict[str, Any]


class InferenceResponseEnd(Message):
    """The last message for a request. chunks: how many came before. error: OpenAI's error object, with status "error"."""

    type: Literal["inference_response_end"] = "inference_response_end"
    request_id: RequestId
    status: Literal["ok", "error", "cancelled"]
    chunks: Count
    error: dict[str, Any] | None = None


# --- coordinator to provider


class HelloAck(Message):
    """Welcome. heartbeat_interval_s: seconds between heartbeats."""

    type: Literal["hello_ack"] = "hello_ack"
    heartbeat_interval_s: Annotated[float, Field(gt=0, le=3600)] = 30.0


class Preflight(Message):
    """Would you take this? model: None for whatever is served. context_tokens: of prompt and answer."""

    type: Literal["preflight"] = "preflight"
    request_id: RequestId
    model: str | None = None
    context_tokens: Count | None = None


class Drain(Message):
    """Leave the pool for a while; the process and its HTTP surface go on."""

    type: Literal["drain"] = "drain"
    reason: str = ""


class WarmUp(Message):
    """Compute something, so that the next request finds everything in memory."""

    type: Literal["warm_up"] = "warm_up"


class InferenceRequest(Message):
    """A request to answer. body: as it would be posted to `endpoint`; it is always streamed back."""

    type: Literal["inference_request"] = "inference_request"
    request_id: RequestId
    endpoint: Endpoint = "/v1/chat/completions"
    body: dict[str, Any]


class CancelRequest(Message):
    """Nobody waits for that answer any more."""

    type: Literal["cancel_request"] = "cancel_request"
    request_id: RequestId


FromCoordinator = HelloAck | Preflight | Drain | WarmUp | InferenceRequest | CancelRequest
FromProvider = Hello | Heartbeat | StateUpdate | DrainStatus | PreflightAck | Nak | InferenceResponseChunk | InferenceResponseEnd
_INCOMING: TypeAdapter[FromCoordinator] = TypeAdapter(Annotated[FromCoordinator, Field(discriminator="type")])
_OUTGOING: TypeAdapter[FromProvider] = TypeAdapter(Annotated[FromProvider, Field(discriminator="type")])


def from_coordinator(frame: str | bytes) -> FromCoordinator | Nak:
    """The message in a frame that a provider received, or the `nak` to answer."""
    return _read(frame, _INCOMING)


def from_provider(frame: str | bytes) -> FromProvider | Nak:
    """The message in a frame that a coordinator received, or what is wrong with it."""
    return _read(frame, _OUTGOING)


def _read(frame: str | bytes, adapter: TypeAdapter[Any]) -> Any:
    import orjson

    if isinstance(frame, bytes):
        return Nak(received=None, reason="found a binary frame; allowed: JSON objects in text frames.")
    try:
        document = orjson.loads(frame)
    except orjson.JSONDecodeError as error:
        return Nak(received=None, reason=f"found text that is no JSON ({error.msg}); allowed: one JSON object.")
    if not isinstance(document, dict):
        return Nak(received=None, reason="found JSON that is no object; allowed: an object with a `type`.")
    kind, request_id = document.get("type"), document.get("request_id")
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        return Nak(
            received=kind[:100] if isinstance(kind, str) else None,
            request_id=request_id[:200] if isinstance(request_id, str) else None,
            reason=_reason(error, kind),
        )


def _reason(error: ValidationError, kind: object) -> str:
    """One sentence of the field names and rules alone: values may be prompts."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    if faults[0]["type"] in ("union_tag_invalid", "union_tag_not_found"):
        found = repr(kind[:100]) if isinstance(kind, str) else "no text"
        return f"type: found {found}, which is no message of this direction."
    named = [f"{'.'.join(str(part) for part in fault['loc'][1:]) or 'message'}: {fault['msg']}" for fault in faults[:5]]
    return "; ".join(named) + "."

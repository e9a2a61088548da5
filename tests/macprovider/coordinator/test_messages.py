"""Messages: what is valid, and what is said about the rest."""

from __future__ import annotations

import json

import pytest

from macprovider.coordinator.messages import (
    CancelRequest,
    Drain,
    DrainStatus,
    Heartbeat,
    Hello,
    HelloAck,
    InferenceRequest,
    InferenceResponseChunk,
    InferenceResponseEnd,
    Message,
    Nak,
    Preflight,
    PreflightAck,
    StateUpdate,
    WarmUp,
    from_coordinator,
    from_provider,
)

HELLO = Hello(
    tier="16GB",
    provider_id="p",
    hostname="h",
    model_id="m",
    model_params_b=None,
    ram_gb=15.5,
    max_context_tokens=512,
    max_concurrency=2,
    throughput_tps_estimate=12.5,
    binary_version="0.1.0",
)
TO_COORDINATOR: list[Message] = [
    HELLO,
    Heartbeat(state="busy", requests_in_flight=1, requests_queued=0, throughput_tps_estimate=3.0),
    StateUpdate(state="unavailable", reason="shutdown"),
    DrainStatus(status="in_progress", requests_in_flight=1),
    PreflightAck(request_id="r", accepted=False, reason="No."),
    Nak(received=None, reason="What?"),
    InferenceResponseChunk(request_id="r", index=0, data={"choices": []}),
    InferenceResponseEnd(request_id="r", status="error", chunks=0, error={"code": "x"}),
]
TO_PROVIDER: list[Message] = [
    HelloAck(),
    Preflight(request_id="r", model="m", context_tokens=9),
    Drain(),
    WarmUp(),
    InferenceRequest(request_id="r", body={"model": "m"}),
    CancelRequest(request_id="r"),
]


def test_every_message_survives_its_frame() -> None:
    for message in TO_COORDINATOR:
        assert from_provider(message.frame()) == message
    for message in TO_PROVIDER:
        assert from_coordinator(message.frame()) == message
    assert len({message.model_dump()["type"] for message in [*TO_COORDINATOR, *TO_PROVIDER]}) == 14


def test_hello_has_the_fields_of_the_specification() -> None:
    assert set(json.loads(HELLO.frame())) == {
        "type", "version", "tier", "provider_id", "hostname", "model_id", "model_params_b", "ram_gb", "max_context_tokens",
        "max_concurrency", "throughput_tps_estimate", "binary_version", "attestation", "endpoint_url",
    }  # fmt: skip


def test_default_heartbeat_and_unknown_fields() -> None:
    assert from_coordinator('{"type": "hello_ack", "region": "eu"}') == HelloAck(heartbeat_interval_s=30)


@pytest.mark.parametrize(
    ("frame", "received", "words"),
    [
        (b"\x00", None, "binary"),
        ("{", None, "no JSON"),
        ("[1]", None, "no object"),
        ("{}", None, "type"),
        ('{"type": 7}', None, "no text"),
        ('{"type": "dance"}', "dance", "'dance'"),
        ('{"type": "hello"}', "hello", "no message of this direction"),
        ('{"type": "hello_ack", "heartbeat_interval_s": 0}', "hello_ack", "heartbeat_interval_s"),
        ('{"type": "cancel_request", "request_id": ""}', "cancel_request", "request_id"),
        ('{"type": "inference_request", "request_id": "r", "endpoint": "/etc/passwd", "body": {}}', "inference_request", "endpoint"),
    ],
)
def test_what_is_not_understood_is_named(frame: str | bytes, received: str | None, words: str) -> None:
    answer = from_coordinator(frame)
    assert isinstance(answer, Nak)
    assert answer.received == received and words in answer.reason and answer.reason.endswith(".") and "\n" not in answer.reason


def test_a_nak_names_the_request_and_never_repeats_a_prompt() -> None:
    answer = from_coordinator('{"type": "inference_request", "request_id": "r7", "body": "my secret prompt", "endpoint": "secret too"}')
    assert isinstance(answer, Nak) and answer.request_id == "r7"
    assert "body" in answer.reason and "secret" not in answer.frame()

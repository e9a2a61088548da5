"""The pages beside the answers: models, health, engine, metrics, and what is not there."""

from __future__ import annotations

import re
from typing import Any

import openai
import pytest

from helpers.raw_http import call, get
from helpers.serve_scripts import CONTEXT, say
from helpers.served import Served


def metric(server: Served, name: str, labels: str = "") -> float:
    text = get(f"{server.url}/metrics")[1]
    found = re.search(rf"^{re.escape(name)}\{{[^}}]*{labels}[^}}]*\}} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} {labels} is not in the metrics"
    return float(found.group(1))


def test_one_model_is_listed(client: Any, server: Served) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (server.model, "model", "macprovider")
    assert get(f"{server.url}/v1/models")[1]["data"][0]["created"] == model.created > 1_600_000_000


def test_health_has_the_fields_of_the_contract(server: Served) -> None:
    status, body = get(f"{server.url}/v1/health")
    assert status == 200 and body["status"] == "healthy" and body["model"] == server.model and body["model_loaded"] is True
    assert {"uptime_s", "requests_total", "requests_in_flight", "requests_queued", "errors_total", "memory_rss_mb"} <= set(body)
    assert body["memory_rss_mb"] > 50
    capacity = body["capacity"]
    assert capacity["max_context_tokens"] == CONTEXT and capacity["max_concurrency"] == 2
    assert capacity["ram_tier"] in ("8GB", "16GB", "32GB", "64GB") and capacity["throughput_tps_estimate"] > 0


def test_engine_reads_back_what_is_in_force_and_where_it_came_from(server: Served, engine: str) -> None:
    body = get(f"{server.url}/v1/engine")[1]
    assert body["facts"]["engine"] == engine and body["facts"]["slots"] == 2 and body["facts"]["context"] == CONTEXT
    assert body["facts"]["kv_bits"] is None and body["facts"]["kv_bytes_per_token"] > 0 and body["facts"]["weight_bytes"] > 0
    assert body["settings"]["max_batch"] == {"value": 2, "origin": "flag"}
    assert body["settings"]["kv_bits"] == {"value": None, "origin": "default"}
    assert body["settings"]["max_request_body_bytes"] == {"value": 200000, "origin": "environment"}
    assert body["queue_depth"] == 3 and body["pid"] == server.pid


def test_metrics_count_what_was_answered(client: Any, server: Served) -> None:
    names = ["vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:e2e_request_latency_seconds_count"]
    names += ["vllm:time_to_first_token_seconds_count", "macprovider:requests_total"]
    before = {name: metric(server, name) for name in names}
    stopped = metric(server, "vllm:request_success_total", 'finished_reason="stop"')
    usage = client.chat.completions.create(model=server.model, messages=say("h"), temperature=0).usage
    after = {name: metric(server, name) for name in names}
    assert after["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"] == usage.prompt_tokens
    assert after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == usage.completion_tokens
    for name in names[2:]:
        assert after[name] - before[name] == 1
    assert metric(server, "vllm:request_success_total", 'finished_reason="stop"') == stopped + 1
    assert metric(server, "vllm:num_requests_running") == 0 and metric(server, "vllm:num_requests_waiting") == 0
    assert 0 <= metric(server, "vllm:kv_cache_usage_perc") <= 1 and metric(server, "process_cpu_seconds_total") > 0


def test_metrics_are_text_that_prometheus_reads(server: Served) -> None:
    status, text, headers = call("GET", f"{server.url}/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    sample = re.compile(r'^[a-z0-9_:]+\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\} (\d+(\.\d+)?(e[+-]\d+)?)$')
    assert [line for line in text.splitlines() if not line.startswith("# ") and not sample.match(line)] == []
    counts = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("vllm:e2e_request_latency_seconds_bucket")]
    assert counts == sorted(counts) and counts[-1] == metric(server, "vllm:e2e_request_latency_seconds_count")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/embeddings", "/v1/chat", "/docs"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_anything_else_is_not_found(server: Served, path: str, method: str) -> None:
    status, body, _ = call(method, server.url + path, b"{}" if method == "POST" else None)
    assert (status, body["error"]["code"]) == (404, "path_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/health", "GET"),
        ("GET", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/completions", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(server: Served, method: str, path: str, allowed: str) -> None:
    status, body, headers = call(method, server.url + path)
    assert (status, body["error"]["code"]) == (405, "method_not_allowed")
    assert allowed in headers["allow"]


def test_requests_of_other_sites_and_for_other_hosts_are_refused(server: Served, client: Any) -> None:
    assert call("GET", f"{server.url}/v1/models", headers={"Origin": "https://evil.example"})[0] == 403
    assert call("GET", f"{server.url}/v1/models", headers={"Host": "evil.example"})[0] == 421
    assert call("GET", f"{server.url}/v1/models", headers={"Origin": server.url})[0] == 200
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model=server.model, messages=say("h"), extra_headers={"Origin": "http://evil.example"})


def test_the_log_never_holds_a_prompt_or_an_answer(client: Any, server: Served) -> None:
    secret = "a-very-secret-word h"
    client.chat.completions.create(model=server.model, messages=say(secret), temperature=0, user="secret-user")
    entries = server.entries("request")
    assert entries[-1]["status"] == 200 and entries[-1]["completion_tokens"] == 4 and entries[-1]["finish"] == ["stop"]
    text = server.log.read_text()
    assert "secret" not in text and "quick" not in text

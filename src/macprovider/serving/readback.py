"""What the server says about itself: `/metrics`, and `/v1/engine`, by which a client proves that a knob took effect."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

from macprovider.serving.metrics import Family, counter, counters, exposition, gauge, histogram
from macprovider.serving.service import Service


def engine_document(service: Service) -> dict[str, Any]:
    """`{"facts", "settings", "metrics", "queue_depth"}`: what the engine really has, read back after loading, beside every setting
    with its origin."""
    facts = dataclasses.asdict(service.facts)
    facts["features"] = sorted(service.facts.features)
    facts["notes"] = [*service.facts.notes, *service.capacity.notes]
    return {
        "model": service.model,
        "pid": os.getpid(),
        "facts": facts,
        "settings": service.loaded.readout(),
        "metrics": dataclasses.asdict(service.engine.metrics()),
        "queue_depth": service.admission.depth,
    }


def metrics_text(service: Service) -> str:
    """The Prometheus text."""
    return exposition(_families(service), {"model_name": service.model})


def _families(service: Service) -> Iterable[Family]:
    import psutil

    count, engine, admission = service.counters, service.engine.metrics(), service.admission
    process = psutil.Process(os.getpid())
    with process.oneshot():
        rss, cpu = process.memory_info().rss, process.cpu_times()
    used = engine.kv_tokens / engine.kv_capacity if engine.kv_capacity else 0.0
    yield gauge("vllm:num_requests_running", "Answers that compute now.", admission.running)
    yield gauge("vllm:num_requests_waiting", "Requests that wait for a slot.", admission.waiting)
    yield gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 1 is all of it.", used)
    yield counter("vllm:prompt_tokens_total", "Tokens of prompts that the engine took.", engine.prompt_tokens)
    yield counter("vllm:generation_tokens_total", "Tokens that the engine made.", engine.generated_tokens)
    yield counter("vllm:prefix_cache_queries_total", "Tokens of prompts that were looked for in earlier requests.", engine.prompt_tokens)
    yield counter("vllm:prefix_cache_hits_total", "Tokens of prompts that came from an earlier request.", engine.cached_prompt_tokens)
    finished = {"stop": 0, "length": 0, "tool_calls": 0, "abort": 0, "error": 0} | dict(count.finished)
    yield counters("vllm:request_success_total", "Answers by the reason of their end.", "finished_reason", finished)
    yield histogram("vllm:time_to_first_token_seconds", "From a request's arrival to its first token.", count.first_token)
    yield histogram("vllm:e2e_request_latency_seconds", "From a request's arrival to its end.", count.whole)
    yield histogram("vllm:request_queue_time_seconds", "From a request's arrival to its slot.", count.queued)
    yield histogram("vllm:request_time_per_output_token_seconds", "Mean time per token after the first one.", count.per_token)
    yield histogram("vllm:request_prompt_tokens", "Tokens of a request's prompts.", count.prompt_tokens)
    yield histogram("vllm:request_generation_tokens", "Tokens of a request's answers.", count.generation_tokens)
    yield counter("macprovider:requests_total", "Requests for answers that arrived.", count.requests)
    yield counters("macprovider:requests_refused_total", "Requests that ended in an error, by its code.", "code", dict(count.refused))
    yield counter("macprovider:client_disconnects_total", "Clients that left before their answer ended.", count.disconnects)
    yield counter("macprovider:engine_steps_total", "Forward passes of the engine.", engine.steps)
    yield gauge("macprovider:kv_cache_bytes", "Bytes the KV cache holds in memory.", engine.kv_bytes)
    yield gauge("macprovider:kv_cache_capacity_tokens", "Tokens that fit into the KV cache.", engine.kv_capacity)
    yield gauge("macprovider:queue_depth", "Requests that may wait.", admission.depth)
    yield gauge("macprovider:uptime_seconds", "Since the model was loaded.", service.clock.monotonic() - service.started)
    bits = "none" if service.facts.kv_bits is None else str(service.facts.kv_bits)
    labels = {"engine": service.facts.engine, "version": service.facts.version, "kv_bits": bits, "dtype": service.facts.dtype}
    yield gauge("macprovider:engine_info", "1, with what the engine is.", 1, **labels)
    yield gauge("process_resident_memory_bytes", "Resident memory of this process.", rss)
    yield counter("process_cpu_seconds_total", "Processor time of this process.", cpu.user + cpu.system)

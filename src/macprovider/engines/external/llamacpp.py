"""llama-server of llama.cpp, over our own GGUF export of the model.

Written against llama.cpp 0c1e570 of October 2026 (version 0.5.0-dev), whose real server the tests run. Its documentation does not
say that a stream leaves out tokens of unfinished characters (see `gguf_tokenizer.by_token`), that `prompt_progress` events carry a
token 0 that is none, that penalties count the prompt's last tokens too (so that they are not offered here), and that the cache's
types are told in the log at verbosity 4 alone. A context is rounded up to 256 tokens and cut to what the model was trained for.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from macprovider.engines.base import (
    EngineError,
    EngineFacts,
    EngineName,
    EngineSettings,
    Feature,
    FinishReason,
    GenerationRequest,
    KvBits,
    Token,
)
from macprovider.engines.external.child import Child, program_path
from macprovider.engines.external.dialect import Piece, Prepared
from macprovider.engines.external.llamacpp_log import CacheInLog, accelerator_in, cache_in
from macprovider.engines.external.refusals import refuse_other, refuse_repair
from macprovider.engines.external.requests import answers, fetch_json

PROGRAM = "llama-server"
HOW = "Install llama.cpp (on macOS: brew install llama.cpp; else a release from github.com/ggml-org/llama.cpp, or built from source)."
WEIGHTS = {"auto": "q8_0", "q8_0": "q8_0", "float16": "f16", "float32": "f32"}
"""`EngineSettings.dtype` → type of the GGUF export."""
CACHE_TYPES: dict[KvBits | None, str] = {None: "f16", 8: "q8_0", 4: "q4_0"}
"""kv_bits → `-ctk` and `-ctv`."""
DEVICES = ("auto", "cpu", "cuda", "mps", "metal", "vulkan")
READY_S = 900.0
SEEDS = (1 << 32) - 1
"""Seeds are 32 bits wide; the last one stands for chance."""
ENDS: dict[str, FinishReason] = {"eos": "stop", "word": "stop", "limit": "length"}


class LlamaCpp:
    """See `macprovider.engines.external.dialect.Dialect`."""

    name: EngineName = "llamacpp"
    features: frozenset[Feature] = frozenset({"logprobs", "top_logprobs", "json_schema", "seed", "logit_bias", "top_k", "prefix_reuse"})
    ready_s = READY_S
    stops_itself = False

    def prepare(self, settings: EngineSettings, port: int) -> Prepared:
        """See `Dialect.prepare`. Exports the model where that has not been done."""
        from macprovider.engines.gguf_file import exported

        refuse_repair(self.name, settings)
        refuse_other(self.name, "dtype", settings.dtype, tuple(WEIGHTS))
        refuse_other(self.name, "device", settings.device, DEVICES)
        program = program_path(PROGRAM, HOW)
        weights = exported(settings.folder, settings.model, WEIGHTS[settings.dtype], by_token=True)  # type: ignore[arg-type]
        key = secrets.token_hex(16)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLAMA_ARG_", "LLAMA_LOG_"))}
        command = [program, *arguments(settings, str(weights), port)]
        return Prepared(command, {**environment, "LLAMA_API_KEY": key}, "/completion", key)

    def ready(self, port: int) -> bool:
        """See `Dialect.ready`. `/health` is 503 while the model loads."""
        return answers(port, "/health")

    def read_back(self, settings: EngineSettings, child: Child, prepared: Prepared) -> tuple[EngineFacts, int]:
        """See `Dialect.read_back`."""
        from macprovider.weights.gguf_config import describe
        from modelwright.files import read_json

        shape = describe(read_json(settings.folder / "config.json"), settings.model).shape
        props = fetch_json(child.port, "/props", prepared.key)
        slots = fetch_json(child.port, "/slots", prepared.key)
        context = min(slot["n_ctx"] for slot in slots)
        log = child.log.read_text(encoding="utf-8", errors="replace")
        accelerator = accelerator_in(log)
        cache = cache_in(log)
        check_knobs(settings, len(slots), props["total_slots"], context, accelerator)
        per_token = check_cache(cache, settings.kv_bits, 2 * shape.layers * shape.kv_heads * shape.head_dim, len(slots) * context)
        weights = prepared.command[list(prepared.command).index("-m") + 1]
        facts = EngineFacts(
            engine=self.name,
            version=str(props["build_info"]),
            context=min(settings.max_context, context),
            slots=len(slots),
            kv_bits=settings.kv_bits,
            kv_bytes_per_token=per_token,
            weight_bytes=os.stat(weights).st_size,
            dtype="float16" if WEIGHTS[settings.dtype] == "f16" else "float32" if WEIGHTS[settings.dtype] == "f32" else "q8_0",
            accelerator=accelerator,
            features=self.features if settings.prefix_reuse else self.features - {"prefix_reuse"},
            notes=notes(cache, settings.kv_bits, shape.head_dim),
        )
        return facts, len(slots) * context

    def body(self, settings: EngineSettings, request: GenerationRequest, made: Sequence[int]) -> Mapping[str, Any]:
        """See `Dialect.body`. temperature between top_k and top_p draws as the transformers engine does, which has it first."""
        sampling = request.sampling
        found: dict[str, Any] = {
            "prompt": [*request.prompt, *made],
            "n_predict": request.max_tokens - len(made),
            "stream": True,
            "return_tokens": True,
            "return_progress": not made,
            "cache_prompt": settings.prefix_reuse or bool(made),
            "response_fields": ["stop", "stop_type", "tokens_predicted"],
            "samplers": ["top_k", "temperature", "top_p"],
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "sse_ping_interval": -1,
        }
        if sampling.seed is not None:
            found["seed"] = (sampling.seed + len(made)) % SEEDS
        if sampling.logit_bias:
            found["logit_bias"] = [[token, bias] for token, bias in sampling.logit_bias.items()]
        if request.top_logprobs is not None:
            found["n_probs"] = max(1, request.top_logprobs)
            found["post_sampling_probs"] = False
        if request.json_schema is not None:
            found["json_schema"] = orjson.loads(request.json_schema)
        return found

    def piece(self, document: Any, request: GenerationRequest) -> Piece:
        """See `Dialect.piece`."""
        progress = document.get("prompt_progress")
        if progress is not None:
            return Piece(cached=progress["cache"])
        if document["stop"]:
            return Piece(finish=ENDS.get(document["stop_type"], "stop"), made=document["tokens_predicted"])
        if request.top_logprobs is None:
            return Piece([Token(number) for number in document["tokens"]])
        return Piece([_with_logprob(entry, request.top_logprobs) for entry in document["completion_probabilities"]])

    def goes_on(self, request: GenerationRequest) -> bool:
        """See `Dialect.goes_on`. llama.cpp has a list of its own of tokens that end an answer; with a schema such a token is the end."""
        return request.json_schema is None


def arguments(settings: EngineSettings, weights: str, port: int) -> list[str]:
    """The flags. `-c` is the sum over the slots. `-fit off`: nothing that was not asked for is changed to fit the memory. `--cache-ram
    0`: no second cache of up to 8 GiB beside the slots'. `-lv 4`: the log tells what the cache is made of."""
    kind = CACHE_TYPES[settings.kv_bits]
    context = settings.max_context + -settings.max_context % 256
    found = ["-m", weights, "--host", "127.0.0.1", "--port", str(port)]
    found += ["-c", str(context * settings.max_batch), "-np", str(settings.max_batch), "-fit", "off"]
    found += ["-ctk", kind, "-ctv", kind, "-fa", "auto" if settings.kv_bits is None else "on"]
    found += ["--cache-ram", "0", "--offline", "--no-webui", "-lv", "4", "--log-colors", "off"]
    if settings.threads is not None:
        found += ["-t", str(settings.threads), "-tb", str(settings.threads)]
    if settings.device == "cpu":
        found += ["-ngl", "0", "-dev", "none"]
    elif settings.device != "auto":
        found += ["-ngl", "999"]
    return found


def check_knobs(settings: EngineSettings, slots: int, total: int, context: int, accelerator: str | None) -> None:
    """Raises EngineError for a knob that did not take effect."""
    if slots != settings.max_batch or total != settings.max_batch:
        raise EngineError(
            f"llamacpp: {settings.max_batch} slots were asked for and llama-server has {slots}; serve with another --max-batch."
        )
    if context < settings.max_context:
        raise EngineError(
            f"llamacpp: a context of {settings.max_context} tokens was asked for and each slot has {context}; "
            "serve with a smaller --max-context."
        )
    if settings.device == "cpu" and accelerator is not None:
        raise EngineError(f"llamacpp: the device cpu was asked for and llama-server uses {accelerator}; serve with --device auto.")
    if settings.device not in ("auto", "cpu") and accelerator is None:
        raise EngineError(
            f"llamacpp: the device {settings.device} was asked for and llama-server uses none; "
            "install a build of llama.cpp for it, or serve with --device cpu."
        )


def check_cache(cache: CacheInLog, asked: KvBits | None, values: int, tokens: int) -> float:
    """Bytes of one token over all layers, once the log's types and sizes agree with what was asked. values: of keys and values of one
    token. tokens: of the whole cache. Raises EngineError."""
    kind = CACHE_TYPES[asked]
    if {cache.keys, cache.values} != {kind}:
        raise EngineError(
            f"llamacpp: a cache of {kind} was asked for and llama-server has {cache.keys} keys and {cache.values} values; "
            "serve with another --kv-bits."
        )
    per_token = values * cache.bytes_per_value
    expected = per_token * tokens / (1 << 20)
    if abs(cache.mebibytes - expected) > 0.02 + 0.01 * expected:
        raise EngineError(
            f"llamacpp: a cache of {kind} for {tokens} tokens takes {expected:.2f} MiB and llama-server says {cache.mebibytes:.2f} MiB; "
            "its version does not fit this program."
        )
    return per_token


def notes(cache: CacheInLog, asked: KvBits | None, width: int) -> tuple[str, ...]:
    """What a reader of the facts should know."""
    found = ["penalties are refused: llama-server counts tokens of the prompt in them"]
    if asked is not None and cache.rotated is not None:
        why = "" if cache.rotated else f" (its heads are {width} wide; llama.cpp rotates multiples of 64 alone)"
        found.append(f"{asked}-bit keys and values are{'' if cache.rotated else ' not'} rotated before they are rounded{why}")
    return tuple(found)


def _with_logprob(entry: Mapping[str, Any], count: int) -> Token:
    top = tuple((other["id"], other["logprob"]) for other in entry["top_logprobs"][:count])
    return Token(entry["id"], entry["logprob"], top)

"""vLLM, by its `vllm serve` and `/v1/completions` with token ids in and out.

No vLLM ran where this was written: its flags, events and metrics are those of its sources (0.11 and later), and the tests speak them
with a program of the same name. It needs an accelerator: the wheel of the package registry is for CUDA.
"""

from __future__ import annotations

import os
import re
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
    Token,
)
from macprovider.engines.external.child import Child, program_path
from macprovider.engines.external.dialect import Piece, Prepared
from macprovider.engines.external.on_disk import weight_bytes
from macprovider.engines.external.refusals import refuse_other, refuse_repair
from macprovider.engines.external.requests import answers, fetch, fetch_json

PROGRAM = "vllm"
HOW = "Install it beside this program by pip install vllm (Linux with CUDA; see docs.vllm.ai), and see that its folder is on PATH."
DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICES = ("auto", "cuda")
READY_S = 1800.0
"""Compiling and capturing graphs of a large model takes many minutes."""
ENDS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
NOTE_CACHED = (
    "vLLM tells how much of a prompt it had computed before at the end of the answer only: usage of a request says 0, /metrics counts it"
)
NOTE_FP8 = "8-bit keys and values are floats (fp8), each layer with one scale"
_ARGUMENTS = re.compile(r"non-default args: (\{.*\})")
_SEQUENCES = re.compile(r"'max_num_seqs': (\d+)")
_LOADED = re.compile(r"Model loading took ([\d.]+) (GiB|GB)")
_DTYPE = re.compile(r"\bdtype=torch\.(\w+)")
_INFO = re.compile(r"^vllm:cache_config_info\{(.*)\}", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class Vllm:
    """See `macprovider.engines.external.dialect.Dialect`."""

    name: EngineName = "vllm"
    features: frozenset[Feature] = frozenset(
        {"logprobs", "top_logprobs", "json_schema", "seed", "penalties", "logit_bias", "top_k", "prefix_reuse"}
    )
    ready_s = READY_S
    stops_itself = True

    def prepare(self, settings: EngineSettings, port: int) -> Prepared:
        """See `Dialect.prepare`."""
        refuse_repair(self.name, settings)
        refuse_other(self.name, "dtype", settings.dtype, DTYPES)
        refuse_other(self.name, "device", settings.device, DEVICES)
        if settings.kv_bits == 4:
            raise EngineError("vllm: found --kv-bits 4; allowed: 8 (as 8-bit floats), or none. vLLM has no cache of 4 bits.")
        if settings.threads is not None:
            raise EngineError(
                f"vllm: found --threads {settings.threads}; vLLM computes on an accelerator and has no such setting. Leave it out."
            )
        program = program_path(PROGRAM, HOW)
        key = secrets.token_hex(16)
        environment = {**os.environ, "VLLM_API_KEY": key, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
        return Prepared([program, *arguments(settings, port)], environment, "/v1/completions", key)

    def ready(self, port: int) -> bool:
        """See `Dialect.ready`. Nothing listens before the model is loaded."""
        return answers(port, "/health")

    def read_back(self, settings: EngineSettings, child: Child, prepared: Prepared) -> tuple[EngineFacts, int]:
        """See `Dialect.read_back`."""
        from modelwright.files import read_json
        from modelwright.model_shape import ModelShape

        shape = ModelShape.from_config(read_json(settings.folder / "config.json"))
        card = fetch_json(child.port, "/v1/models", prepared.key)["data"][0]
        info = cache_info(fetch(child.port, "/metrics", prepared.key).decode("utf-8", "replace"))
        log = child.log.read_text(encoding="utf-8", errors="replace")
        slots = check_knobs(settings, card, info, log)
        dtype = _DTYPE.search(log)
        loaded = _LOADED.search(log)
        width = 1 if settings.kv_bits == 8 else 4 if dtype and dtype[1] == "float32" else 2
        facts = EngineFacts(
            engine=self.name,
            version=str(fetch_json(child.port, "/version", prepared.key)["version"]),
            context=card["max_model_len"],
            slots=slots,
            kv_bits=settings.kv_bits,
            kv_bytes_per_token=float(2 * shape.layers * shape.kv_heads * shape.head_dim * width),
            weight_bytes=round(float(loaded[1]) * (1 << 30)) if loaded else weight_bytes(settings.folder),
            dtype=dtype[1] if dtype else settings.dtype,
            accelerator="cuda",
            features=self.features if settings.prefix_reuse else self.features - {"prefix_reuse"},
            notes=(NOTE_CACHED, NOTE_FP8) if settings.kv_bits == 8 else (NOTE_CACHED,),
        )
        return facts, int(info["num_gpu_blocks"]) * int(info["block_size"])

    def body(self, settings: EngineSettings, request: GenerationRequest, made: Sequence[int]) -> Mapping[str, Any]:
        """See `Dialect.body`. Our stop ids alone end an answer, but for one with a schema, whose end vLLM marks by its own."""
        sampling = request.sampling
        found: dict[str, Any] = {
            "model": settings.model,
            "prompt": [*request.prompt, *made],
            "max_tokens": request.max_tokens - len(made),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "add_special_tokens": False,
            "stop_token_ids": sorted(request.stop_ids),
            "ignore_eos": request.json_schema is None,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
        }
        if sampling.seed is not None:
            found["seed"] = (sampling.seed + len(made)) % (1 << 63)
        if sampling.logit_bias:
            found["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
        if request.top_logprobs is not None:
            found |= {"logprobs": request.top_logprobs, "return_tokens_as_token_ids": True}
        if request.json_schema is not None:
            shape = {"name": "answer", "schema": orjson.loads(request.json_schema), "strict": True}
            found["response_format"] = {"type": "json_schema", "json_schema": shape}
        return found

    def piece(self, document: Any, request: GenerationRequest) -> Piece:
        """See `Dialect.piece`."""
        if not document["choices"]:
            usage = document.get("usage") or {}
            return Piece(cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"), made=usage.get("completion_tokens"))
        choice = document["choices"][0]
        ids = choice.get("token_ids")
        if ids is None:
            raise EngineError("vllm: its events carry no token ids; install vLLM 0.11 or later.")
        finish = choice.get("finish_reason")
        tokens = _with_logprobs(ids, choice.get("logprobs"), request.top_logprobs)
        return Piece(tokens, ENDS.get(finish, "stop") if finish else None)

    def goes_on(self, request: GenerationRequest) -> bool:
        """See `Dialect.goes_on`. vLLM is told which tokens end an answer."""
        return False


def arguments(settings: EngineSettings, port: int) -> list[str]:
    """`vllm serve …`. `--generation-config vllm`: the model's own sampling defaults would change what clients ask for."""
    found = ["serve", str(settings.folder), "--served-model-name", settings.model, "--host", "127.0.0.1", "--port", str(port)]
    found += ["--max-model-len", str(settings.max_context), "--max-num-seqs", str(settings.max_batch)]
    found += ["--kv-cache-dtype", "auto" if settings.kv_bits is None else "fp8", "--dtype", settings.dtype]
    found += ["--generation-config", "vllm", "--enable-prompt-tokens-details"]
    return [*found, "--enable-prefix-caching" if settings.prefix_reuse else "--no-enable-prefix-caching"]


def cache_info(metrics: str) -> dict[str, str]:
    """The labels of `vllm:cache_config_info`. Raises EngineError where they are missing."""
    found = _INFO.search(metrics)
    info = dict(_LABEL.findall(found[1])) if found else {}
    if not {"cache_dtype", "block_size", "num_gpu_blocks"} <= info.keys() or not info["num_gpu_blocks"].isdigit():
        raise EngineError("vllm: its metrics do not tell what its cache is (vllm:cache_config_info); install vLLM 0.11 or later.")
    return info


def check_knobs(settings: EngineSettings, card: Mapping[str, Any], info: Mapping[str, str], log: str) -> int:
    """The answers at the same time, once every knob has been found again. Raises EngineError."""
    context, kind = card["max_model_len"], info["cache_dtype"]
    if context != settings.max_context:
        raise EngineError(
            f"vllm: a context of {settings.max_context} tokens was asked for and vLLM has {context}; serve with that --max-context."
        )
    if kind.startswith("fp8") != (settings.kv_bits == 8):
        wanted = "fp8" if settings.kv_bits == 8 else "no quantised one"
        raise EngineError(f"vllm: the cache asked for is {wanted} and vLLM has {kind}; serve with another --kv-bits.")
    told = _ARGUMENTS.search(log)
    if told is None:
        raise EngineError("vllm: its log does not tell the settings it was started with; install vLLM 0.11 or later.")
    found = _SEQUENCES.search(told[1])
    slots = int(found[1]) if found else settings.max_batch  # a value that equals vLLM's default is not among those told
    if slots != settings.max_batch:
        raise EngineError(
            f"vllm: {settings.max_batch} answers at the same time were asked for and vLLM has {slots}; serve with another --max-batch."
        )
    return slots


def _with_logprobs(ids: Sequence[int], logprobs: Mapping[str, Any] | None, count: int | None) -> list[Token]:
    if logprobs is None or count is None:
        return [Token(number) for number in ids]
    tops = logprobs.get("top_logprobs") or [None] * len(ids)
    return [
        Token(number, logprob, _top(top or {}, count)) for number, logprob, top in zip(ids, logprobs["token_logprobs"], tops, strict=True)
    ]


def _top(top: Mapping[str, float], count: int) -> tuple[tuple[int, float], ...]:
    """`{"token_id:5": -0.1}`, best first; the token itself is among them even where it is none of the best."""
    found = sorted(((int(name.rsplit(":", 1)[1]), logprob) for name, logprob in top.items()), key=lambda entry: -entry[1])
    return tuple(found[:count])

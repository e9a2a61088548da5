"""mlx-lm's `mlx_lm.server`, on Apple silicon. It takes text and gives text: token ids become text on the way in, and text becomes
token ids on the way out.

No mlx-lm ran where this was written: flags and events are those of its sources, and the tests speak them with a program of the same
name. Its `--kv-bits` turns batching off, and by default begins at token 5,000 of an answer; releases without the flag end at once and
say so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from macprovider.engines.external.requests import answers, fetch_json

if TYPE_CHECKING:
    from macprovider.codec import Codec

PROGRAM = "mlx_lm.server"
HOW = "Install it beside this program by pip install mlx-lm (macOS on Apple silicon), and see that its folder is on PATH."
DEVICES = ("auto", "mps", "metal")
READY_S = 900.0
GROUP = 64
"""Values that share a scale and an offset of 16 bits each in a quantised cache."""
ENDS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
NOTES = (
    "mlx-lm takes and gives text alone: prompts are decoded and answers are encoded again, so that token counts may differ from the "
    "model's own by a few",
    "mlx-lm does not tell its slots or its cache's precision: they stand here as it was started, not as they were read back",
)


class Mlx:
    """See `macprovider.engines.external.dialect.Dialect`."""

    name: EngineName = "mlx"
    features: frozenset[Feature] = frozenset({"seed", "logit_bias", "top_k", "prefix_reuse"})
    ready_s = READY_S
    stops_itself = False

    def __init__(self) -> None:
        self._codec: Codec | None = None
        self._around: list[int] = []  # what encoding puts before every text

    def prepare(self, settings: EngineSettings, port: int) -> Prepared:
        """See `Dialect.prepare`."""
        from macprovider.codec import Codec

        refuse_repair(self.name, settings)
        refuse_other(self.name, "dtype", settings.dtype, ("auto",))
        refuse_other(self.name, "device", settings.device, DEVICES)
        if settings.kv_bits is not None and settings.max_batch > 1:
            raise EngineError(
                f"mlx: found --kv-bits {settings.kv_bits} with --max-batch {settings.max_batch}; allowed: one of them. "
                "mlx-lm computes one answer after the other once its cache is quantised."
            )
        if settings.threads is not None:
            raise EngineError(f"mlx: found --threads {settings.threads}; mlx-lm computes on the GPU and has no such setting. Leave it out.")
        program = program_path(PROGRAM, HOW)
        self._codec = Codec.load(settings.folder, settings.model)
        self._around = self._codec.encode("", special=True)
        return Prepared([program, *arguments(settings, port)], {**os.environ, "HF_HUB_OFFLINE": "1"}, "/v1/completions")

    def ready(self, port: int) -> bool:
        """See `Dialect.ready`."""
        return answers(port, "/health")

    def read_back(self, settings: EngineSettings, child: Child, prepared: Prepared) -> tuple[EngineFacts, int]:
        """See `Dialect.read_back`. One token is asked for: only then it is certain that the model is loaded and answers."""
        from modelwright.files import read_json
        from modelwright.model_shape import ModelShape

        config = read_json(settings.folder / "config.json")
        shape = ModelShape.from_config(config)
        first = fetch_json(child.port, prepared.path, body={"prompt": "a", "max_tokens": 1})
        if not first.get("choices"):
            raise EngineError("mlx: its first answer is no completion; install a current mlx-lm.")
        bits = settings.kv_bits
        width = 2.0 if bits is None else bits / 8 + 4 / GROUP
        facts = EngineFacts(
            engine=self.name,
            version=str(first.get("system_fingerprint", "unknown")).split("-", 1)[0],
            context=settings.max_context,
            slots=settings.max_batch,
            kv_bits=bits,
            kv_bytes_per_token=2 * shape.layers * shape.kv_heads * shape.head_dim * width,
            weight_bytes=weight_bytes(settings.folder),
            dtype=str(config.get("torch_dtype") or config.get("dtype") or "float16"),
            accelerator="metal",
            features=self.features if settings.prefix_reuse else self.features - {"prefix_reuse"},
            notes=NOTES,
        )
        return facts, settings.max_batch * settings.max_context

    def body(self, settings: EngineSettings, request: GenerationRequest, made: Sequence[int]) -> Mapping[str, Any]:
        """See `Dialect.body`."""
        assert self._codec is not None
        ids, around, sampling = list(request.prompt), self._around, request.sampling
        if around and ids[: len(around)] == around:
            ids = ids[len(around) :]  # mlx-lm encodes the text as one, and puts them there itself
        found: dict[str, Any] = {
            "prompt": self._codec.decode([*ids, *made]),
            "max_tokens": request.max_tokens - len(made),
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
        if sampling.seed is not None:
            found["seed"] = sampling.seed % (1 << 31)
        if sampling.logit_bias:
            found["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
        return found

    def piece(self, document: Any, request: GenerationRequest) -> Piece:
        """See `Dialect.piece`."""
        details = (document.get("usage") or {}).get("prompt_tokens_details") or {}
        if not document["choices"]:
            return Piece(cached=details.get("cached_tokens"))
        choice = document["choices"][0]
        finish = choice.get("finish_reason")
        text = choice.get("text") or ""
        return Piece([Token(number) for number in self._ids(text)] if text else (), ENDS.get(finish, "stop") if finish else None)

    def goes_on(self, request: GenerationRequest) -> bool:
        """See `Dialect.goes_on`. mlx-lm does not tell which token ended an answer."""
        return False

    def _ids(self, text: str) -> list[int]:
        """Token ids of a piece of an answer. A tokenizer may begin every text with a space of its own, so that a line end stands before
        it here. Raises EngineError for text that the ids would not give back."""
        codec = self._codec
        assert codec is not None
        before = codec.encode("\n")
        ids = codec.encode("\n" + text)[len(before) :]
        if codec.decode([*before, *ids]) == codec.decode(before) + text:
            return ids
        ids = codec.encode(text)
        if codec.decode(ids) != text:
            raise EngineError(f"mlx: the answer's text {text[:40]!r} cannot be written in tokens of this model; serve by another --engine.")
        return ids


def arguments(settings: EngineSettings, port: int) -> list[str]:
    """The flags. With a quantised cache from the first token on, since 5,000 tokens of 16 bits would not be what was asked for."""
    found = ["--model", str(settings.folder.resolve()), "--host", "127.0.0.1", "--port", str(port)]
    found += ["--decode-concurrency", str(settings.max_batch), "--prompt-concurrency", str(settings.max_batch)]
    if settings.kv_bits is not None:
        found += ["--kv-bits", str(settings.kv_bits), "--kv-group-size", str(GROUP), "--quantized-kv-start", "0"]
    if not settings.prefix_reuse:
        found += ["--prompt-cache-size", "0"]
    return found

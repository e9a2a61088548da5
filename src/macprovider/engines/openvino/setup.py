"""What the OpenVINO engine needs before it runs: the export it reads, the pipeline's settings, the proof of its cache's precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from macprovider.engines.base import EngineError, EngineSettings, GenerationRequest, KvBits

if TYPE_CHECKING:
    from macprovider.weights.gguf_config import GgufModel
    from macprovider.weights.gguf_export import Kind

WEIGHTS: dict[str, Kind] = {"auto": "f16", "float16": "f16", "q8_0": "q8_0"}
"""`EngineSettings.dtype` → type of the GGUF export. Its reader knows no float32."""
PRECISIONS: dict[KvBits | None, str] = {None: "f16", 8: "u8", 4: "u4"}
"""kv_bits → `KV_CACHE_PRECISION`, for keys and values alike."""
BLOCK = 32
"""Tokens of a cache block on a processor."""
CHUNK = 512
"""Prompt tokens of one step, so that a long prompt does not hold up running answers."""


def counted_row_bytes(width: int) -> dict[str, float]:
    """KV_CACHE_PRECISION → what the pipeline counts as bytes of a row of one head of `width` values, keys and values on average.

    A row of h values takes 4h (f32) or 2h (f16). Quantised values have one scale and zero point in f32 for a row, keys for
    a channel of a block of 32 tokens: in u8 h + 8 and h + h/4 bytes. Of u4 the pipeline counts elements, with 16 of them for the same
    eight bytes: h + 16 and h + h/2; in memory they are half of that. Measured with heads of 32 to 128.
    """
    quantised = {name: width + (width * more / BLOCK + more) / 2 for name, more in (("u8", 8), ("u4", 16))}
    return {"f32": 4.0 * width, "f16": 2.0 * width, **quantised}


def confirmed_cache(found: int, blocks: int, model: GgufModel, asked: str) -> tuple[float, tuple[str, ...]]:
    """(bytes of one token over all layers, notes), from the bytes that the pipeline tells of its cache. Raises EngineError for a size
    that is none of `counted_row_bytes`.
    """
    width, rows = model.shape.head_dim, 2 * model.shape.layers * model.shape.kv_heads * blocks * BLOCK
    per_row = found / rows
    fitting = [name for name, size in counted_row_bytes(width).items() if size == per_row]
    if asked not in fitting:
        raise EngineError(
            f"openvino: the cache was asked for in {asked} and has {per_row:g} bytes a row ({', '.join(fitting) or 'no known type'}); "
            "serve with another --kv-bits."
        )
    stored = per_row / 2 if asked == "u4" else per_row
    notes = ("4-bit keys and values: check the quality of answers before use",) if asked == "u4" else ()
    return stored * rows / (blocks * BLOCK), notes


def configuration(request: GenerationRequest) -> Any:
    """The pipeline's own form of a request. Where an answer stops is decided here (`_pass_on`), never there."""
    import openvino_genai

    sampling = request.sampling
    found = openvino_genai.GenerationConfig()
    found.max_new_tokens = request.max_tokens
    found.ignore_eos = True
    found.logprobs = 1 if request.top_logprobs is not None else 0
    found.presence_penalty = sampling.presence_penalty
    found.frequency_penalty = sampling.frequency_penalty
    found.do_sample = sampling.temperature > 0
    if found.do_sample:
        found.temperature = sampling.temperature
        found.top_p = sampling.top_p
        if sampling.top_k:
            found.top_k = sampling.top_k
        found.rng_seed = _seed(sampling.seed)
    return found


def scheduler(settings: EngineSettings, blocks: int) -> Any:
    import openvino_genai

    found = openvino_genai.SchedulerConfig()
    found.max_num_seqs = settings.max_batch
    found.num_kv_blocks = blocks
    found.max_num_batched_tokens = max(CHUNK, settings.max_batch)
    found.enable_prefix_caching = False  # the pipeline does not tell how much of a prompt it reused
    return found


def properties(settings: EngineSettings, asked: str) -> dict[str, Any]:
    threads = {} if settings.threads is None else {"INFERENCE_NUM_THREADS": settings.threads}
    return {"KV_CACHE_PRECISION": asked, **threads}


def _seed(seed: int | None) -> int:
    import secrets

    return secrets.randbits(63) if seed is None else seed % 2**63


def described(settings: EngineSettings) -> GgufModel:
    from macprovider.weights.gguf_config import describe
    from modelwright.files import read_json

    model = describe(read_json(settings.folder / "config.json"), settings.model)
    if model.frequency_divisors or f"{model.architecture}.rope.scaling.type" in model.metadata:
        raise EngineError(
            f"openvino: found scaled rotary positions in {settings.model}; OpenVINO's reader of GGUF leaves the scaling out, and answers "
            "would be wrong. Serve it by --engine transformers or llamacpp."
        )
    return model


def refuse(settings: EngineSettings) -> None:
    """Raises EngineError for what this engine cannot honour."""
    if settings.repair is not None:
        raise EngineError("openvino: found --repair; this engine carries no repair operator. Serve by --engine transformers.")
    if settings.device not in ("auto", "cpu"):
        raise EngineError(f"openvino: found the device {settings.device!r}; allowed: auto, cpu.")
    if settings.dtype not in WEIGHTS:
        raise EngineError(f"openvino: found the dtype {settings.dtype!r}; allowed: {', '.join(WEIGHTS)}.")


def library() -> Any:
    try:
        import openvino_genai
    except ImportError as error:
        raise EngineError(
            "openvino: the package openvino-genai is not installed; install it by pip install 'modelwright[openvino]'."
        ) from error
    return openvino_genai


def last_line(error: BaseException) -> str:
    """OpenVINO's messages begin with where in its sources they arose; the last line says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

"""Memory forecast before a job, one line per part, and the comparison with what was measured.

Source of the formulas: requirements of the scaler, section 11.1. With n tokens, batch B, L layers, width d,
feed-forward width f, vocabulary V, a bytes per activation number (2 in bf16, 4 in fp32), r-rank adapters:

    weights       parameters × bytes of the number format (bf16 2, fp32 4, NF4 about 0.55)
    adapters      adapter parameters × 16          fp32 weight, gradient and two Adam moments
    trained       embeddings and norms × 16        when they are trained as whole copies beside the adapters
    optimizer     parameters × (a + 8)             only when every weight is trained: gradient and two fp32 Adam moments
    activations   L·B·n·d·a                        one block input per layer, when blocks are recomputed (checkpointing)
                  L·B·n·(8d + 3·Hkv·h + 4f)·a      when every block keeps what its backward pass needs
    recompute     4·B·n·f·a                        the one block being recomputed
    logits        B·chunk·V·8                      fp32 logits and gradient, when the loss is chunked
                  B·n·V·12                         fp32 logits, their log-softmax and gradient, when they are whole
    kv            2·L·Hkv·h·tokens·batch·bits/8    keys and values
    teacher       its weights and one pass' logits
    heap          L·B·n·(8d + 3·Hkv·h + 4f)·a      on a CPU, what the C library keeps of freed memory: about what all blocks
                                                   hold, recomputed or not (measured on small models); nothing after
                                                   :func:`modelwright.hardware.return_freed_blocks`
    runtime       what the process holds before the model (measured by the caller; 0 when only the device counts)
    margin        10 % of all that

Everything is in bytes. A forecast is arithmetic, not a promise: :func:`record_measured` keeps predicted and measured
side by side per run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from modelwright.model_shape import ModelShape

GIB = 1 << 30
BYTES_PER_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.55}
TRAINED_BYTES = 16
MARGIN = 0.10
LOSS_CHUNK = 1024  # tokens whose logits exist at one time when the loss is chunked
SHORTEST_LENGTH = 128
MEASURED_FILE = "memory.json"

WeightFormat = Literal["float32", "bfloat16", "float16", "int8", "nf4"]


@dataclass(frozen=True)
class MemoryRequest:
    """What is going to run. Lengths in tokens.

    ``training=False`` describes generation: no gradients, logits of one position per sequence, ``kv_tokens`` cached
    tokens. ``keeps_freed`` says that the allocator keeps freed blocks (glibc on a CPU does). ``parameters`` overrides
    the count that follows from the shape (a meta-device count is more exact for unknown families).
    """

    shape: ModelShape
    length: int
    batch: int = 1
    weight_format: WeightFormat = "bfloat16"
    compute_format: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    training: bool = True
    train_all: bool = False
    lora_rank: int = 0
    train_embeddings: bool = False
    train_norms: bool = False
    checkpointing: bool = True
    loss_chunk: int | None = LOSS_CHUNK
    kv_tokens: int = 0
    kv_batch: int = 1
    kv_bits: float = 16
    teacher: ModelShape | None = None
    teacher_format: WeightFormat = "bfloat16"
    keeps_freed: bool = False
    runtime_bytes: int = 0
    parameters: int | None = None


@dataclass(frozen=True)
class MemoryPart:
    """One line of the forecast."""

    name: str
    bytes: int
    formula: str


@dataclass(frozen=True)
class Suggestion:
    """A change that brings the forecast under a limit: what to do, and the total that remains."""

    change: str
    total_bytes: int
    request: MemoryRequest


@dataclass(frozen=True)
class MemoryForecast:
    """Predicted peak, part by part. ``total_bytes`` includes the margin."""

    request: MemoryRequest
    parts: tuple[MemoryPart, ...]

    @property
    def total_bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def part(self, name: str) -> int:
        """Bytes of one part; 0 when the job has none of it."""
        return sum(part.bytes for part in self.parts if part.name == name)

    def fits(self, limit_bytes: int) -> bool:
        """Whether the predicted peak, margin included, is within the limit."""
        return self.total_bytes <= limit_bytes

    def as_dict(self) -> dict[str, Any]:
        """JSON form, the ``memory_plan`` of ``hardware.json``: every part in bytes, the total in bytes and GiB."""
        return {
            "parts": [asdict(part) for part in self.parts],
            "total_bytes": self.total_bytes,
            "total_gib": round(self.total_bytes / GIB, 3),
            "parameters": _parameters(self.request),
            "exact_shape": self.request.shape.exact,
        }

    def table(self) -> str:
        """The forecast as lines for a terminal, in GiB."""
        lines = [f"{part.name:<12} {part.bytes / GIB:>9.3f} GiB   {part.formula}" for part in self.parts]
        return "\n".join([*lines, f"{'total':<12} {self.total_bytes / GIB:>9.3f} GiB"])


def kv_bytes(shape: ModelShape, tokens: int, batch: int = 1, bits: float = 16) -> int:
    """Bytes of a KV cache: ``2 · layers · kv_heads · head_dim · tokens · batch · bits / 8``."""
    return int(2 * shape.layers * shape.kv_heads * shape.head_dim * tokens * batch * bits / 8)


def forecast(request: MemoryRequest) -> MemoryForecast:
    """Predict the peak memory of a job.

    Raises:
        ValueError: a length, batch, chunk or bit width below 1.
    """
    for name in ("length", "batch", "kv_batch", "kv_bits"):
        if getattr(request, name) < 1:
            raise ValueError(f"{name} is {getattr(request, name)}; at least 1 is needed")
    if request.loss_chunk is not None and request.loss_chunk < 1:
        raise ValueError(f"loss_chunk is {request.loss_chunk}; at least 1 is needed, or None for whole logits")
    parts = [part for part in _parts(request) if part.bytes > 0]
    margin = int(MARGIN * sum(part.bytes for part in parts))
    return MemoryForecast(request, (*parts, MemoryPart("margin", margin, f"{MARGIN:.0%} of the parts above")))


def suggest(request: MemoryRequest, limit_bytes: int) -> list[Suggestion]:
    """Changes that make the job fit, the least harmful first; empty when it fits already or nothing here is enough.

    Single changes that suffice come first, in order of how little they alter the result (how the loss is computed,
    recomputation, batch, number format, what is trained, cache bits, length). When no single one suffices, the
    shortest run of them that does is offered as one.
    """
    if forecast(request).fits(limit_bytes):
        return []
    found: list[Suggestion] = []
    for words, change in _changes(request, limit_bytes):
        changed = change(request)
        total = forecast(changed).total_bytes
        if total <= limit_bytes:
            found.append(Suggestion(words, total, changed))
    if found:
        return found
    said: list[str] = []
    current = request
    for words, change in _changes(request, limit_bytes):
        changed = change(current)
        if forecast(changed).total_bytes >= forecast(current).total_bytes:
            continue
        current = changed
        said.append(words)
        total = forecast(current).total_bytes
        if total <= limit_bytes:
            return [Suggestion(", ".join(said), total, current)]
    length = _longest_length(current, limit_bytes)
    if length is None or length >= current.length:
        return []
    current = replace(current, length=length, kv_tokens=min(current.kv_tokens, length))
    said.append(f"shorten the context to {length} tokens")
    return [Suggestion(", ".join(said), forecast(current).total_bytes, current)]


def record_measured(run_path: Path, predicted: MemoryForecast, measured_bytes: int, *, source: str) -> dict[str, Any]:
    """Keep predicted against measured for a run in ``memory.json``, and return that document.

    Args:
        measured_bytes: peak seen while the job ran.
        source: how it was measured, for example ``VmHWM`` or ``torch.cuda.max_memory_allocated``.
    """
    from modelwright.files import write_json

    document = {
        "schema_version": 1,
        "predicted_bytes": predicted.total_bytes,
        "measured_bytes": int(measured_bytes),
        "error": round(predicted.total_bytes / measured_bytes - 1, 4) if measured_bytes > 0 else None,
        "source": source,
        "length": predicted.request.length,
        "batch": predicted.request.batch,
        "parts": [asdict(part) for part in predicted.parts],
    }
    write_json(run_path / MEASURED_FILE, document)
    return document


def _parameters(request: MemoryRequest) -> int:
    return request.parameters if request.parameters is not None else request.shape.parameters()


def _parts(request: MemoryRequest) -> Iterator[MemoryPart]:
    shape = request.shape
    count = _parameters(request)
    width = int(BYTES_PER_WEIGHT[request.compute_format])
    per_weight = BYTES_PER_WEIGHT[request.weight_format]
    tokens = request.batch * request.length
    yield MemoryPart("weights", int(count * per_weight), f"{count:,} parameters x {per_weight:g} ({request.weight_format})")
    if request.training:
        yield from _training_parts(request, count, width, tokens)
    else:
        work = request.length * request.batch * (4 * shape.hidden + 2 * shape.feed_forward) * width
        yield MemoryPart("activations", work, "one block's working set over the prompt: n x (4 d + 2 f)")
        yield MemoryPart("logits", request.batch * shape.vocabulary * 8, "last position of every sequence x V x 8")
    cached = kv_bytes(shape, request.kv_tokens, request.kv_batch, request.kv_bits)
    yield MemoryPart(
        "kv",
        cached,
        f"2 x layers x kv_heads x head_dim x {request.kv_tokens} x {request.kv_batch} x {request.kv_bits:g}/8",
    )
    if request.teacher is not None:
        teacher = request.teacher
        weights = int(teacher.parameters() * BYTES_PER_WEIGHT[request.teacher_format])
        logits = min(tokens, request.loss_chunk or tokens) * teacher.vocabulary * 4
        yield MemoryPart(
            "teacher",
            weights + logits,
            f"{teacher.parameters():,} parameters ({request.teacher_format}) and its logits",
        )
    yield MemoryPart("runtime", request.runtime_bytes, "process before the model was loaded")


def _training_parts(request: MemoryRequest, count: int, width: int, tokens: int) -> Iterator[MemoryPart]:
    shape = request.shape
    adapters = shape.lora_parameters(request.lora_rank) if request.lora_rank else 0
    yield MemoryPart("adapters", adapters * TRAINED_BYTES, f"{adapters:,} adapter parameters (rank {request.lora_rank}) x 16")
    copied = (shape.embedding_parameters() if request.train_embeddings else 0) + (shape.norm_parameters() if request.train_norms else 0)
    if not request.train_all:
        yield MemoryPart("trained", copied * TRAINED_BYTES, f"{copied:,} embedding and norm parameters x 16")
    else:
        yield MemoryPart("optimizer", count * (width + 8), f"{count:,} parameters: gradient and two fp32 Adam moments")
    block = tokens * (8 * shape.hidden + 3 * shape.kv_width + 4 * shape.feed_forward) * width
    if request.checkpointing:
        kept = shape.layers * tokens * shape.hidden * width
        yield MemoryPart("activations", kept, f"layers x {tokens} tokens x d x {width}, blocks are recomputed")
        yield MemoryPart(
            "recompute",
            4 * tokens * shape.feed_forward * width,
            f"4 x {tokens} tokens x f x {width}, one block at a time",
        )
    else:
        yield MemoryPart(
            "activations", shape.layers * block, f"layers x {tokens} tokens x (8 d + 3 Hkv h + 4 f) x {width}, nothing is recomputed"
        )
    if request.loss_chunk is None:
        yield MemoryPart("logits", tokens * shape.vocabulary * 12, f"{tokens} tokens x V x 12, whole")
    else:
        chunk = min(tokens, request.loss_chunk)
        yield MemoryPart("logits", chunk * shape.vocabulary * 8, f"{chunk} tokens x V x 8")
    if request.keeps_freed:
        yield MemoryPart("heap", shape.layers * block, "freed activations of all blocks that the C library keeps")


Change = Callable[[MemoryRequest], MemoryRequest]


def _changes(request: MemoryRequest, limit_bytes: int) -> Iterator[tuple[str, Change]]:
    tokens = request.batch * request.length
    if request.training and (request.loss_chunk is None or request.loss_chunk > LOSS_CHUNK) and tokens > LOSS_CHUNK:
        yield f"compute the loss in chunks of {LOSS_CHUNK} tokens", lambda r: replace(r, loss_chunk=LOSS_CHUNK)
    if request.training and not request.checkpointing:
        yield "recompute blocks in the backward pass (gradient checkpointing)", lambda r: replace(r, checkpointing=True)
    batch = request.batch
    while batch > 1:
        batch //= 2
        yield f"batch {batch} instead of {request.batch} (accumulate gradients to compensate)", _with(batch=batch)
    if request.kv_tokens and request.kv_bits > 8:
        yield "keep the KV cache in 8 bits", _with(kv_bits=8)
    if request.weight_format == "float32":
        yield "hold the weights in bfloat16", _with(weight_format="bfloat16")
    if request.train_embeddings:
        yield "leave the embeddings untrained", _with(train_embeddings=False)
    if request.weight_format != "nf4" and not request.train_all:
        yield "hold the weights in 4 bits (NF4)", _with(weight_format="nf4")
    if request.kv_tokens and request.kv_bits > 4:
        yield "keep the KV cache in 4 bits", _with(kv_bits=4)
    if request.lora_rank > 4:
        yield (
            f"rank {max(4, request.lora_rank // 2)} instead of {request.lora_rank}",
            _with(lora_rank=max(4, request.lora_rank // 2)),
        )
    length = _longest_length(request, limit_bytes)
    if length is not None and length < request.length:
        cached = min(request.kv_tokens, length)
        yield f"a context of {length} instead of {request.length} tokens", _with(length=length, kv_tokens=cached)


def _with(**values: Any) -> Change:
    return lambda request: replace(request, **values)


def _longest_length(request: MemoryRequest, limit_bytes: int) -> int | None:
    """Greatest multiple of 128 tokens that fits (the peak grows with the length), or None when 128 tokens do not."""

    def total(length: int) -> int:
        return forecast(replace(request, length=length, kv_tokens=min(request.kv_tokens, length))).total_bytes

    low, high = 0, max(1, request.length // SHORTEST_LENGTH)
    while low < high:
        middle = (low + high + 1) // 2
        if total(middle * SHORTEST_LENGTH) <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return low * SHORTEST_LENGTH or None

"""What a served model will take of memory, by arithmetic: weights, cache, and the process itself. `--engine auto` asks it. Autotune
shows and keeps it beside what was measured, and lets it decide nothing: a candidate that is predicted not to fit is probed in its turn
all the same (specs/autotune.md, R2).

Weights come from the headers of the model's files in the number format that the engine loads them in, the cache from its shape at the
context and the slots of the knobs. Where the files are not on this machine the model's name tells its weights and nothing tells its
cache. What is not in it: the working memory of a step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from macprovider.capacity import capacity_of
from macprovider.engines.predicted import Predicted
from macprovider.weights.cache_dir import cache_dir
from macprovider.weights.cached import find_snapshot
from macprovider.weights.candidates import FULL_BITS, named_bits, parameters_b
from macprovider.weights.pull import local_folder
from macprovider.weights.safetensors_header import DTYPE_BITS, TensorEntry, read_header
from modelwright.errors import ModelwrightError, UsageError
from modelwright.loading import missing_weight_files
from modelwright.model_shape import ModelShape

if TYPE_CHECKING:
    from macprovider.engines.base import KvBits

# Greatest resident memory of `serve` with tiny-0.4m after its self-test and a prompt that filled its context, less its weights and its
# cache (together 2 MB): interpreter, libraries, HTTP. Python 3.11, torch 2.13 for processors, OpenVINO GenAI 2026.4, Linux on x86-64.
RUNTIME_BYTES: dict[str, int] = {"transformers": 372 << 20, "openvino": 443 << 20}
"""Engine → bytes of its process before a model is in it; engines that were not measured are missing."""
# OpenVINO took 10.0 and 9.1 bytes for each 16-bit weight of random models with 86 and 296 million, on a processor that computes in
# float32 (AVX2): about as much as the export's numbers, the same in float32, and those once more for its kernels, 2 + 4 + 4. One with
# arithmetic in 16 bits may need less. A first start, which makes the export, took up to a sixth more.
_COPIES: dict[str, float] = {"openvino": 5.0}
"""Engine → how often it holds what the file holds."""

_FLOATS = ("F64", "F32", "F16", "BF16")
"""Types that an engine turns into its own number format; others stay as they are."""
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_GGUF_BYTES = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32}
_RESERVES = ("openvino", "llamacpp")
"""Engines that hold room for the whole context from the start; the others hold what requests need."""


class Knobs(Protocol):
    """kv_bits: 4, 8 or None. max_context: tokens of one request, None for what `serve` grants."""

    @property
    def kv_bits(self) -> int | None: ...
    @property
    def max_batch(self) -> int: ...
    @property
    def max_context(self) -> int | None: ...


def predict(model: str, knobs: Knobs, target_context: int, engine: str) -> Predicted:
    """The memory of a candidate with these knobs; all slots in use. Never raises: what cannot be read is said in `why`."""
    runtime, on_gpu = RUNTIME_BYTES.get(engine), _computes_on_gpu(engine)
    why = "its files are not on this machine"
    try:
        folder = files_of(model)
        if folder is not None:
            config = _config(folder)
            weights, loading = _weight_bytes(folder, config, engine, on_gpu)
            kv, why = _kv_bytes(config, model, knobs, target_context, engine, on_gpu)
            return Predicted(weights, kv, runtime, "files", loading, on_gpu, why)
    except Exception as error:  # noqa: BLE001 - a folder may hold anything, and a forecast must not end a run
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        why = f"its files cannot be read ({first or type(error).__name__})"
    parameters = parameters_b(model)
    if parameters is None:
        return Predicted(runtime_bytes=runtime, on_gpu=on_gpu, why=f"{why}, and its name does not tell its size")
    return Predicted(round(parameters * 1e9 * _named_bytes(model, engine, on_gpu)), None, runtime, "name", 0, on_gpu, why)


def files_of(model: str) -> Path | None:
    """The model's files, None when they are not all here."""
    try:
        folder = local_folder(model)
    except UsageError:  # no folder and no name of a hub: fetching it will say so
        return None
    if folder is not None:
        return folder
    snapshot = find_snapshot(cache_dir(), model)
    return None if snapshot is None or missing_weight_files(snapshot.folder) else snapshot.folder


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def _weight_bytes(folder: Path, config: Mapping[str, Any], engine: str, on_gpu: bool) -> tuple[int, int]:
    """(bytes of the weights, `Predicted.loading_bytes`). Raises what `read_header` and `ModelShape.from_config` raise."""
    tied = ModelShape.from_config(config).tied
    quantised = bool(config.get("quantization") or config.get("quantization_config"))
    total, converted = 0.0, 0
    for entry in _tensors(folder):
        if entry.name.endswith("rotary_emb.inv_freq") or (tied and entry.name == "lm_head.weight"):
            continue  # computed, and the same as another
        held, in_file = _stored_bytes(entry, config, engine, on_gpu, quantised), entry.end - entry.start
        total += held
        converted += in_file if held != in_file else 0
    # Weights that need no conversion are used where the files lie; only the transformers engine converts while it reads.
    return round(total * _COPIES.get(engine, 1.0)), converted if engine == "transformers" and not on_gpu else 0


def _tensors(folder: Path) -> Iterator[TensorEntry]:
    """Of the files that are loaded: a repository may hold the same weights twice."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = [folder / name for name in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UsageError(f"{folder} holds no safetensors weights")
    for file in files:
        yield from read_header(file)


def _stored_bytes(entry: TensorEntry, config: Mapping[str, Any], engine: str, on_gpu: bool, quantised: bool) -> float:
    """Bytes of one tensor as `engine` holds it."""
    if quantised or entry.dtype not in _FLOATS or engine == "mlx":
        return entry.elements * DTYPE_BITS.get(entry.dtype, FULL_BITS) / 8
    if engine in ("llamacpp", "openvino"):
        from macprovider.engines.external.llamacpp import WEIGHTS as of_llamacpp
        from macprovider.engines.openvino.setup import WEIGHTS as of_openvino
        from macprovider.weights.gguf_export import stored_kind

        kind = of_openvino["auto"] if engine == "openvino" else of_llamacpp["auto"]
        return entry.elements * _GGUF_BYTES[stored_kind(entry, kind)]  # type: ignore[arg-type]
    return entry.elements * _BYTES[_format(config, on_gpu)]


def _format(config: Mapping[str, Any], on_gpu: bool) -> str:
    from macprovider.engines.embedded.layout import number_format

    return number_format("auto", "cuda" if on_gpu else "cpu", dict(config))


def _named_bytes(model: str, engine: str, on_gpu: bool) -> float:
    """Bytes of one parameter of a model known by its name alone; a name that tells bits is believed."""
    bits = named_bits(model)
    if bits != FULL_BITS:
        return bits / 8
    if engine == "llamacpp":
        return _GGUF_BYTES["q8_0"]
    return 4.0 if engine == "transformers" and not on_gpu else FULL_BITS / 8 * _COPIES.get(engine, 1.0)


def _kv_bytes(
    config: Mapping[str, Any], model: str, knobs: Knobs, target_context: int, engine: str, on_gpu: bool
) -> tuple[int | None, str]:
    """(bytes of the cache with all slots full, why they are unknown)."""
    from macprovider.engines.embedded.layout import quantised_row_bytes
    from modelwright.memory import kv_bytes

    shape = ModelShape.from_config(config)
    try:
        context = _context(config, model, knobs, target_context, engine)
        width = _BYTES[_format(config, on_gpu)]
        bits: KvBits | None = knobs.kv_bits  # type: ignore[assignment]
        if engine == "transformers" and bits is not None:
            return knobs.max_batch * quantised_row_bytes(shape, bits, context, width), ""
        return kv_bytes(shape, context, knobs.max_batch, _value_bits(engine, bits, shape.head_dim, width)), ""
    except ModelwrightError as error:
        return None, str(error)


def _context(config: Mapping[str, Any], model: str, knobs: Knobs, target_context: int, engine: str) -> int:
    """Tokens of one slot that are held: all that the server grants where room for them is reserved, else those of the target."""
    asked = knobs.max_context
    if asked is None and engine in _RESERVES:
        from modelwright.hardware import inventory

        asked = capacity_of(None, config, model, inventory().ram_total).max_context
    context = min(asked or target_context, ModelShape.from_config(config).context)
    block = {"openvino": 32, "llamacpp": 256}.get(engine, 1)
    return -(-context // block) * block


def _value_bits(engine: str, bits: KvBits | None, head_dim: int, width: int) -> float:
    """Bits of one cached number, scales included. Raises UsageError for a setting that the engine does not have."""
    if engine == "openvino":
        from macprovider.engines.openvino.setup import PRECISIONS, counted_row_bytes

        counted = counted_row_bytes(head_dim)[PRECISIONS[bits]] * 8 / head_dim
        return counted / 2 if bits == 4 else counted
    if engine == "llamacpp":
        from macprovider.engines.external.llamacpp import CACHE_TYPES
        from macprovider.engines.external.llamacpp_log import BYTES

        return BYTES[CACHE_TYPES[bits]] * 8
    if engine == "mlx":
        from macprovider.engines.external.mlx import GROUP

        return 16.0 if bits is None else bits + 32 / GROUP
    if engine == "vllm":
        if bits == 4:
            raise UsageError("vLLM has no cache of 4 bits")
        return 16.0 if bits is None else float(bits)
    return width * 8.0


def _computes_on_gpu(engine: str) -> bool:
    """As far as the machine tells without loading the engine's libraries."""
    from modelwright.gpus import find_gpus

    return engine == "vllm" or (engine == "transformers" and bool(find_gpus(Path("/dev"), os.environ).gpus))

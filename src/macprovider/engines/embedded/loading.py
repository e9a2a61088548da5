"""Everything that is loaded once: the model on its device, the cache, the repair operator, and what they really are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from macprovider.engines.base import EngineError, EngineFacts, EngineSettings, Feature
from macprovider.engines.embedded.attention import reading
from macprovider.engines.embedded.cache import RowCache, sizes_of
from macprovider.engines.embedded.grammar import Grammars, available
from macprovider.engines.embedded.layout import number_format
from macprovider.engines.embedded.quantised import QuantisedCache
from macprovider.engines.embedded.repair import load_operator, repaired
from macprovider.engines.embedded.rows import Slot
from macprovider.engines.embedded.runner import Runner

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ALWAYS: frozenset[Feature] = frozenset({"logprobs", "top_logprobs", "seed", "penalties", "logit_bias", "top_k", "repair"})


@dataclass(frozen=True)
class Loaded:
    """width: logits of a row. blocks: what every forward pass runs in. grammars: None where they are not available."""

    facts: EngineFacts
    runner: Runner
    width: int
    grammars: Grammars | None
    blocks: tuple[Callable[[], AbstractContextManager[None]], ...]


def load(settings: EngineSettings, piece: int) -> Loaded:
    """Load what `settings` name. Raises EngineError or another ModelwrightError."""
    import torch
    import transformers

    from modelwright.loading import load_model, read_config, resolve_model

    source = resolve_model(str(settings.folder), offline=True)
    config = read_config(source)
    device = _device(settings.device)
    dtype = number_format(settings.dtype, device, config)
    context, notes = _context(settings, config)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    model = load_model(source, dtype=dtype, device=device)
    _check_layers(model, context)
    operator, repair_file = (None, None) if settings.repair is None else load_operator(settings.repair, model, settings.kv_bits)
    cache, blocks = _cache(model, settings, context, repaired_too=operator is not None)
    width = int(model.get_output_embeddings().weight.shape[0])
    grammars = Grammars(settings.folder, width, _stop_ids(model)) if available() else None
    features = set(_ALWAYS)
    features |= {"json_schema"} if grammars is not None else set()
    features |= {"prefix_reuse"} if settings.prefix_reuse else set()
    facts = EngineFacts(
        engine="transformers",
        version=transformers.__version__,
        context=context,
        slots=settings.max_batch,
        kv_bits=settings.kv_bits,
        kv_bytes_per_token=cache.bytes_per_token(),
        weight_bytes=sum(part.nbytes for part in [*model.parameters(), *model.buffers()]),
        dtype=str(model.dtype).removeprefix("torch."),
        accelerator=torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        features=frozenset(features),
        notes=tuple(notes),
        repair=None if repair_file is None else str(repair_file.absolute()),
    )
    runner = Runner(model, cache, piece, settings.prefix_reuse, [Slot() for _ in range(settings.max_batch)])
    return Loaded(facts, runner, width, grammars, (lambda: repaired(model, operator), *blocks))


def _cache(
    model: PreTrainedModel, settings: EngineSettings, context: int, repaired_too: bool
) -> tuple[RowCache, tuple[Callable[[], AbstractContextManager[None]], ...]]:
    """The cache, and what its steps run in. A repair needs keys and values, so it reads restored blocks; so do half formats,
    in which scores over codes would lose what the library's kernels keep.
    """
    import torch

    sizes = sizes_of(model, settings.max_batch, context)
    if settings.kv_bits is None:
        return RowCache(sizes), ()
    direct = not repaired_too and sizes.dtype == torch.float32
    cache = QuantisedCache(sizes, settings.kv_bits, direct)
    return cache, (lambda: reading(model, cache),) if direct else ()


def _device(asked: str) -> str:
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if asked.startswith("cuda") and not torch.cuda.is_available():
        raise EngineError(f"device: found {asked!r}, but no GPU can be used here; allowed: auto, cpu.")
    if asked != "cpu" and not asked.startswith("cuda"):
        raise EngineError(f"device: found {asked!r}; allowed: auto, cpu, cuda, cuda:<number>.")
    return asked


def _context(settings: EngineSettings, config: dict[str, Any]) -> tuple[int, list[str]]:
    """Tokens of one request, and a note where the model allows fewer than were asked for."""
    from modelwright.model_shape import ModelShape

    made_for = ModelShape.from_config(config).context
    faults = [f"{name}: found {value}; at least {least} is needed." for name, value, least in _smallest(settings) if value < least]
    if faults:
        raise EngineError(" ".join(faults))
    if settings.max_context <= made_for:
        return settings.max_context, []
    return made_for, [f"The context is {made_for} tokens instead of {settings.max_context}: the model was made for no more."]


def _smallest(settings: EngineSettings) -> list[tuple[str, int, int]]:
    found = [("max_context", settings.max_context, 2), ("max_batch", settings.max_batch, 1)]
    return found if settings.threads is None else [*found, ("threads", settings.threads, 1)]


def _check_layers(model: PreTrainedModel, context: int) -> None:
    """Raise EngineError for a model whose cache is not keys and values of all tokens in every layer."""
    from transformers.cache_utils import get_layer_types_and_kwargs

    from modelwright.model_shape import ModelShape

    config = model.config.get_text_config(decoder=True)
    kinds, options = get_layer_types_and_kwargs(config)
    name = config.model_type
    windows = [option["sliding_window"] for option in options if option.get("sliding_window")]
    if windows and min(windows) < context:
        raise EngineError(
            f"{name}: some layers see the last {min(windows)} tokens only; lower --max-context to {min(windows)}, or use another engine."
        )
    others = sorted({kind for kind in kinds if kind not in ("full_attention", "sliding_attention")})
    if others or getattr(config, "kv_lora_rank", None) or len(kinds) != ModelShape.from_config(config.to_dict()).layers:
        found = ", ".join(others) or "a cache of another kind"
        raise EngineError(f"{name}: the model has {found}, which this engine does not keep; use another engine.")


def _stop_ids(model: PreTrainedModel) -> list[int]:
    ids = model.config.get_text_config(decoder=True).eos_token_id
    return [] if ids is None else list(ids) if isinstance(ids, list | tuple) else [int(ids)]

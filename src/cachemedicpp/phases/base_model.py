"""The frozen base model and its tokenizer, as every phase uses them. (specs/medic.md, 8.1)"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cachemedicpp.config.devices import runtime_device, runtime_dtype
from cachemedicpp.config.rules import check_against_model
from modelwright.loading import ModelSource, load_model, load_tokenizer, read_config, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cachemedicpp.config.sections import RunConfig

OWN_CACHE = "CACHEMEDICPP_HF_HOME"
CACHE_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")


def choose_model_cache() -> None:
    """Let `CACHEMEDICPP_HF_HOME` name the Hugging Face home when none of its own variables does.

    The hub client reads its variables once, when it is first imported, so this comes before.
    """
    own = os.environ.get(OWN_CACHE)
    if own and not any(os.environ.get(name) for name in CACHE_VARIABLES):
        os.environ["HF_HOME"] = own


def model_source(config: RunConfig) -> ModelSource:
    """Where `model.name` leads; with `data.use_offline` no connection is tried. Raises LoadError."""
    return resolve_model(config.model.name, revision=config.model.revision, offline=config.data.use_offline)


def check_model(config: RunConfig) -> None:
    """Raise ConfigError with every value that the model cannot carry (layers, heads, rank, lengths), LoadError when its
    config.json cannot be had. Reads no weights."""
    from modelwright.model_shape import ModelShape

    check_against_model(config, ModelShape.from_config(read_config(model_source(config))))


def load_base_model(config: RunConfig, dtype: str | None = None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer: weights frozen, eval mode, remote code off, pad token = EOS where it is missing.

    dtype: in place of `config.dtype` (stability measures in float32); half types run as float32 on the CPU. Raises
    ConfigError for a device that this machine lacks, LoadError for a model that cannot be loaded.
    """
    device = runtime_device(config.device)
    source = model_source(config)
    implementation = config.model.attn_implementation
    model = load_model(
        source,
        dtype=runtime_dtype(dtype or config.dtype, device),
        device=device,
        attn_implementation="sdpa" if implementation == "medic" else implementation,
    )
    model.requires_grad_(False)
    tokenizer = load_tokenizer(source)
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer

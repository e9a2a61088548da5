"""Step 3: the model with its adapters in place, ready to train, and `phase_0`, the state everything can go back to."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.errors import LoadError
from modelwright.files import write_json
from modelwright.loading import check_tokenizer, load_model, load_tokenizer, resolve_model
from scaler_wizard import context_methods, strategies
from scaler_wizard.bootstrap import Runtime
from scaler_wizard.chunked_loss import why_not_chunked
from scaler_wizard.context_methods.base import ContextMethod
from scaler_wizard.model_facts import tokenizer_source
from scaler_wizard.resolved import ResolvedJob
from scaler_wizard.strategies import ScalerStrategy, StrategyPlan, TrainableShare
from scaler_wizard.strategies.lora import trainable_share

CONTEXT_FILE = "context.json"
CONFIG_KEYS = ("rope_parameters", "max_position_embeddings", "context_extension")


@dataclass
class Prepared:
    """What training works on.

    `model` carries adapters; `base_config` is the untouched configuration as plain data; `whole_logits` says why the
    loss of this architecture cannot be computed in chunks ("" when it can).
    """

    model: Any
    tokenizer: Any
    strategy: ScalerStrategy
    method: ContextMethod
    share: TrainableShare
    base_config: dict[str, Any]
    pad_id: int
    whole_logits: str


def prepare(job: ResolvedJob, runtime: Runtime) -> Prepared:
    """Load model and tokenizer and inject the adapters, drawn from the job's seed.

    Raises LoadError (exit 5) for what cannot be loaded and for a strategy that cannot run here.
    """
    strategy = strategies.get(job.scaling.strategy)
    _check_support(strategy, job, runtime)
    source = resolve_model(job.model.base_model, revision=job.model.revision, offline=job.offline)
    tokenizer = load_tokenizer(tokenizer_source(job))
    model = load_model(
        source,
        dtype=runtime.arithmetic.weights,
        device=runtime.device,
        quantisation="nf4" if strategy.name == "qlora" else None,
    )
    resized = _fit_vocabulary(model, tokenizer, job)
    base_config = model.config.to_dict()
    seed_everything(job.seed)
    plan = strategy_plan(job, resized=resized)
    adapted = strategy.prepare(model, plan)
    return Prepared(
        model=adapted,
        tokenizer=tokenizer,
        strategy=strategy,
        method=context_methods.get_method(job.scaling.context_method),
        share=trainable_share(adapted),
        base_config=base_config,
        pad_id=pad_token(tokenizer),
        whole_logits=why_not_chunked(adapted),
    )


def strategy_plan(job: ResolvedJob, resized: bool = False) -> StrategyPlan:
    """The resolved settings as a strategy wants them; `resized` when the vocabulary was given new rows."""
    scaling = job.scaling
    return StrategyPlan(
        strategy=scaling.strategy,
        rank=scaling.lora_rank,
        alpha=scaling.lora_alpha,
        dropout=scaling.lora_dropout,
        train_embeddings=scaling.train_embeddings or resized,
        train_head=resized,
        use_rslora=scaling.use_rslora,
        use_dora=scaling.use_dora,
        rank_pattern=scaling.rank_pattern,
        quantised=scaling.strategy == "qlora",
    )


def seed_everything(seed: int) -> None:
    """Python, numpy and torch (every device) from one seed."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def pad_token(tokenizer: Any) -> int:
    """An id to fill windows with; what it is never matters, because padding is isolated and its labels are ignored."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if token is not None:
            return int(token)
    return 0


def context_of(model: Any) -> dict[str, Any]:
    """The keys of the live configuration that say how far the model reads, as plain data."""
    config = model.config.to_dict()
    return {key: config[key] for key in CONFIG_KEYS if config.get(key) is not None}


def write_context(directory: Path, model: Any, length: int) -> None:
    """`context.json` of a checkpoint: RoPE parameters and the tokenizer's length, which adapter files do not carry."""
    write_json(directory / CONTEXT_FILE, {**context_of(model), "tokenizer_length": length}, durable=False)


def _check_support(strategy: ScalerStrategy, job: ResolvedJob, runtime: Runtime) -> None:
    support = strategy.supports(job.model_config, runtime.profile)
    if not support.ok:
        raise LoadError(f"--strategy {strategy.name}: {support.reason}")


def _fit_vocabulary(model: Any, tokenizer: Any, job: ResolvedJob) -> bool:
    """Check the tokenizer against the embedding rows, adding rows when the job asks for it; returns whether rows were
    added.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1  # ids may have gaps, so their number says too little
    if not job.model.resize_embeddings or needed <= rows:
        check_tokenizer(tokenizer, rows)
        return False
    seed_everything(job.seed)
    model.resize_token_embeddings(needed, mean_resizing=False)
    return True

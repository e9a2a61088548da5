"""A campaign's model in memory: weights, tokenizer, optimizer and schedule, kept from file to file.

What a checkpoint says of files is part of it (`guild.training.trained_files`): how much of each its weights contain. So a file is trained
once, whatever died in between, and whichever file came first.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guild.naming import checkpoint_step
from guild.training.chat_template import ChatMarks, TemplateChoice, apply_template, marks_of
from guild.training.chat_tokens import ensure_chat_tokens
from guild.training.interface import TrainerConfig
from guild.training.profiles import get_profile
from guild.training.trained_files import SCHEMA_VERSION, FormerPart, TrainedPart, parts_document, read_former, read_parts
from modelwright.checkpoints import CheckpointStore
from modelwright.errors import DamagedFileError, LoadError, MissingFileError
from modelwright.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRAINER_STATE = "trainer_state.json"
"""Hugging Face's name for it, with its `global_step` and `log_history`; ours stands under `guild`."""


@dataclass
class ModelSession:
    """step: optimizer steps of the campaign in these weights. checkpoint: the folder they were loaded from or last saved to; None when
    they are the base model's. files: what they contain of which file, by job key. former: the same as a checkpoint of the first format
    says it. random_states: to be set before the next step; None when they are the process's own. note: how the optimizer began, when it
    was not the checkpoint's; unexpected: nobody asked for that."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    marks: ChatMarks
    template: TemplateChoice
    optimizer: Any
    optimizer_info: Any
    scheduler: Any
    step: int = 0
    checkpoint: Path | None = None
    files: dict[str, TrainedPart] = field(default_factory=dict)
    former: dict[str, FormerPart] = field(default_factory=dict)
    random_states: dict[str, Any] | None = None
    note: str = ""
    unexpected: bool = False
    key: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this, beside tensors."""
        own = {"schema_version": SCHEMA_VERSION, "optimizer": self.optimizer_info.type, "files": parts_document(self.files)}
        return {"global_step": self.step, "guild": own}


def session_key(config: TrainerConfig) -> dict[str, Any]:
    """What must be equal for a session to serve another file."""
    hyper = config.hyperparams
    return {
        "campaign": (config.environment.hero_id, config.environment.campaign_id),
        "model": config.model.path,
        "device": config.model.device,
        "profile": config.profile,
        "precision": hyper.precision,
        "optimizer": dict(hyper.optimizer),
        "schedule": (hyper.lr_scheduler, hyper.learning_rate, hyper.warmup_steps, hyper.schedule_steps),
        "seed": hyper.seed,
    }


def open_session(config: TrainerConfig) -> ModelSession:
    """Load the model that a file's training begins with. Raises LoadError, DamagedFileError and what the optimizer factory raises."""
    import torch

    from guild.training.optimizers.factory import build_optimizer
    from guild.training.optimizers.settings import optimizer_settings
    from guild.training.schedulers import build_scheduler
    from guild.training.schedules import schedule_of
    from guild.training.state_files import has_state, read_state
    from modelwright.loading import check_tokenizer, load_model, load_tokenizer, resolve_model

    hyper, place = config.hyperparams, config.model
    torch.manual_seed(hyper.seed)
    source = resolve_model(str(place.checkpoint) if place.checkpoint is not None else place.path)
    tokenizer = load_tokenizer(source)
    fresh = place.checkpoint is None  # a checkpoint's own config says how far its positions reach
    model = load_model(
        source,
        dtype="bfloat16" if hyper.precision == "bf16" else "float32",
        device="cpu",
        rope_parameters=place.rope_scaling if fresh else None,
        max_position_embeddings=place.context_length if fresh and place.rope_scaling else None,
    )
    ensure_chat_tokens(model, tokenizer)
    check_tokenizer(tokenizer, model.get_input_embeddings().num_embeddings)
    template = apply_template(tokenizer, get_profile(config.profile))
    model.config.use_cache = False
    model.to(place.device)
    optimizer, info = build_optimizer(model, optimizer_settings(hyper.optimizer, hyper.learning_rate))
    scheduler = build_scheduler(optimizer, schedule_of(hyper.lr_scheduler, hyper.warmup_steps, hyper.schedule_steps))
    session = ModelSession(model, tokenizer, marks_of(tokenizer), template, optimizer, info, scheduler, key=session_key(config))
    if place.checkpoint is not None:
        state = _trainer_state(place.checkpoint, place.start_step)
        session.checkpoint = place.checkpoint
        session.step = int(state["global_step"])
        _take_up(session, dict(state.get("guild") or {}), place.checkpoint, foreign=place.fresh_optimizer)
        former = state.get("guild", {}).get("optimizer", info.type)
        if not place.fresh_optimizer and former == info.type and has_state(place.checkpoint):
            session.random_states = read_state(place.checkpoint, optimizer, scheduler)
        else:
            session.note = "the optimizer begins anew"
            if not place.fresh_optimizer:
                why = f"{place.checkpoint.name} holds weights only" if former == info.type else f"it was {former} and is {info.type} now"
                session.note, session.unexpected = f"{session.note}: {why}", former == info.type
                scheduler.load_state_dict({"last_epoch": session.step})
    return session


def close_session(session: ModelSession) -> None:
    """Give the memory back."""
    import torch

    session.optimizer.state.clear()
    session.model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def save_session(
    session: ModelSession, store: CheckpointStore, name: str, metadata: Mapping[str, Any], told: Mapping[str, Any] | None = None
) -> Path:
    """Write a checkpoint of everything, whole or not at all, and return its folder. Raises DiskFullError, StorageError.

    told: further fields of `trainer_state.json`, from which the ledger can record a checkpoint whose trainer died before it did.
    """
    from guild.training.state_files import random_states, write_state

    def fill(folder: Path) -> None:
        session.model.save_pretrained(folder)
        session.tokenizer.save_pretrained(folder)
        write_state(folder, session.optimizer, session.scheduler, random_states())
        write_json(folder / TRAINER_STATE, {**(told or {}), **session.state()})

    saved = store.save(name, fill, step=session.step, metadata=dict(metadata))
    session.checkpoint = saved.path
    return saved.path


def _take_up(session: ModelSession, own: Mapping[str, Any], checkpoint: Path, *, foreign: bool) -> None:
    """What the checkpoint says of files; nothing when another program saved it. foreign: it is not this campaign's, so bare numbers in it
    say nothing. Raises DamagedFileError."""
    try:
        session.files = read_parts(own)
        session.former = {} if foreign else read_former(own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"what it says of files cannot be read ({type(error).__name__}: {error})"
        raise DamagedFileError(
            checkpoint / TRAINER_STATE, found, "what the trainer wrote", "Move this checkpoint away; the one before it is gone on from"
        ) from error


def _trainer_state(checkpoint: Path, start_step: int) -> dict[str, Any]:
    """`trainer_state.json`, or where weights alone were kept the step in the folder's name, or `start_step` when that holds none.

    Raises LoadError, DamagedFileError.
    """
    try:
        state = read_json(checkpoint / TRAINER_STATE)
    except MissingFileError:
        named = checkpoint_step(checkpoint.name)
        state = {"global_step": start_step if named is None else named}
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise LoadError(f"{checkpoint}: found no step in {TRAINER_STATE}; allowed: a whole number as its global_step.")
    return state

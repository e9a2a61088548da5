"""A campaign's model in memory: weights, tokenizer, optimizer and schedule, kept from file to file.

What a checkpoint says of files is part of it: `partial` counts the steps of unfinished files that its weights contain, `finished` names the
last files it contains whole. So a file is trained once, whatever died in between, and whichever file came first.
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
from modelwright.checkpoints import CheckpointStore
from modelwright.errors import LoadError, MissingFileError
from modelwright.files import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TRAINER_STATE = "trainer_state.json"
"""Hugging Face's name for it, with its `global_step`; ours stands under `guild`."""
FINISHED_KEPT = 200


@dataclass
class ModelSession:
    """step: optimizer steps of the campaign in these weights. checkpoint: the folder they were loaded from or last saved to; None when
    they are the base model's. random_states: to be set before the next step; None when they are the process's own."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    marks: ChatMarks
    template: TemplateChoice
    optimizer: Any
    optimizer_info: Any
    scheduler: Any
    step: int = 0
    checkpoint: Path | None = None
    partial: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    random_states: dict[str, Any] | None = None
    note: str = ""
    key: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this, beside tensors."""
        own = {
            "schema_version": 1,
            "optimizer": self.optimizer_info.type,
            "partial": dict(self.partial),
            "digests": {job: self.digests[job] for job in self.partial if job in self.digests},
            "finished": self.finished[-FINISHED_KEPT:],
        }
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
        state = _trainer_state(place.checkpoint)
        session.checkpoint = place.checkpoint
        session.step = int(state["global_step"])
        _take_up(session, dict(state.get("guild") or {}))
        same = not place.fresh_optimizer and state.get("guild", {}).get("optimizer", info.type) == info.type
        if same and has_state(place.checkpoint):
            session.random_states = read_state(place.checkpoint, optimizer, scheduler)
        else:
            session.note = "the optimizer begins anew"
            if not place.fresh_optimizer:
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


def save_session(session: ModelSession, store: CheckpointStore, name: str, metadata: Mapping[str, Any]) -> Path:
    """Write a checkpoint of everything, whole or not at all, and return its folder. Raises DiskFullError, StorageError."""
    from guild.training.state_files import random_states, write_state

    def fill(folder: Path) -> None:
        session.model.save_pretrained(folder)
        session.tokenizer.save_pretrained(folder)
        write_state(folder, session.optimizer, session.scheduler, random_states())
        write_json(folder / TRAINER_STATE, session.state())

    saved = store.save(name, fill, step=session.step, metadata=dict(metadata))
    session.checkpoint = saved.path
    return saved.path


def _take_up(session: ModelSession, own: Mapping[str, Any]) -> None:
    """What the checkpoint says of files; nothing when another program saved it."""
    session.partial = {str(job): int(done) for job, done in own.get("partial", {}).items()}
    session.digests = dict(own.get("digests", {}))
    session.finished = [str(job) for job in own.get("finished", [])]


def _trainer_state(checkpoint: Path) -> dict[str, Any]:
    """`trainer_state.json`, or the step in the folder's name where weights alone were kept. Raises LoadError, DamagedFileError."""
    try:
        state = read_json(checkpoint / TRAINER_STATE)
    except MissingFileError:
        state = {"global_step": checkpoint_step(checkpoint.name)}
    if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
        raise LoadError(f"{checkpoint}: found no step in {TRAINER_STATE} or in the folder's name; allowed: checkpoint-<step>.")
    return state

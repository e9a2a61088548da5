"""From a campaign's effective configuration to what the engine is told about one file: every field arrives. (specs/guild.md 2.1.5)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.config_schema import EffectiveConfig
from guild.errors import RefusedError
from guild.places import Places
from guild.queue.marks import Taken
from guild.records.checkpoint_marks import latest_resumable
from guild.skills.names import canonical
from guild.skills.registry import read_skill_file
from guild.training.interface import Data, Environment, Hyperparams, ModelSource, Monitoring, Output, TrainerConfig
from guild.training.status import STATUS_NAME
from guild.training.trained_files import job_key


class CheckpointsLostError(RefusedError):
    """A campaign that was trained has no whole checkpoint any more; beginning again at its start would be a silent loss."""


@dataclass(frozen=True)
class StartPoint:
    """What training goes on from. checkpoint: None at the beginning, with the base model. own: it is this campaign's. passed_over: a
    sentence for each newer checkpoint that is not whole."""

    checkpoint: Path | None
    own: bool
    passed_over: tuple[str, ...] = ()


def start_point(folder: CampaignFolder, effective: EffectiveConfig) -> StartPoint:
    """The newest whole checkpoint of the campaign, else the one that the campaign starts from or that the house holds for it
    (`guild.campaigns.start_model`), else none.

    Raises CheckpointsLostError when the campaign was trained and nothing of that is left.
    """
    newest = latest_resumable(folder.checkpoints)
    if newest.path is not None:
        return StartPoint(newest.path, True, newest.skipped)
    start = Path(effective.starting_checkpoint) if effective.starting_checkpoint else None
    campaign = folder.campaign
    held_for_it = start is not None and not campaign.starting_checkpoint
    if not held_for_it and (newest.skipped or campaign.current_step > campaign.starting_step):
        raise CheckpointsLostError(_lost(folder, start, newest.skipped))
    return StartPoint(start, False, newest.skipped)


def _lost(folder: CampaignFolder, start: Path | None, skipped: Sequence[str]) -> str:
    """What is known of a campaign whose checkpoints are gone or damaged, and what can be done."""
    campaign, name = folder.campaign, "/".join(folder.key)
    found = " ".join(skipped) or f"{folder.checkpoints} holds no checkpoint."
    again = "open another campaign" if campaign.current_step > campaign.starting_step else "move the damaged folders away"
    return (
        f"Campaign {name} is at step {campaign.current_step:,} and has no whole checkpoint to go on from. {found} Put one back: a copy of "
        f"the folder, or a snapshot as {folder.checkpoints}/checkpoint-<step>. To begin again at step {campaign.starting_step:,} from "
        f"{start or 'the base model'}, {again}."
    )


def trainer_config(
    places: Places,
    effective: EffectiveConfig,
    folder: CampaignFolder,
    taken: Taken,
    run: Path,
    *,
    prompt_date: str,
    schema: str,
    generator: str | None,
    start: StartPoint | None = None,
    former_per_step: int | None = None,
) -> TrainerConfig:
    """What `TrainerEngine.run_job` is told, of a configuration that `start_config` let pass.

    start: `start_point` when None. former_per_step: windows of an optimizer step when the file was first begun, as far as is known.
    """
    start = start or start_point(folder, effective)
    payload = taken.job.payload
    return TrainerConfig(
        data=Data(
            taken.path,
            schema=schema,
            generator=generator,
            skill=payload.get("skill"),
            level=payload.get("level"),
            validation_split=effective.validation_split,
            max_val=effective.max_val,
            masking=_masking(places, payload.get("skill")),
        ),
        model=ModelSource(
            effective.model_path, start.checkpoint, not start.own, effective.rope_scaling, effective.context_length, effective.device
        ),
        output=Output(folder.checkpoints, folder.status / STATUS_NAME, run),
        environment=Environment(
            effective.hero_id, effective.campaign_id, job_key(taken.job.id, taken.job.enqueued_at), prompt_date, former_per_step
        ),
        hyperparams=hyperparams_of(effective),
        monitoring=monitoring_of(effective),
        profile=effective.profile,
        locked=effective.locked,
    )


def hyperparams_of(effective: EffectiveConfig) -> Hyperparams:
    """How to train."""
    return Hyperparams(
        batch_size=effective.batch_size,
        gradient_accumulation=effective.gradient_accumulation,
        learning_rate=effective.learning_rate,
        warmup_steps=effective.warmup_steps,
        lr_scheduler=effective.lr_scheduler,
        schedule_steps=effective.schedule_steps,
        max_length=effective.max_length,
        max_grad_norm=effective.max_grad_norm,
        precision=effective.precision,
        gradient_checkpointing=effective.gradient_checkpointing,
        packing=effective.packing,
        save_steps=effective.save_steps,
        seed=effective.seed,
        optimizer=effective.optimizer_section,
        liger_kernel=effective.liger_kernel.model_dump(),
    )


def monitoring_of(effective: EffectiveConfig) -> Monitoring:
    """How often things are looked at."""
    return Monitoring(
        status_every=effective.status_every,
        preview_every=effective.preview_every,
        eval_steps=effective.eval_steps,
        micro_eval_every=effective.micro_eval_every,
    )


def _masking(places: Places, skill: str | None) -> tuple[float, float] | None:
    """What the skill's file says of masks; None when it says nothing."""
    path = places.skills / f"{canonical(skill)}.yaml" if skill else None
    masking = read_skill_file(path).get("masking") if path is not None and path.is_file() else None
    return (float(masking["lowest"]), float(masking["highest"])) if masking else None

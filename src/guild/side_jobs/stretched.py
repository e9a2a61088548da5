"""A stretched model as the start of a child campaign: base model and context length are locked within one. (specs/guild.md 2.3.2)"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from guild.campaigns.campaign import CampaignFolder
from guild.campaigns.lineage import open_child
from guild.campaigns.store import list_campaigns
from guild.errors import RefusedError
from guild.places import Places
from guild.records.jobs import Job
from guild.side_jobs.job_folder import JobFolder
from modelwright.checkpoint_folders import remove_tree
from modelwright.clock import Clock
from modelwright.errors import storage_error
from modelwright.files import fsync_directory, make_folder

MODEL, TOKENIZER = "model", "tokenizer"
"""Folders of the wizard's export: merged weights, tokenizer."""


def open_stretched_child(
    places: Places, parent: CampaignFolder, job: Job, folder: JobFolder, result: dict[str, Any], *, clock: Clock
) -> CampaignFolder:
    """The campaign that goes on from the merged model of a stretch; the one that was opened for this job before, if there is one.

    Raises RefusedError when the run exported no merged model, and what `open_child` raises.
    """
    step = parent.campaign.current_step
    start = folder.path / "start"
    known = next((path for path in sorted(start.glob("checkpoint-*"))), None)
    checkpoint = known or export_checkpoint(folder, start / f"checkpoint-{step}")
    for campaign in list_campaigns(places, parent.campaign.hero_id).campaigns:
        begun = campaign.campaign.starting_checkpoint
        if begun is not None and (places.base / begun) == checkpoint:
            return campaign
    reached = result["summary"].get("achieved_context")
    if not isinstance(reached, int):
        raise RefusedError(f"{folder.place}: the run does not say which context it reached, so no campaign can be opened for it.")
    return open_child(
        places,
        parent,
        job.payload.get("child_name") or f"{parent.campaign.name}, {reached} tokens",
        checkpoint,
        context_length=reached,
        max_length=job.payload.get("child_max_length"),
        note=f"Context stretched to {reached} tokens (job {job.id})",
        clock=clock,
    )


def export_checkpoint(folder: JobFolder, target: Path) -> Path:
    """The merged model and its tokenizer of a run as a checkpoint folder of their own, whole or not at all; files are linked where the
    file system can. Raises RefusedError, StorageError."""
    model, tokenizer = folder.place / MODEL, folder.place / TOKENIZER
    if not any(model.glob("*.safetensors")):
        raise RefusedError(f"{model} holds no merged weights; run the stretch with --merge to open a campaign from it.")
    staging = target.with_name(f".{target.name}.new")
    remove_tree(staging)
    make_folder(staging)
    try:
        for source in (tokenizer, model):  # the model's own files win
            for file in sorted(source.iterdir()) if source.is_dir() else ():
                if file.is_file():
                    (staging / file.name).unlink(missing_ok=True)
                    _link(file, staging / file.name)
        fsync_directory(staging)
        os.rename(staging, target)
        fsync_directory(target.parent)
    except OSError as error:
        raise storage_error(error, target, "make the checkpoint") from error
    return target


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

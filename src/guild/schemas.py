"""The artifacts of the guild that have a model, for the schema registry."""

from __future__ import annotations

from guild.campaigns.campaign import Campaign
from guild.campaigns.config_file import ConfigFile
from guild.campaigns.config_schema import EffectiveConfig
from guild.campaigns.heroes import Hero
from guild.control.models import ControlStateDocument
from guild.hosts.registry import RegistryDocument
from guild.queue.models import QueueMetadata
from guild.records.checkpoint_record import CheckpointRecord
from guild.records.data_sidecars import DataSidecar
from guild.records.evaluation_records import Evaluation, Passive
from modelwright.schema_registry import ArtifactSchema


def _of(name: str, model: object, file: str) -> ArtifactSchema:
    return ArtifactSchema(f"guild-{name}", 1, model, "guild", file)


SCHEMAS = (
    _of("campaign", Campaign, "campaigns/<hero>/<campaign>/campaign.json"),
    _of("config", ConfigFile, "config.json of a guild's house"),
    _of("effective-config", EffectiveConfig, "effective_config.json of a guild's run, under config"),
    _of("hero", Hero, "configs/heroes/<hero>.yaml"),
    _of("hosts", RegistryDocument, "config/hosts.json"),
    _of("checkpoint-record", CheckpointRecord, ".ledger.json of a checkpoint"),
    _of("data-sidecar", DataSidecar, "<data file>.meta.json"),
    _of("evaluation", Evaluation, "status/evaluation_ledger.json, under evaluations"),
    _of("control-state", ControlStateDocument, "control/state.json of a guild's house"),
    _of("queue-metadata", QueueMetadata, "queue/queue_metadata.json"),
    _of("passive", Passive, "status/passives_ledger.json, under passives"),
)

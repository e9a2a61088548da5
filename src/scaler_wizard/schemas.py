"""The artifacts of the scaler wizard that have a pydantic model, for the kernel's schema registry."""

from __future__ import annotations

from modelwright.schema_registry import ArtifactSchema
from scaler_wizard.job import JobDocument
from scaler_wizard.resolved import ResolvedDocument
from scaler_wizard.run_metadata import RunMetadata
from scaler_wizard.telegram import Telegram

OWNER = "scaler_wizard"

SCHEMAS: tuple[ArtifactSchema, ...] = (
    ArtifactSchema("scaler-job", 1, JobDocument, OWNER, "the file given with --config"),
    ArtifactSchema("scaler-config", 1, ResolvedDocument, OWNER, "config.resolved.yaml"),
    ArtifactSchema("scaler-run-metadata", 1, RunMetadata, OWNER, "run_metadata.json"),
    ArtifactSchema("scaler-telegram", 1, Telegram, OWNER, "telegram.json"),
)

"""Where each value of `config.resolved.yaml` came from: cli, job, adaptive, template or default.

A value that is worked out from another one has that one's origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scaler_wizard.resolved import ResolvedJob, settings_of

DERIVED = {
    "model.fingerprint": "model.base_model",
    "scaling.base_context": "model.base_model",
    "scaling.use_qlora": "scaling.strategy",
    "dataset.reference": "dataset.identifier",
    "dataset.fingerprint": "dataset.identifier",
    "distillation.skipped_because": "distillation.use_distillation",
    "safety.telemetry.log_every": "safety.telemetry.profile",
    "alerts.language": "voice.language",
    "alerts.persona": "voice.persona",
}


def origins_of(job: ResolvedJob, known: Mapping[str, str]) -> dict[str, str]:
    """The origin of every leaf of the job's settings; `known` are the origins of the typed settings by dotted path."""
    return {path: _origin(path, known) for path in leaves(settings_of(job)) if path != "schema_version"}


def _origin(path: str, known: Mapping[str, str]) -> str:
    source = DERIVED.get(path, path)
    if source == "scaling.context_schedule" and known.get(source) == "default":
        source = "scaling.growth"
    if source == "model.tokenizer" and known.get(source) == "default":
        source = "model.base_model"
    if source in known:
        return known[source]
    below = [origin for name, origin in known.items() if name.startswith(source + ".")]
    above = source.rsplit(".", 1)[0]
    return below[-1] if below else known.get(above, "default")


def leaves(document: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of all values of a nested document; lists and empty mappings are values."""
    found: list[str] = []
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            found += leaves(value, f"{prefix}{name}.")
        else:
            found.append(f"{prefix}{name}")
    return found

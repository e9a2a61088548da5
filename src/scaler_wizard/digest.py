"""The config digest: one SHA-256 over everything a human consents to.

Digested are all settings and the rungs. Left out are time stamps (there are none among the settings), host paths (output
directory, contract and key files; local models and datasets count by folder or file name plus content fingerprint), origins
(the same job by flag or by document is the same job), package versions, warnings and notes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

from scaler_wizard.resolved import ResolvedJob, plain, settings_of

CONFIG_FILE = "config.resolved.yaml"
PACKAGES = ("modelwright", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers")
EXCLUDED = ("paths", "origins", "versions", "warnings", "notes", "config_sha256")


def digested(job: ResolvedJob) -> dict[str, Any]:
    """The document whose canonical JSON is digested."""
    document = {**settings_of(job), "rungs": [plain(asdict(rung)) for rung in job.rungs]}
    model, dataset = document["model"], document["dataset"]
    if model["fingerprint"] is not None:
        own = model["tokenizer"] == model["base_model"]
        model["base_model"] = _name(model["base_model"])
        model["tokenizer"] = model["base_model"] if own else _name(model["tokenizer"])
    if dataset["source"] == "local_upload":
        path, question, query = dataset["reference"].removeprefix("local://").partition("?")
        dataset["reference"] = f"local://{_name(path)}{question}{query}"
        dataset["identifier"] = _name(dataset["identifier"])
    return document


def config_digest(job: ResolvedJob) -> str:
    """SHA-256 (hex) of the canonical JSON of `digested(job)`."""
    from modelwright.files import sha256_json

    return sha256_json(digested(job))


def write_config(job: ResolvedJob, directory: Path) -> Path:
    """Write `config.resolved.yaml` whole and return its path."""
    from modelwright.files import write_yaml

    path = directory / CONFIG_FILE
    write_yaml(path, job.document())
    return path


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a run depends on."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _name(path: str) -> str:
    """The last part of a path: what stays the same when the folder around it moves."""
    return PurePath(path.rstrip("/")).name or path

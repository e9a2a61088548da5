"""What step 1 has to know about the model and the data, from config.json and file names alone.

No weights are read. Fingerprints identify a local model or dataset whatever folder it lies in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelwright.data.references import DatasetReference, parse_reference
from modelwright.loading import ModelSource, check_causal_lm, read_config, resolve_model
from scaler_wizard.job import DatasetSection

SOURCE_OF_SCHEME = {"hf": "huggingface_hub", "local": "local_upload", "synthetic": "synthetic"}
SCHEME_OF_SOURCE = {source: scheme for scheme, source in SOURCE_OF_SCHEME.items()}
WEIGHT_SUFFIXES = (".safetensors", ".json")


def read_model(name: str, revision: str | None, offline: bool) -> tuple[ModelSource, dict[str, Any]]:
    """Where the model is, and its config.json. Raises LoadError when it is not there or is no causal language model."""
    source = resolve_model(name, revision=revision, offline=offline)
    config = read_config(source)
    check_causal_lm(config, name)
    return source, config


def base_context(config: Mapping[str, Any]) -> int:
    """The pretrained context L in tokens: the original one of a model that is already stretched.

    A model without RoPE has the length its config states; whether it can be expanded is the context method's question.
    """
    from modelwright.errors import UsageError
    from modelwright.model_shape import ModelShape
    from scaler_wizard.context_methods.settings import read_settings

    try:
        return read_settings(dict(config)).original_context
    except UsageError:
        return ModelShape.from_config(config).context


def model_fingerprint(source: ModelSource) -> str | None:
    """SHA-256 over config.json and the names and sizes of a local model's files; None for a hub model."""
    if source.path is None:
        return None
    from modelwright.files import sha256_file, sha256_json

    files = sorted(path for path in source.path.iterdir() if path.is_file() and path.suffix in WEIGHT_SUFFIXES)
    return sha256_json(
        {"config": sha256_file(source.path / "config.json"), "files": [[path.name, path.stat().st_size] for path in files]}
    )


def dataset_settings(uri: str) -> dict[str, Any]:
    """A dataset URI as the values of the job schema's dataset section. Raises UsageError for a URI outside the grammar."""
    reference = parse_reference(uri)
    identifier = reference.identifier
    if reference.revision:
        identifier += f"@{reference.revision}"
    if reference.config:
        identifier += f"/{reference.config}"
    values: dict[str, Any] = {"source": SOURCE_OF_SCHEME[reference.scheme], "identifier": identifier}
    _, _, query = uri.partition("?")
    given = {part.partition("=")[0] for part in query.split("&")}
    options = {name: str(getattr(reference, name)) for name in ("text_field", "n", "seed") if name in given}
    if reference.split is not None and "split" in given:
        values["split"] = reference.split
    if options:
        values["options"] = options
    return values


def dataset_uri(section: DatasetSection) -> str:
    """The URI that a dataset section stands for."""
    from urllib.parse import quote

    options = {**({"split": section.split} if section.split else {}), **section.options}
    query = "&".join(f"{name}={quote(str(value), safe='')}" for name, value in sorted(options.items()))
    return f"{SCHEME_OF_SOURCE[section.source]}://{section.identifier}" + (f"?{query}" if query else "")


def dataset_reference(section: DatasetSection) -> DatasetReference:
    """The parsed reference of a dataset section. Raises UsageError."""
    return parse_reference(dataset_uri(section))

"""What step 1 has to know about the model and the data, from config.json and file names alone.

No weights are read. Fingerprints identify a local model or dataset whatever folder it lies in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.data.references import DatasetReference, parse_reference
from modelwright.loading import HUB_ID, TINY_PREFIX, ModelSource, check_causal_lm, read_config, resolve_model, resolve_tokenizer
from modelwright.model_shape import ModelShape
from scaler_wizard.job import DatasetSection

if TYPE_CHECKING:
    from scaler_wizard.resolved import ResolvedJob

SOURCE_OF_SCHEME = {"hf": "huggingface_hub", "local": "local_upload", "synthetic": "synthetic"}
SCHEME_OF_SOURCE = {source: scheme for scheme, source in SOURCE_OF_SCHEME.items()}
WEIGHT_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True)
class ModelFacts:
    """What config.json says. `context` is the pretrained window L in tokens, None while only transformers could tell."""

    source: ModelSource
    config: dict[str, Any]
    shape: ModelShape
    context: int | None


def needs_hub(name: str) -> bool:
    """Whether a model name can only be judged by asking the hub or its cache."""
    return not name.startswith(TINY_PREFIX) and not Path(name).expanduser().exists() and HUB_ID.match(name) is not None


def model_facts(name: str, revision: str | None, offline: bool) -> ModelFacts:
    """Raises LoadError when the model is not there, is no causal language model, or its config.json cannot be understood."""
    source, config = read_model(name, revision, offline)
    return ModelFacts(source, config, ModelShape.from_config(config), plain_context(config))


def read_model(name: str, revision: str | None, offline: bool) -> tuple[ModelSource, dict[str, Any]]:
    """Where the model is, and its config.json. Raises LoadError when it is not there or is no causal language model."""
    source = resolve_model(name, revision=revision, offline=offline)
    config = read_config(source)
    check_causal_lm(config, name)
    return source, config


def plain_context(config: Mapping[str, Any]) -> int | None:
    """L of a model that was never stretched, read off at once; None where it takes `base_context`, which imports transformers."""
    length = config.get("max_position_embeddings")
    rope = [config.get(key) or {} for key in ("rope_parameters", "rope_scaling")]
    kinds = [part.get("rope_type") or part.get("type") or "default" if isinstance(part, Mapping) else "" for part in rope]
    nested = any(isinstance(value, Mapping) for part in rope if isinstance(part, Mapping) for value in part.values())
    plain = isinstance(length, int) and not isinstance(length, bool) and length > 0 and set(kinds) == {"default"}
    return length if plain and not nested and "context_extension" not in config else None


def base_context(config: Mapping[str, Any]) -> int:
    """The pretrained context L in tokens: the original one of a model that is already stretched.

    A model without RoPE has the length its config states; whether it can be expanded is the context method's question.
    """
    from modelwright.errors import UsageError
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
    return sha256_json({"config": sha256_file(source.path / "config.json"), "files": [[path.name, path.stat().st_size] for path in files]})


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


def tokenizer_source(job: ResolvedJob) -> ModelSource:
    """Where the job's tokenizer comes from. The revision is the base model's, so it says nothing about another repository's
    tokenizer.

    Raises LoadError.
    """
    revision = job.model.revision if job.model.tokenizer == job.model.base_model else None
    return resolve_tokenizer(job.model.tokenizer, revision=revision, offline=job.offline)

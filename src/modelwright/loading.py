"""Models and tokenizers by local path, hub id or `modelwright/tiny-*`, with a complete offline mode.

A name is first *resolved* (no weights, no network), its config is read as plain JSON, and only then are files fetched
and weights loaded. Everything is loaded from a local folder, so an offline run cannot reach the network by accident.
Only safetensors weights are accepted: `.bin` and `.pt` files are pickles, which can run code when they are opened.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelwright.errors import LoadError, UsageError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
TINY_PREFIX = "modelwright/tiny-"
DTYPES = ("float32", "bfloat16", "float16")
QUANTISATIONS = ("nf4", "int8")
_PICKLED_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt")
HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "vocab.txt", "merges.txt")
"""What is fetched of a hub repository; nothing else in it is ever read."""
# Model types whose plain `config.json` may lack `architectures`; with that key present, the key decides.
_CAUSAL_TYPES_TEXT = """
    bloom cohere cohere2 deepseek_v2 deepseek_v3 falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo
    gpt_neox gpt_oss gptj granite llama mistral mixtral mpt nemotron olmo olmo2 opt phi phi3 qwen2 qwen2_moe
    qwen3 qwen3_moe smollm3 stablelm starcoder2
"""
_CAUSAL_MODEL_TYPES = frozenset(_CAUSAL_TYPES_TEXT.split())
_CAUSAL_ARCHITECTURE = re.compile(r"(ForCausalLM|LMHeadModel)$")


TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from. `path` is its folder, or None for a hub model that has not been fetched yet."""

    name: str
    kind: Literal["local", "packaged", "hub"]
    path: Path | None = None
    revision: str | None = None
    offline: bool = False


def resolve_model(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> ModelSource:
    """Decide what `name_or_path` means; reads no weights and never touches the network.

    Order: `modelwright/tiny-*` (weights inside this package), an existing folder with `config.json`, a hub id.
    `offline` is also on when `HF_HUB_OFFLINE` is set. Raises LoadError when the name is none of these, or when
    offline and the hub id is not in the cache.
    """
    offline = offline or _hub_offline()
    if name_or_path.startswith(TINY_PREFIX):
        from modelwright.tiny import tiny_model_path

        return ModelSource(name_or_path, "packaged", Path(tiny_model_path(name_or_path)), None, offline)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise LoadError(
                f"The folder {name_or_path} has no config.json, so it is not a model; give a folder that plain transformers loads."
            )
        return ModelSource(name_or_path, "local", path, None, offline)
    if path.is_file():
        raise LoadError(f"{name_or_path} is a file; give the folder that holds config.json and the safetensors weights.")
    if not HUB_ID.match(name_or_path):
        raise LoadError(
            f"The model {name_or_path!r} is neither a folder with config.json nor a hub id; "
            "a hub id looks like owner/name, a packaged model like modelwright/tiny-1.5m."
        )
    source = ModelSource(name_or_path, "hub", None, revision, offline)
    if offline:
        _cached_config(source)
    return source


def resolve_tokenizer(name_or_path: str, *, revision: str | None = None, offline: bool = False) -> ModelSource:
    """The same for a tokenizer: a folder that holds nothing but a tokenizer will do."""
    path = Path(name_or_path).expanduser()
    if path.is_dir() and not (path / "config.json").is_file() and any((path / name).is_file() for name in TOKENIZER_FILES):
        return ModelSource(name_or_path, "local", path, None, offline or _hub_offline())
    return resolve_model(name_or_path, revision=revision, offline=offline)


def read_config(source: ModelSource) -> dict[str, Any]:
    """The model's `config.json` as a dict (JSON only: neither torch nor transformers is imported).

    For a hub model this fetches that one file, or reads it from the cache when offline. Raises LoadError.
    """
    path = source.path / "config.json" if source.path is not None else _hub_config(source)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LoadError(
            f"The config.json of {source.name} could not be read ({error}); fetch the model again or repair the file."
        ) from error
    if not isinstance(config, dict):
        raise LoadError(f"The config.json of {source.name} holds a {type(config).__name__}; an object is expected.")
    return config


def check_causal_lm(config: Mapping[str, Any], name: str = "the model") -> None:
    """Raise LoadError unless the config describes a decoder-only causal language model that transformers itself can
    build.
    """
    architectures = config.get("architectures") or []
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise LoadError(
            f"{name} is an encoder-decoder model ({model_type}); a causal language model is needed, for example a Llama or Qwen."
        )
    causal = any(_CAUSAL_ARCHITECTURE.search(entry) for entry in architectures) if architectures else model_type in _CAUSAL_MODEL_TYPES
    if not causal:
        found = ", ".join(architectures) or f"model type {model_type!r} without an architectures entry"
        raise LoadError(
            f"{name} is not a causal language model (found {found}); its config must name an architecture that ends in ForCausalLM."
        )


def materialise(source: ModelSource) -> Path:
    """The folder with config, tokenizer and weights of `source`; a hub model is fetched into the Hugging Face cache
    when
    it may be.

    Raises LoadError naming what is missing and, when offline, the command that fetches it.
    """
    if source.path is not None:
        return source.path
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(source.name, revision=source.revision, allow_patterns=list(HUB_FILES), local_files_only=source.offline)
        )
    except Exception as error:  # the hub client has no common base class for its network, cache and permission errors
        raise LoadError(_not_fetched(source, f"{type(error).__name__}: {_first_line(error)}")) from error
    missing = missing_weight_files(folder)
    if missing and source.offline:
        raise LoadError(_not_fetched(source, f"missing in the cache: {', '.join(missing)}"))
    return folder


def missing_weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files that a complete model folder needs and this one lacks; empty when it is
    complete.
    """
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() or not index.is_file():
        return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [shard for shard in shards if not (folder / shard).is_file()]


def load_tokenizer(source: ModelSource, *, trust_remote_code: str | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer of `source`. `trust_remote_code` must equal the source's name to allow the model's own code.
    Raises LoadError.
    """
    from transformers import AutoTokenizer

    folder = materialise(source)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=_trusts(source, trust_remote_code))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise LoadError(
            f"The tokenizer of {source.name} could not be loaded ({_first_line(error)}); "
            "the folder needs tokenizer.json or the vocabulary files of a known tokenizer."
        ) from error


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, embedding_rows: int) -> None:
    """Raise LoadError when the tokenizer can produce an id that has no row in the embedding (`embedding_rows` =
    vocabulary size).
    """
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= embedding_rows:
        raise LoadError(
            f"The tokenizer produces ids up to {highest} but the model has {embedding_rows} embedding rows; "
            "use the model's own tokenizer or pass --resize-embeddings."
        )


def load_model(
    source: ModelSource,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str = "sdpa",
    quantisation: str | None = None,
    rope_parameters: Mapping[str, Any] | None = None,
    max_position_embeddings: int | None = None,
    trust_remote_code: str | None = None,
) -> PreTrainedModel:
    """Load a causal LM in eval mode from safetensors.

    Arguments: `dtype` one of DTYPES; `quantisation` None, `nf4` (4-bit, double quantisation) or `int8`, both through
    bitsandbytes; `rope_parameters` replaces the config's RoPE settings, keeping its `rope_theta` unless the new ones
    name one (transformers 5 would lose it); `trust_remote_code` must equal the source's name. Raises LoadError for
    what cannot be loaded, UsageError for a wrong argument.
    """
    _allowed("dtype", dtype, DTYPES)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = materialise(source)
    check_causal_lm(read_config(source), source.name)
    _require_safetensors(folder, source.name)
    trusted = _trusts(source, trust_remote_code)
    config = _patched_config(folder, rope_parameters, max_position_embeddings, trusted, source.name)
    arguments: dict[str, Any] = {
        "config": config,
        "dtype": getattr(torch, dtype),
        "attn_implementation": attn_implementation,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": trusted,
    }
    if quantisation is not None:
        _allowed("quantisation", quantisation, QUANTISATIONS)
        arguments |= {"quantization_config": _bitsandbytes_config(quantisation), "device_map": device}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(folder, **arguments, output_loading_info=True)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise LoadError(f"The model {source.name} could not be loaded: {_first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):  # the library would fill them with random numbers and only warn
        raise LoadError(
            f"The weights of {source.name} lack {len(missing)} tensors that its config asks for (first: {missing[0]}); "
            "config.json and weights do not belong together, or the file is incomplete."
        )
    if quantisation is None:
        return model.to(device).eval()
    if device == "cpu":
        _switch_off_avx512bf16(model)
    return model.eval()


def count_parameters(config: Mapping[str, Any]) -> int:
    """Number of parameters of the model that `config` (a config.json dict) describes, tied tensors counted once.

    Built on torch's meta device: no memory is allocated and no weights are read. Raises LoadError for an unknown
    model type.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = {key: value for key, value in config.items() if key != "model_type"}
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.get("model_type", ""), **settings))
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(
            f"A model of type {config.get('model_type')!r} could not be built to count its parameters: {_first_line(error)}"
        ) from error
    return sum(parameter.numel() for parameter in model.parameters())


def _patched_config(folder: Path, rope: Mapping[str, Any] | None, length: int | None, trusted: bool, name: str) -> PretrainedConfig:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=trusted)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"The config of {name} is not one that transformers can build: {_first_line(error)}") from error
    if rope is not None:
        theta = (getattr(config, "rope_parameters", None) or {}).get("rope_theta")
        config.rope_parameters = {**({"rope_theta": theta} if theta is not None else {}), **rope}
    if length is not None:
        config.max_position_embeddings = int(length)
    return config


def _bitsandbytes_config(quantisation: str) -> Any:
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        raise LoadError(
            f"The quantisation {quantisation} needs the package bitsandbytes, which is not installed; install it or load unquantised."
        )
    import torch
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _switch_off_avx512bf16(model: torch.nn.Module) -> None:
    """Keep bitsandbytes off its AVX512-BF16 path on CPU: after an eval pass it silently stops gradients of most
    adapters.
    """
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - the attribute is not declared on the class


def _require_safetensors(folder: Path, name: str) -> None:
    missing = missing_weight_files(folder)
    if not missing:
        return
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLED_WEIGHTS)
    if pickled and missing == ["model.safetensors"]:
        raise LoadError(
            f"{name} has only pickled weights ({', '.join(pickled)}), which can run code when opened, so they are refused; "
            "convert them to safetensors where you trust them (save_pretrained writes safetensors) and give that folder."
        )
    raise LoadError(f"The folder of {name} lacks the safetensors weights {', '.join(missing)}; fetch or copy the model again.")


def _trusts(source: ModelSource, trust_remote_code: str | None) -> bool:
    if trust_remote_code is None:
        return False
    if trust_remote_code != source.name:
        raise UsageError(
            f"Remote code was allowed for {trust_remote_code!r} but the model is {source.name!r}; name exactly "
            "the model whose code may run."
        )
    return True


def _hub_offline() -> bool:
    return any(
        os.environ.get(variable, "").lower() in {"1", "true", "yes", "on"} for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _cached_config(source: ModelSource) -> Path:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.name, "config.json", revision=source.revision)
    if not isinstance(found, str):
        raise LoadError(_not_fetched(source, "its config.json is not in the Hugging Face cache"))
    return Path(found)


def _hub_config(source: ModelSource) -> Path:
    if source.offline:
        return _cached_config(source)
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source.name, "config.json", revision=source.revision))
    except Exception as error:  # as in `materialise`
        raise LoadError(_not_fetched(source, f"{type(error).__name__}: {_first_line(error)}")) from error


def _not_fetched(source: ModelSource, cause: str) -> str:
    revision = f" --revision {source.revision}" if source.revision else ""
    if source.name.startswith((".", "/", "~")):
        return f"The model {source.name} could not be loaded: there is no folder of that name with a config.json; check the path."
    mode = "offline mode is on" if source.offline else "the hub did not deliver it"
    return (
        f"The model {source.name} could not be loaded: {mode} and {cause.rstrip('.')}; "
        f"fetch it on a machine with a network by `hf download {source.name}{revision}`, or give a local folder."
    )


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _allowed(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}; allowed are {', '.join(allowed)}.")

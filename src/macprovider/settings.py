"""The settings of `serve`: flag before environment before YAML file before default, each with its origin. (spec 3.2)

Standard library at import: `--help` reads the table below; pydantic and YAML are imported when settings are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macprovider import places
from modelwright.errors import ConfigError, Fault, ModelwrightError

if TYPE_CHECKING:
    from macprovider.settings_model import ServeSettings


@dataclass(frozen=True)
class Setting:
    """One setting and its three names; "" where a source does not offer it. switch: the flag takes no value and sets this."""

    name: str
    flag: str
    variable: str
    key: str
    metavar: str
    help: str
    switch: bool | None = None


SETTINGS: tuple[Setting, ...] = (
    Setting("model", "--model", "MACPROVIDER_MODEL", "model", "ID", "folder, hub id or modelwright/tiny-* (required)"),
    Setting("port", "--port", "MACPROVIDER_PORT", "port", "N", "port of the HTTP surface; 0 takes a free one (8080)"),
    Setting("kv_bits", "--kv-bits", "MACPROVIDER_KV_BITS", "kv_bits", "{4,8}", "bits of the KV cache; unquantised when left out"),
    Setting(
        "max_context",
        "--max-context",
        "MACPROVIDER_MAX_CONTEXT_OVERRIDE",
        "max_context_override",
        "N",
        "tokens of prompt and answer of one request; by the machine's memory when left out",
    ),
    Setting(
        "max_batch", "--max-batch", "MACPROVIDER_MAX_CONCURRENCY_OVERRIDE", "max_concurrency_override", "N", "answers at the same time (1)"
    ),
    Setting("queue", "--queue", "MACPROVIDER_QUEUE", "queue", "N", "requests that may wait for a slot (2 x --max-batch)"),
    Setting(
        "engine",
        "--engine",
        "MACPROVIDER_ENGINE",
        "engine",
        "NAME",
        "auto (default), transformers, openvino, llamacpp, vllm or mlx; one that is not part of this installation says so",
    ),
    Setting("device", "--device", "MACPROVIDER_DEVICE", "device", "NAME", "auto (default), cpu, cuda, cuda:1 ..."),
    Setting(
        "dtype",
        "--dtype",
        "MACPROVIDER_DTYPE",
        "dtype",
        "NAME",
        "number format of the weights: auto (default), float32, bfloat16, float16, or q8_0 (openvino, llamacpp)",
    ),
    Setting("threads", "--threads", "MACPROVIDER_THREADS", "threads", "N", "processor threads; the engine's choice when left out"),
    Setting("repair", "--repair", "MACPROVIDER_REPAIR", "repair", "PATH", "a CacheMedic checkpoint that repairs the KV cache"),
    Setting(
        "prefix_reuse",
        "--no-prefix-reuse",
        "MACPROVIDER_PREFIX_REUSE",
        "prefix_reuse",
        "",
        "compute every prompt from its first token, never from an earlier request's cache",
        switch=False,
    ),
    Setting("host", "--host", "MACPROVIDER_HOST", "host", "ADDRESS", "address to listen on (127.0.0.1); any other needs keys"),
    Setting(
        "allowed_hosts",
        "--allowed-hosts",
        "MACPROVIDER_ALLOWED_HOSTS",
        "allowed_hosts",
        "CSV",
        "further names that clients may call this server by",
    ),
    Setting("no_join", "--no-join", "", "", "", "open no coordinator session, even when a URL is configured", switch=True),
    Setting(
        "coordinator_url",
        "--coordinator",
        "MACPROVIDER_COORDINATOR_URL",
        "coordinator_url",
        "URL",
        "ws:// or wss:// address of the pool; standalone when left out",
    ),
    Setting(
        "provider_id", "--provider-id", "MACPROVIDER_PROVIDER_ID", "provider_id", "ID", "name in the pool; a new UUID for each process"
    ),
    Setting(
        "endpoint_url",
        "--endpoint-url",
        "MACPROVIDER_ENDPOINT_URL",
        "endpoint_url",
        "URL",
        "address at which the pool reaches this server; through the session when left out",
    ),
    Setting(
        "token_file",
        "--token-file",
        "",
        "",
        "PATH",
        "file with the provider token, mode 0600; or MACPROVIDER_PROVIDER_TOKEN, provider_token",
    ),
    Setting("provider_token", "", "MACPROVIDER_PROVIDER_TOKEN", "provider_token", "", "the provider token"),
    Setting("log_level", "--log-level", "MACPROVIDER_LOG_LEVEL", "", "NAME", "debug, info (default), warning or error"),
    Setting("log_format", "", "MACPROVIDER_LOG_FORMAT", "log_format", "", "json (default) or text"),
    Setting("log_file", "", "MACPROVIDER_LOG_FILE", "log_file", "", "file for the log instead of stderr"),
    Setting("drain_timeout_s", "", "MACPROVIDER_DRAIN_TIMEOUT_S", "drain_timeout_s", "", "seconds for running answers after SIGTERM (30)"),
    Setting("warmup_enabled", "", "MACPROVIDER_WARMUP_ENABLED", "warmup_enabled", "", "compute a few answers before serving (true)"),
    Setting(
        "max_request_body_bytes",
        "",
        "MACPROVIDER_MAX_REQUEST_BODY_BYTES",
        "max_request_body_bytes",
        "",
        "largest request body (10485760)",
    ),
)
"""Every setting, in the order of `--help`."""

BY_NAME: Mapping[str, Setting] = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Loaded:
    """Settings that were checked. origins: setting → "flag", "environment", "file" or "default". config: the file that was
    read, None when there was none."""

    settings: ServeSettings
    origins: Mapping[str, str]
    config: Path | None = None

    def readout(self) -> dict[str, dict[str, Any]]:
        """`{name: {"value", "origin"}}` for people and programs; the token appears as stars."""
        values = self.settings.model_dump(mode="json")
        return {name: {"value": value, "origin": self.origins[name]} for name, value in values.items()}


def load_settings(flags: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Merge and check all sources.

    Args:
        flags: setting name → value, only those that were given.
        config: value of `--config`. Without it `MACPROVIDER_CONFIG`, then `~/.config/macprovider/config.yaml`.
        environ: the environment; a variable that is set but empty counts as unset.

    Raises:
        ConfigError: every fault of every source at once: a wrong value, a configuration file that was named and is missing
            or is no YAML mapping, a token file that others may read.
    """
    from macprovider.settings_model import ServeSettings
    from modelwright.config import Layer, resolve

    env = os.environ if environ is None else environ
    faults: list[Fault] = []
    path, file_values = _file_values(config, env, faults)
    layers: list[Layer] = [Layer(f"file {path}", {name: value}) for name, value in file_values.items()]
    for setting in SETTINGS:
        text = env.get(setting.variable, "").strip() if setting.variable else ""
        if text:
            layers.append(Layer(f"environment {setting.variable}", {setting.name: _listed(setting.name, text)}))
    for name, value in flags.items():
        layers.append(Layer(f"flag {BY_NAME[name].flag}", {name: _listed(name, value)}))
    token = _token_of(flags.get("token_file"), faults)
    if token:
        layers.append(Layer("flag --token-file", {"provider_token": token}))
    try:
        resolved = resolve(ServeSettings, layers)
    except ConfigError as error:
        faults.extend(error.faults)
    if faults:
        raise ConfigError(faults)
    origins = {name: resolved.origins.get(name, "default").partition(" ")[0] for name in ServeSettings.model_fields}
    return Loaded(resolved.value, origins, path)


def _file_values(config: str | None, env: Mapping[str, str], faults: list[Fault]) -> tuple[Path | None, dict[str, Any]]:
    """The known keys of the YAML file under their setting names; keys that no setting has are ignored."""
    from modelwright.files import read_bytes, read_yaml

    named = (config or env.get(places.CONFIG_VARIABLE, "")).strip()
    path = Path(named).expanduser().absolute() if named else places.config_folder() / "config.yaml"
    source = "--config" if config else places.CONFIG_VARIABLE if named else str(path)
    if not path.is_file():
        if named:
            faults.append(Fault(source, f"{path}, which is not a file", "an existing YAML file", "Create it, or leave the setting out"))
        return None, {}
    try:
        # an empty file is how `autotune` keeps an operator's settings out of a candidate
        document = read_yaml(path) if read_bytes(path).strip() else None
    except ModelwrightError as error:
        faults.append(Fault(source, f"a file that cannot be read ({str(error).rstrip('.')})", "a YAML mapping"))
        return path, {}
    if document is None:
        return path, {}
    if not isinstance(document, dict):
        faults.append(Fault(source, f"a {type(document).__name__} in {path}", "a YAML mapping from keys to values"))
        return path, {}
    known = {setting.key: setting.name for setting in SETTINGS if setting.key}
    values = {known[key]: value for key, value in document.items() if key in known and value is not None}
    return path, {name: _listed(name, value) for name, value in values.items()}


def _listed(name: str, value: Any) -> Any:
    """The one list among the settings may be written as comma-separated text; a token is text, so that no fault ever shows it."""
    if name == "provider_token":
        return str(value)
    if name == "allowed_hosts" and isinstance(value, str):
        return [cell.strip() for cell in value.split(",") if cell.strip()]
    return value


def _token_of(named: Any, faults: list[Fault]) -> str:
    """The token in the file that `--token-file` names; its text never appears in a fault."""
    if not named:
        return ""
    path = Path(str(named)).expanduser()
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(Fault("--token-file", f"{path}, which cannot be read ({error})", "a text file that holds the token"))
        return ""
    if mode & 0o077:
        faults.append(Fault("--token-file", f"{path} with mode {mode:04o}", "mode 0600", f"Run: chmod 600 {path}"))
    if not text:
        faults.append(Fault("--token-file", f"nothing in {path}", "the provider token"))
    return text

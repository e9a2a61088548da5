"""Where each setting comes from, who wins, and that every fault is told at once. (spec 3.2)"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from macprovider.engines import choice
from macprovider.serve_cli import parser
from macprovider.settings import SETTINGS, Loaded, load_settings
from macprovider.settings_model import ServeSettings
from modelwright.errors import ConfigError

SAMPLES: dict[str, tuple[str, Any]] = {
    "port": ("9000", 9000),
    "model": ("a/b", "a/b"),
    "kv_bits": ("8", 8),
    "max_context": ("4000", 4000),
    "max_batch": ("3", 3),
    "coordinator_url": ("wss://pool.example/ws", "wss://pool.example/ws"),
    "provider_id": ("me", "me"),
    "endpoint_url": ("http://10.0.0.5:8080", "http://10.0.0.5:8080"),
    "log_level": ("debug", "debug"),
    "log_format": ("text", "text"),
    "log_file": ("/var/log/x", Path("/var/log/x")),
    "drain_timeout_s": ("12.5", 12.5),
    "warmup_enabled": ("false", False),
    "max_request_body_bytes": ("1000", 1000),
    "queue": ("0", 0),
    "engine": ("transformers", "transformers"),
    "device": ("cuda:1", "cuda:1"),
    "dtype": ("bfloat16", "bfloat16"),
    "threads": ("2", 2),
    "repair": ("/x/y", Path("/x/y")),
    "prefix_reuse": ("false", False),
    "host": ("::1", "::1"),
    "allowed_hosts": ("a, b:80", ("a", "b:80")),
}
NAMED_IN_THE_SPEC = {
    ("--port", "MACPROVIDER_PORT", "port"),
    ("--model", "MACPROVIDER_MODEL", "model"),
    ("--kv-bits", "MACPROVIDER_KV_BITS", "kv_bits"),
    ("--max-context", "MACPROVIDER_MAX_CONTEXT_OVERRIDE", "max_context_override"),
    ("--max-batch", "MACPROVIDER_MAX_CONCURRENCY_OVERRIDE", "max_concurrency_override"),
    ("--no-join", "", ""),
    ("--coordinator", "MACPROVIDER_COORDINATOR_URL", "coordinator_url"),
    ("--provider-id", "MACPROVIDER_PROVIDER_ID", "provider_id"),
    ("--endpoint-url", "MACPROVIDER_ENDPOINT_URL", "endpoint_url"),
    ("--log-level", "MACPROVIDER_LOG_LEVEL", ""),
    ("", "MACPROVIDER_LOG_FORMAT", "log_format"),
    ("", "MACPROVIDER_LOG_FILE", "log_file"),
    ("", "MACPROVIDER_DRAIN_TIMEOUT_S", "drain_timeout_s"),
    ("", "MACPROVIDER_WARMUP_ENABLED", "warmup_enabled"),
    ("", "MACPROVIDER_MAX_REQUEST_BODY_BYTES", "max_request_body_bytes"),
}


@pytest.fixture(autouse=True)
def no_config_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def load(flags: dict[str, Any] | None = None, environ: dict[str, str] | None = None, config: Path | None = None) -> Loaded:
    return load_settings({"model": "m", **(flags or {})}, config=str(config) if config else None, environ=environ or {})


def test_the_three_names_of_every_setting_are_those_of_the_contract() -> None:
    assert {(s.flag, s.variable, s.key) for s in SETTINGS} >= NAMED_IN_THE_SPEC


def test_defaults_are_those_of_the_contract() -> None:
    settings = load().settings
    assert (settings.port, settings.max_batch, settings.kv_bits, settings.max_context, settings.host) == (8080, 1, None, None, "127.0.0.1")
    assert (settings.log_level, settings.log_format, settings.drain_timeout_s, settings.warmup_enabled) == ("info", "json", 30, True)
    assert settings.max_request_body_bytes == 10 * 2**20 and settings.queue_depth == 2 and not settings.no_join
    assert set(load().origins.values()) == {"flag", "default"}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_setting_is_read_from_each_of_its_sources(tmp_path: Path, name: str) -> None:
    text, value = SAMPLES[name]
    setting = next(setting for setting in SETTINGS if setting.name == name)
    sources: dict[str, Loaded] = {"environment": load_settings({}, environ={"MACPROVIDER_MODEL": "m", setting.variable: text})}
    if setting.flag and setting.switch is None:
        arguments = vars(parser().parse_args(["--model", "m", setting.flag, text]))
        sources["flag"] = load_settings(arguments, environ={})
    if setting.key:
        config = tmp_path / "c.yaml"
        config.write_text(f"model: m\n{setting.key}: '{text}'\n")
        sources["file"] = load_settings({}, config=str(config), environ={})
    for origin, loaded in sources.items():
        assert getattr(loaded.settings, name) == value and loaded.origins[name] == origin


def test_flag_wins_over_environment_over_file_over_default(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("port: 1001\nmax_concurrency_override: 4\nkv_bits: 4\nunknown_key: [1, 2]\n")
    environ = {"MACPROVIDER_PORT": "1002", "MACPROVIDER_MAX_CONCURRENCY_OVERRIDE": "5"}
    loaded = load({"port": "1003"}, environ, config)
    assert (loaded.settings.port, loaded.settings.max_batch, loaded.settings.kv_bits) == (1003, 5, 4)
    assert [loaded.origins[name] for name in ("port", "max_batch", "kv_bits", "host")] == ["flag", "environment", "file", "default"]
    assert loaded.config == config and loaded.settings.queue_depth == 10


def test_switches_set_what_their_name_says() -> None:
    arguments = vars(parser().parse_args(["--no-join", "--no-prefix-reuse"]))
    loaded = load(arguments)
    assert loaded.settings.no_join is True and loaded.settings.prefix_reuse is False


def test_an_empty_variable_counts_as_unset_and_null_in_the_file_too(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("kv_bits: null\nport: 77\n")
    assert load({}, {"MACPROVIDER_KV_BITS": "", "MACPROVIDER_PORT": " "}, config).settings.port == 77


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_an_empty_file_is_a_file_without_settings(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    assert load({}, {}, config).settings.port == 8080


def test_a_named_file_must_exist_and_the_default_one_need_not(tmp_path: Path) -> None:
    assert load().config is None
    for named in ({"config": tmp_path / "no.yaml"}, {"environ": {"MACPROVIDER_CONFIG": str(tmp_path / "no.yaml")}}):
        with pytest.raises(ConfigError, match=r"no\.yaml, which is not a file"):
            load(**named)  # type: ignore[arg-type]


def test_the_default_file_is_read_below_home(tmp_path: Path) -> None:
    (tmp_path / ".config/macprovider").mkdir(parents=True)
    (tmp_path / ".config/macprovider/config.yaml").write_text("port: 8123\n")
    assert load().settings.port == 8123


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n", "port: [\n", "\x00\x01"])
def test_a_file_that_is_no_mapping_is_a_fault(tmp_path: Path, text: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(ConfigError, match="YAML mapping"):
        load({}, {}, config)


def test_every_fault_of_every_source_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("max_concurrency_override: none\nlog_format: xml\n")
    environ = {"MACPROVIDER_DRAIN_TIMEOUT_S": "-1", "MACPROVIDER_COORDINATOR_URL": "http://x"}
    with pytest.raises(ConfigError) as error:
        load_settings({"port": "70000", "kv_bits": "5", "engine": "magic"}, config=str(config), environ=environ)
    found = {fault.path for fault in error.value.faults}
    assert found == {"port", "kv_bits", "engine", "max_batch", "log_format", "drain_timeout_s", "coordinator_url", "model"}
    assert "MACPROVIDER_DRAIN_TIMEOUT_S" in str(error.value) and "flag --port" in str(error.value)


@pytest.mark.parametrize("value", ["5", "16", "0", "four", "8.0", True])
def test_kv_bits_is_four_or_eight(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"kv_bits.*4, 8"):
        load({"kv_bits": value})


def test_a_token_file_is_read_only_when_it_is_private(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("top-secret\n")
    token.chmod(0o600)
    loaded = load({"token_file": str(token)}, {"MACPROVIDER_PROVIDER_TOKEN": "other"})
    assert loaded.settings.provider_token is not None and loaded.settings.provider_token.get_secret_value() == "top-secret"
    assert "top-secret" not in repr(loaded) and "top-secret" not in str(loaded.readout())
    token.chmod(0o644)
    with pytest.raises(ConfigError, match="0600") as error:
        load({"token_file": str(token)})
    assert "top-secret" not in str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load({"token_file": str(tmp_path / "none")})


def test_a_token_is_no_flag_and_never_shown_in_a_fault(tmp_path: Path) -> None:
    assert not any(setting.flag for setting in SETTINGS if setting.name == "provider_token")
    config = tmp_path / "c.yaml"
    config.write_text("provider_token: 123456\nport: x\n")
    with pytest.raises(ConfigError) as error:
        load({}, {}, config)
    assert "123456" not in str(error.value)


def test_engine_names_are_those_that_engines_have() -> None:
    literal = get_args(ServeSettings.model_fields["engine"].annotation)
    assert literal == choice.NAMES


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("127.3.2.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("gpu.lan", False),
        ("10.0.0.5", False),
    ],
)
def test_only_this_machines_own_addresses_need_no_keys(host: str, loopback: bool) -> None:
    assert load({"host": host}).settings.on_loopback is loopback


@pytest.mark.parametrize(
    "url", ["ws://name:secret@pool.example/ws", "ws://pool.example:99999/ws", "ws://[::1/ws", "http://pool.example/ws", "wss://"]
)
def test_a_coordinators_url_names_a_host_and_no_secret(url: str) -> None:
    """`/v1/engine` shows it to everybody who may ask; what cannot be connected to is said before the model is loaded."""
    with pytest.raises(ConfigError, match=r"^coordinator_url: .*allowed: a URL"):
        load({"coordinator_url": url})

"""The settings of `serve` as a checked model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator

MEBIBYTE = 1 << 20


def _number_of_text(value: Any) -> Any:
    """`"8"` as 8: flags and variables are text, and a choice among numbers compares exactly."""
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else value


def _lower(value: Any) -> Any:
    text = value.strip().lower() if isinstance(value, str) else value
    return "warning" if text == "warn" else text


def _url(value: str | None, schemes: tuple[str, ...]) -> str | None:
    from urllib.parse import urlsplit

    if value is None:
        return None
    try:
        parts = urlsplit(value)
        right = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an end, a port beyond 65535
        right = False
    if not right:
        raise ValueError(f"a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)} and names a host")
    if parts.username is not None or parts.password is not None:  # settings are shown to everybody who may ask
        raise ValueError("a URL without a user name or a password; the provider token is what proves who this is")
    return value


class ServeSettings(BaseModel):
    """What one `serve` process was asked for. Tokens are counted in `max_context`, answers in `max_batch`, requests in `queue`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str = Field(min_length=1)
    port: int = Field(8080, ge=0, le=65535)
    kv_bits: Annotated[Literal[4, 8] | None, BeforeValidator(_number_of_text)] = None
    max_context: int | None = Field(None, ge=1)
    max_batch: int = Field(1, ge=1)
    queue: int | None = Field(None, ge=0)
    engine: Annotated[Literal["auto", "transformers", "openvino", "llamacpp", "vllm", "mlx"], BeforeValidator(_lower)] = "auto"
    device: str = Field("auto", min_length=1)
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16", "q8_0"], BeforeValidator(_lower)] = "auto"
    threads: int | None = Field(None, ge=1)
    repair: Path | None = None
    prefix_reuse: bool = True
    host: str = Field("127.0.0.1", min_length=1)
    allowed_hosts: tuple[str, ...] = ()
    no_join: bool = False
    coordinator_url: str | None = None
    provider_id: str | None = Field(None, min_length=1)
    endpoint_url: str | None = None
    token_file: Path | None = None
    provider_token: SecretStr | None = None
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    log_format: Annotated[Literal["json", "text"], BeforeValidator(_lower)] = "json"
    log_file: Path | None = None
    drain_timeout_s: float = Field(30.0, ge=0)
    warmup_enabled: bool = True
    max_request_body_bytes: int = Field(10 * MEBIBYTE, ge=1)

    @field_validator("coordinator_url")
    @classmethod
    def _coordinator(cls, value: str | None) -> str | None:
        return _url(value, ("ws", "wss"))

    @field_validator("endpoint_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return _url(value, ("http", "https"))

    @property
    def queue_depth(self) -> int:
        """Requests that may wait: as asked, else two for each slot."""
        return 2 * self.max_batch if self.queue is None else self.queue

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        from ipaddress import ip_address

        if self.host.lower() == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

"""The hosts registry, `config/hosts.json` version 3: the only legal source of addresses. (specs/guild.md 2.1.10, 4.4)

A missing file, an empty `hosts`, an unknown host or service: each is an error, and no address is ever built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from guild.errors import RefusedError, UnknownHostError, UnknownServiceError
from guild.places import Places
from modelwright.config import Layer, resolve
from modelwright.errors import ConfigError, DamagedFileError, Fault, MissingFileError
from modelwright.files import read_json

VERSION = 3
Role = Literal["trainer", "inference", "storage", "controller", "hybrid"]
ROLES: tuple[Role, ...] = get_args(Role)
ServiceType = Literal["http", "process", "tcp"]
Port = Annotated[int, Field(ge=1, le=65535)]

_TRAINER_SERVICES = ("training", "ledger", "vault")
_INFERENCE_SERVICES = ("inference",)
_MODEL = ConfigDict(frozen=True, extra="allow")  # a registry written by a newer version stays readable


class Service(BaseModel):
    """One service of a host.

    port: None for a process that listens nowhere. path: prefix of its routes. health: route that answers 200 when it is well.
    pid_file: below the host's `base_dir` when relative. critical: without it the host counts as offline.
    """

    model_config = _MODEL

    port: Port | None = None
    path: str = ""
    protocol: str = "http"
    auth_required: bool = False
    health: str = "/health"
    type: ServiceType = "http"
    pid_file: str = ""
    name: str = ""
    critical: bool = False


class Host(BaseModel):
    """One machine. host: its address or name on the network. devices: torch device by role, `trainer` and `inference` (`4090` and
    `3090` in the names of the original). config_overrides: training settings of this machine, above a campaign's."""

    model_config = _MODEL

    name: str = ""
    host: Annotated[str, Field(min_length=1)]
    role: Role
    ssh_user: str = ""
    base_dir: str = ""
    models_dir: str = ""
    checkpoints_dir: str = ""
    capabilities: tuple[str, ...] = ()
    devices: dict[str, str] = Field(default_factory=dict)
    config_overrides: dict[str, Any] = Field(default_factory=dict)
    services: dict[str, Service] = Field(default_factory=dict)

    def url(self, service: str) -> str:
        """Protocol, address, port and path of one of its services. Raises UnknownServiceError, or RefusedError for one without a port."""
        found = self.services.get(service)
        if found is None:
            raise UnknownServiceError(service, sorted(self.services), where=f"host {self.name or self.host}")
        if found.port is None:
            raise RefusedError(f"service: {service} of host {self.name or self.host} has no port, so it has no address. Give it a port.")
        address = f"[{self.host}]" if ":" in self.host else self.host
        path = found.path if not found.path or found.path.startswith("/") else f"/{found.path}"
        return f"{found.protocol}://{address}:{found.port}{path.rstrip('/')}"


class RegistryDocument(BaseModel):
    """What `config/hosts.json` holds."""

    model_config = _MODEL

    version: Literal[3]
    schema_version: int = 1
    warden_port: Port = 8760
    local_host: str
    default_trainer: str = ""
    default_inference: str = ""
    hosts: dict[str, Host]


class HostRegistry:
    """Lookups over one registry document. `source` is the file, for messages."""

    def __init__(self, document: RegistryDocument, source: Path) -> None:
        self.document, self.source = document, source

    def list_hosts(self) -> tuple[str, ...]:
        """Ids of all hosts, in the file's order."""
        return tuple(self.document.hosts)

    def list_by_role(self, role: Role) -> tuple[str, ...]:
        """Ids of the hosts of a role; a hybrid host is trainer and inference too."""
        also = ("hybrid",) if role in ("trainer", "inference") else ()
        return tuple(id for id, host in self.document.hosts.items() if host.role in (role, *also))

    def get_host(self, id: str) -> Host:
        """Raises UnknownHostError."""
        try:
            return self.document.hosts[id]
        except KeyError:
            raise UnknownHostError(id, self.list_hosts(), where=str(self.source)) from None

    @property
    def local_id(self) -> str:
        """Id of this machine."""
        return self.document.local_host

    def get_local_host(self) -> Host:
        """This machine."""
        return self.get_host(self.local_id)

    def is_local(self, id: str) -> bool:
        """Whether a host is this machine. Raises UnknownHostError."""
        self.get_host(id)
        return id == self.local_id

    def get_trainer(self) -> Host:
        """The host that trains. Raises RefusedError when the registry names none."""
        return self.get_host(self._default("trainer"))

    def get_inference(self) -> Host:
        """The host that serves checkpoints. Raises RefusedError when the registry names none."""
        return self.get_host(self._default("inference"))

    def get_host_base_dir(self, id: str) -> str:
        """The base directory on that host (a path over there). Raises UnknownHostError, or RefusedError when it is not given."""
        folder = self.get_host(id).base_dir
        if not folder:
            raise RefusedError(f"hosts.{id}.base_dir: found nothing; allowed: the base directory on that host. Set it in {self.source}.")
        return folder

    def host_of_service(self, service: str) -> str:
        """Id of the host that a service is looked up on: this machine if it has it; else the default trainer for training, ledger and
        vault, the default inference host for inference; else the first that lists it. Raises UnknownServiceError."""
        order = [self.local_id]
        order += [self.document.default_trainer] if service in _TRAINER_SERVICES else []
        order += [self.document.default_inference] if service in _INFERENCE_SERVICES else []
        for id in (*order, *self.document.hosts):
            host = self.document.hosts.get(id)
            if host is not None and service in host.services:
                return id
        raise UnknownServiceError(service, self.services, where=str(self.source))

    def get_service_url(self, service: str, host_id: str | None = None) -> str:
        """Base address of a service, on `host_id` or on `host_of_service`. Raises UnknownServiceError or UnknownHostError."""
        return self.get_host(host_id if host_id is not None else self.host_of_service(service)).url(service)

    def device(self, role: Literal["trainer", "inference"]) -> str:
        """Torch device of a role on the host that has it (`cuda:0`, `cpu`). Raises RefusedError when it is not stated."""
        id = self._default(role)
        device = self.get_host(id).devices.get(role, "")
        if not device:
            raise RefusedError(
                f"hosts.{id}.devices.{role}: found nothing; allowed: a torch device such as cuda:0 or cpu. Set it in {self.source}."
            )
        return device

    @property
    def one_gpu(self) -> bool:
        """Whether trainer and inference role of this machine have the same GPU, so that they take turns on it."""
        devices = self.get_local_host().devices
        return same_gpu(devices.get("trainer", ""), devices.get("inference", ""))

    @cached_property
    def services(self) -> tuple[str, ...]:
        """Every service that some host lists."""
        return tuple(sorted({service for host in self.document.hosts.values() for service in host.services}))

    def _default(self, role: Literal["trainer", "inference"]) -> str:
        id = self.document.default_trainer if role == "trainer" else self.document.default_inference
        if not id:
            raise RefusedError(
                f"default_{role}: found nothing in {self.source}; allowed: {', '.join(self.list_hosts())}. Set it to a host."
            )
        return id


def same_gpu(one: str, other: str) -> bool:
    """Whether two torch devices are one GPU; never for the processor, which all use at once."""
    plain = [device if ":" in device else f"{device}:0" for device in (one, other)]
    return one.startswith("cuda") and plain[0] == plain[1]


def load_registry(places: Places) -> HostRegistry:
    """The registry of an installation.

    Raises MissingFileError when there is none, DamagedFileError, or ConfigError with every fault: no hosts, an id that names no host,
    wrong fields.
    """
    path = places.hosts
    if not path.is_file():
        raise MissingFileError(f"There is no hosts registry at {path}; no address is built in. Write one by `guild init`.", path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise DamagedFileError(path, f"found a {type(content).__name__}", "an object with version, local_host and hosts")
    return HostRegistry(registry_document(content, str(path)), path)


def registry_document(content: Mapping[str, Any], source: str) -> RegistryDocument:
    """The checked document of a JSON object. Raises ConfigError with every fault."""
    faults: list[Fault] = []
    hosts = content.get("hosts")
    if isinstance(hosts, Mapping):
        if not hosts:
            faults.append(Fault("hosts", "no host", "at least one host", f"write a registry by `guild init`, or correct {source}"))
        for key in ("local_host", "default_trainer", "default_inference"):
            named = content.get(key)
            if isinstance(named, str) and (named or key == "local_host") and named not in hosts:
                faults.append(Fault(key, repr(named), ", ".join(map(str, hosts)) or "the id of a host"))
    try:
        document = resolve(RegistryDocument, [Layer(source, content)]).value
    except ConfigError as error:
        raise ConfigError([*error.faults, *faults]) from error
    if faults:
        raise ConfigError(faults)
    return document

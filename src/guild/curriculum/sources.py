"""Where a skill's problems come from: its server over HTTP, or the skill in this process. (specs/guild.md 2.4, G15)

The address of a server is the registry's service `skill_<id>`, else `api.url` of the skill file. `api.url: local` means: in this process,
for machines without servers. A server is asked for data alone and is never a reason to use something else in its place.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from guild.curriculum.settings import LOCAL, SkillSettings
from guild.errors import RefusedError
from guild.hosts.addresses import skill_service
from guild.hosts.registry import load_registry
from guild.places import Places
from guild.skills.contract import Skill
from guild.skills.names import canonical
from guild.skills.registry import make_skill
from modelwright.errors import ModelwrightError

HEALTH_TIMEOUT_S = 3.0
GENERATE_TIMEOUT_S = 60.0
"""Without a byte from the server."""
LONGEST_ANSWER = 2 * 1024**3
MOST_PER_REQUEST = 100_000
MOST_DETAIL = 300


class SkillApiError(ModelwrightError):
    """A skill server that does not answer, or answers what it should not."""


@dataclass(frozen=True)
class SourceInfo:
    """What a source says of itself. generator: id and version, as lineage knows them. address: for people."""

    skill: str
    generator_id: str
    generator_version: str
    max_level: int
    address: str


@dataclass(frozen=True)
class Batch:
    """Problems of one level as the skill API gives them, and what it says of the level."""

    samples: Sequence[Mapping[str, Any]]
    level_info: Mapping[str, Any]


class SkillSource(Protocol):
    """One skill's problems."""

    address: str

    def info(self) -> SourceInfo:
        """What is there; also the health check. Raises SkillApiError."""
        ...

    def generate(self, level: int, count: int, seed: int) -> Batch:
        """`count` training samples. Raises SkillApiError."""
        ...

    def levels(self) -> dict[int, str]:
        """Level → its name. Raises SkillApiError."""
        ...


def source_of(places: Places, skill: SkillSettings) -> SkillSource:
    """The source of a skill's problems. Raises RefusedError when neither registry nor skill file says where, and what `load_registry`
    raises: only a skill in this process needs no registry."""
    if skill.url == LOCAL:
        if not skill.target:
            raise RefusedError(f"configs/skills/{skill.id}.yaml api.url: found {LOCAL!r} for a skill without a class. Name its class.")
        return LocalSource(skill.id, make_skill(skill.target, skill.options, skill.id))
    address = _registered(places, skill.id) or skill.url
    if not address:
        raise RefusedError(
            f"skill {skill.id}: found no address; allowed: a service {skill_service(skill.id)} in {places.hosts}, or api.url in its file "
            f"({LOCAL!r} to use it without a server)."
        )
    return HttpSource(skill.id, address.rstrip("/"))


@dataclass
class LocalSource:
    """The skill in this process. id: as its file names it."""

    id: str
    skill: Skill
    address: str = "in this process"

    def info(self) -> SourceInfo:
        skill = self.skill
        return SourceInfo(self.id, skill.generator_id, skill.version, skill.max_level, self.address)

    def generate(self, level: int, count: int, seed: int) -> Batch:
        return Batch([sample.as_dict() for sample in self.skill.generate(level, count, seed)], self.skill.level_info(level))

    def levels(self) -> dict[int, str]:
        return {level: str(self.skill.level_info(level).get("name", "")) for level in range(1, self.skill.max_level + 1)}


@dataclass
class HttpSource:
    """A skill server. address: its base address."""

    skill: str
    address: str

    def info(self) -> SourceInfo:
        health = self._ask("/health", None, HEALTH_TIMEOUT_S)
        if health.get("status") != "ok":
            raise SkillApiError(f"The skill server at {self.address} is not well: its status is {str(health.get('status'))[:80]!r}.")
        info = self._ask("/info", None, HEALTH_TIMEOUT_S)
        found = canonical(str(info.get("id", "")))
        if found != self.skill:
            raise SkillApiError(
                f"{self.address}: found the server of the skill {found!r}; allowed: that of {self.skill!r}. Give each its own port."
            )
        last, version = info.get("max_level"), info.get("generator_version") or info.get("version")
        if not isinstance(last, int) or last < 1 or not version:
            raise SkillApiError(f"{self.address}/info: found no max_level and version; allowed: both. Update the skill server.")
        name = str(info.get("generator_id") or self.skill)
        return SourceInfo(self.skill, name, str(version), last, self.address)

    def generate(self, level: int, count: int, seed: int) -> Batch:
        answer = self._ask("/generate", {"level": level, "count": count, "seed": seed}, GENERATE_TIMEOUT_S)
        samples = answer.get("samples", answer.get("puzzles"))
        if not isinstance(samples, list) or len(samples) != count or not all(isinstance(one, dict) for one in samples):
            found = f"{len(samples)} samples" if isinstance(samples, list) else "no samples"
            raise SkillApiError(f"{self.address}/generate: found {found}; allowed: the {count} that were asked for.")
        info = answer.get("level_info")
        return Batch(samples, info if isinstance(info, dict) else {})

    def levels(self) -> dict[int, str]:
        found = self._ask("/levels", None, HEALTH_TIMEOUT_S).get("levels")
        rows = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        return {int(one["level"]): str(one.get("name", "")) for one in rows if isinstance(one.get("level"), int)}

    def _ask(self, route: str, body: Mapping[str, Any] | None, timeout: float) -> dict[str, Any]:
        url = self.address + route
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # an address of the registry is reached directly
        try:
            request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"} if data else {})
            with opener.open(request, timeout=timeout) as answer:
                raw = answer.read(LONGEST_ANSWER)
        except urllib.error.HTTPError as error:
            detail = error.read(MOST_DETAIL).decode(errors="replace")
            raise SkillApiError(f"{url} answered {error.code}: {detail}") from error
        except (OSError, ValueError) as error:  # URLError is an OSError; ValueError: an address that is none
            why = getattr(error, "reason", error)
            raise SkillApiError(
                f"{url} does not answer ({why}). Start its server: python -m guild.skill_server {self.skill}; or set api.url to {LOCAL!r}."
            ) from error
        return _object(url, raw)


def _object(url: str, raw: bytes) -> dict[str, Any]:
    import orjson

    try:
        content = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise SkillApiError(f"{url}: found an answer that is no JSON ({error}); allowed: a JSON object.") from error
    if not isinstance(content, dict):
        raise SkillApiError(f"{url}: found a {type(content).__name__}; allowed: a JSON object.")
    return content


def _registered(places: Places, skill: str) -> str:
    """The registry's address of a skill's server; "" when it lists none. Raises what `load_registry` raises."""
    registry = load_registry(places)
    service = skill_service(skill)
    return registry.get_service_url(service) if service in registry.services else ""

"""What a validator says of a file. (specs/guild.md 5.2, 4.6)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Validator:
    """A validator as lineage knows it: its name and its version."""

    name: str
    version: str


SPEC_VALIDATOR = Validator("spec_validator", "1.0.0")
DATA_VALIDATOR = Validator("data_validator", "1.1.0")


@dataclass(frozen=True)
class Generator:
    """Who made the data, as far as it says so itself; None for what it does not say."""

    id: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class ValidationReport:
    """The result that lineage records.

    valid: no error was found; only a valid file may be trained on. errors, warnings: one sentence each. stats: counts and lengths, by
    name (docs/guild.md lists them). generator_id, generator_version: None when the data does not name its maker.
    """

    valid: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    stats: Mapping[str, Any] = field(default_factory=dict)
    validator_name: str = DATA_VALIDATOR.name
    validator_version: str = DATA_VALIDATOR.version
    generator_id: str | None = None
    generator_version: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {**asdict(self), "errors": list(self.errors), "warnings": list(self.warnings), "stats": dict(self.stats)}


def make_report(
    validator: Validator,
    generator: Generator,
    errors: Iterable[str],
    warnings: Iterable[str] = (),
    stats: Mapping[str, Any] | None = None,
) -> ValidationReport:
    """A report that is valid when it has no error."""
    found = tuple(errors)
    return ValidationReport(
        not found, found, tuple(warnings), dict(stats or {}), validator.name, validator.version, generator.id, generator.version
    )

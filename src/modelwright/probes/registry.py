"""Probes by name: the built-in ones and those that installed packages offer as entry points. A broken one is reported,
never fatal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from modelwright.errors import UsageError
from modelwright.probes.passkey import Passkey
from modelwright.probes.protocol import Probe

_MEMBERS = ("name", "metric", "higher_is_better", "min_length", "build", "score", "aggregate")


@dataclass(frozen=True)
class ProbeRegistry:
    """Probes by name, and one sentence for every offered probe that could not be used."""

    probes: Mapping[str, Probe]
    problems: tuple[str, ...] = field(default=())

    def get(self, name: str) -> Probe:
        """The probe called `name`. Raises UsageError with the names there are and what went wrong with others."""
        if name not in self.probes:
            notes = f" ({'; '.join(self.problems)})" if self.problems else ""
            raise UsageError(f"The probe {name!r} is unknown; there are {', '.join(sorted(self.probes))}{notes}.")
        return self.probes[name]


def built_in_probes() -> dict[str, Probe]:
    """The probes of the kernel."""
    return {probe.name: probe for probe in (Passkey(),)}


def find_probes(group: str | None = None) -> ProbeRegistry:
    """The built-in probes and those of the entry-point `group` (a room names its own, for example
    `scaler_wizard.probes`).

    An entry point names a class without arguments, or an instance. Loading one imports its package: whoever runs
    probes decides which names may be loaded. A built-in name cannot be taken.
    """
    probes = built_in_probes()
    problems: list[str] = []
    for entry in entry_points(group=group) if group else ():
        try:
            probe = load_probe(entry)
        except Exception as error:  # noqa: BLE001 - foreign code may raise anything on import; it is reported, and the others still load
            problems.append(f"The probe {entry.name!r} from {entry.value} is left out: {type(error).__name__}: {error}")
            continue
        if probe.name in probes:
            problems.append(f"The probe {entry.name!r} from {entry.value} is left out: the name {probe.name!r} is taken")
            continue
        probes[probe.name] = probe
    return ProbeRegistry(probes, tuple(problems))


def load_probe(entry: EntryPoint) -> Probe:
    """Load one entry point and check that it satisfies the protocol. Raises TypeError naming the members it lacks."""
    found = entry.load()
    probe = found() if isinstance(found, type) else found
    missing = [member for member in _MEMBERS if not hasattr(probe, member)]
    if missing:
        raise TypeError(f"it lacks {', '.join(missing)}")
    return probe  # type: ignore[no-any-return]  # checked above

"""What the parts of one run share: options, database, time, the outside world, and where words go."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from macprovider import places
from macprovider.autotune.measuring.prompts import Sizing
from macprovider.autotune.measuring.quality import Quality, Spoken
from macprovider.autotune.options import Options
from macprovider.autotune.plan import Knobs
from macprovider.autotune.records.database import TuningDatabase
from macprovider.autotune.records.machine import Machine
from macprovider.autotune.watch import Watch
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.home import ensure_folder

EMPTY_CONFIG = "empty-config.yaml"


def serve_argv(model: str, knobs: Knobs, port: int, config: Path, engine: str) -> list[str]:
    """The command of a candidate. It never joins a pool, and its settings file is empty."""
    return [
        sys.executable, "-m", "macprovider.cli", "serve", "--model", model, "--no-join", "--port", str(port), "--config", str(config),
        "--engine", engine, *knobs.as_flags(),
    ]  # fmt: skip


def pull_argv(model: str) -> list[str]:
    """The command that fetches weights."""
    return [sys.executable, "-m", "macprovider.cli", "models", "pull", model]


def _conflicts(port: int) -> Sequence[Any]:
    from macprovider.autotune.live.conflicts import find_conflicts

    return find_conflicts(port)


@dataclass(frozen=True)
class World:
    """The outside, as a run meets it; what stands here is what users get. Tests drive scripted children through it.

    serve: (model, knobs, port, empty config, engine) → command of a candidate. pull: model → command that fetches it.
    conflicts: port → what is in the way.
    """

    serve: Callable[[str, Knobs, int, Path, str], list[str]] = serve_argv
    pull: Callable[[str], list[str]] = pull_argv
    conflicts: Callable[[int], Sequence[Any]] = _conflicts
    clock: Clock = SYSTEM_CLOCK


@dataclass
class Session:
    """One run while it lives. sizings: model → how long its prompts must be. reference: model → what it answers with an unquantised
    cache; qualities: (model, kv_bits, repair) → the verdict on a setting (both for the quality gate).
    """

    run_id: str
    options: Options
    machine: Machine
    database: TuningDatabase
    watch: Watch
    world: World
    ram_gb: float | None
    sizings: dict[str, Sizing] = field(default_factory=dict)
    reference: dict[str, list[Spoken]] = field(default_factory=dict)
    qualities: dict[tuple[str, int | None, str | None], Quality] = field(default_factory=dict)
    open_trial: int | None = None
    started_children: int = 0

    def say(self, text: str) -> None:
        """A line for the person in front of the terminal."""
        with contextlib.suppress(OSError):  # the terminal may be gone: that is no reason to stop badly
            print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """A line for `--verbose`."""
        if self.options.verbose:
            self.say(text)

    def log_folder(self) -> Path:
        """Where this run's candidates write."""
        return ensure_folder(places.logs_folder() / self.run_id)

    def log_for(self, stage: int, model: str) -> Path:
        """A log file that no other child of this run writes."""
        self.started_children += 1
        name = "".join(c if c.isalnum() or c in "-." else "_" for c in model.rpartition("/")[2])[:80]
        return self.log_folder() / f"{self.started_children:03d}-stage{stage}-{name}.log"

    def empty_config(self) -> Path:
        """A settings file with nothing in it, so that the operator's own cannot reach a candidate."""
        path = self.log_folder() / EMPTY_CONFIG
        path.write_bytes(b"")
        return path

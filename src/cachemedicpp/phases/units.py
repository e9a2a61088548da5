"""What eval and stability share: a phase that measures unit by unit and keeps its progress in one file. (specs/medic.md, 8.1-8.6)

    def main(argv=None):
        return unit_command("eval", "Evaluate …", "evaluate an untrained operator …", evaluate, argv)

    def evaluate(asked: Asked) -> int:
        return run_units(asked, lambda phase: _Evaluation(phase, asked).run(), PROGRESS, RESULT_FILES)

A unit counts once the progress file has it. A pause or a kill costs at most the unit at hand. The metrics file is written
last, so where it stands beside whole progress nothing is left to do. Imports no torch, and little else before the flags are
read, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cachemedicpp.phases.arguments import phase_parser, resume_words
from modelwright.errors import DamagedFileError
from modelwright.files import encode_line, read_json, write_bytes, write_json

if TYPE_CHECKING:
    from cachemedicpp.config.sections import RunConfig
    from cachemedicpp.phases.running import EndReason, PhaseRun, Work

UnitPhase = Literal["eval", "stability"]


# ---------------------------------------------------------------------- the command


@dataclass(frozen=True)
class Asked:
    """What the user asked for. words: the flags as typed, for the record. heartbeat_every: in finished units."""

    config: RunConfig
    config_path: str | Path
    run_dir: str | Path
    words: Sequence[str] = ()
    resume: bool = True
    heartbeat_every: int = 1
    allow_untrained: bool = False


def unit_command(
    name: UnitPhase, description: str, untrained: str, measure: Callable[[Asked], int], argv: Sequence[str] | None = None
) -> int:
    """Read the flags (`argv`, or those of the process) and the configuration, and run `measure`; returns the exit status.

    description, untrained: what `--help` says of the command and of `--allow_untrained`. 0 completed or nothing left to do,
    3 paused, 1 failure, 2 bad flags or configuration.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = phase_parser(name, description, "a heartbeat every N finished units (default: 1)")
    parser.add_argument("--allow_untrained", action="store_true", help=untrained)
    flags = parser.parse_args(words)
    from cachemedicpp.phases.running import guarded

    def start() -> int:
        from cachemedicpp.config.settings import load_run_config

        config = load_run_config(flags.config)
        return measure(Asked(config, flags.config, flags.run_dir, words, flags.resume, flags.heartbeat_every or 1, flags.allow_untrained))

    return guarded(start)


def run_units(asked: Asked, work: Work, progress: ProgressFile, results: Sequence[str]) -> int:
    """Run `work` as the phase of `progress` in the run directory that was asked for; returns the exit status.

    results: the files that one measurement leaves, which `--no-resume` moves away; progress first.
    """
    from cachemedicpp.config.settings import check_same_config
    from cachemedicpp.phases.running import PAUSE_ACKS, run_phase

    name, folder = progress.phase, Path(asked.run_dir).absolute()

    def same_progress() -> None:
        held = progress.read(folder)
        if held is not None:
            check_same_config(asked.config, held["config_hash"], Path(progress.path).name)

    again = resume_words(name, str(asked.config_path), str(asked.run_dir))
    return run_phase(
        name,
        work,
        config=asked.config,
        config_path=asked.config_path,
        run_dir=folder,
        command=[sys.executable, "-m", f"cachemedicpp.{name}", *asked.words],
        resume_command=[*again, "--allow_untrained"] if asked.allow_untrained else again,
        resume=asked.resume,
        owned=(*results, f"logs/{name}_heartbeat.json*", f"control/{PAUSE_ACKS[name]}"),
        before_opening=same_progress,
    )


# ---------------------------------------------------------------------- the progress file


@dataclass(frozen=True)
class ProgressFile:
    """The file that holds the finished units of a phase and is replaced whole after each of them.

    what: it is, in words. own: its keys beside those that every progress file has.
    """

    phase: UnitPhase
    what: str
    own: tuple[str, ...]

    @property
    def path(self) -> str:
        """Within the run directory."""
        return f"metrics/{self.phase}_progress.json"

    def read(self, folder: Path) -> dict[str, Any] | None:
        """What the file holds; None when there is none. Raises DamagedFileError."""
        path = folder / self.path
        if not path.exists():
            return None
        document = read_json(path)
        needed = ("config_hash", *self.own, "created_utc", "elapsed_wall_sec", "total_units")
        missing = [name for name in needed if not isinstance(document, dict) or name not in document]
        if missing:
            raise DamagedFileError(path, f"it lacks {', '.join(missing)}", self.what, "Start anew with --no-resume")
        return dict(document)


# ---------------------------------------------------------------------- one session


class UnitSession:
    """One session of such a phase: what it writes around its units, and when it pauses.

    total: units of the phase. kept: gives `completed_units`, `created_utc` and the file's own keys as they are now.
    resumed_from: the file that earlier units came from, within the run; to be set before `run`.
    """

    def __init__(self, phase: PhaseRun, asked: Asked, file: ProgressFile, total: int, kept: Callable[[], Mapping[str, Any]]) -> None:
        self.phase, self.folder, self.every = phase, phase.folder, asked.heartbeat_every
        self.file, self.total, self._kept = file, total, kept
        self.resumed_from: str | None = None

    def run(self, done: int, elapsed: float, metrics: str, measure: Callable[[], Mapping[str, Any]]) -> EndReason:
        """Measure what is missing and write the file `metrics`, last of all; nothing when it stands and all units are done.

        done, elapsed: units and wall seconds of earlier sessions. measure: measures, writes the log, gives the metrics file.
        """
        restored = None if self.resumed_from is None else self.folder / self.resumed_from
        self.phase.begin(total=self.total, step=done, resumed_from=restored, elapsed_before=elapsed, current_unit=None)
        if done == self.total and (self.folder / metrics).exists():
            return "already_completed"
        document = measure()
        self.save("completed", "completed")
        write_json(self.folder / metrics, document)
        return "completed"

    def set_aside(self, files: Iterable[str], why: str | None = None) -> None:
        """Move results that no longer stand to the archive; where there were any, `why` is said."""
        from cachemedicpp.phases.layout import archive

        if archive(self.folder, files, clock=self.phase.clock) is not None and why is not None:
            print(f"{why}; they were moved to archive/.", flush=True)

    def finish_unit(self, step: int, reason: str, unit: Mapping[str, Any]) -> None:
        """Write the progress with the unit just finished, number `step`, and a heartbeat where one is due."""
        self.phase.step = step
        self.save("running", reason, durable=False)
        if step % self.every == 0 or step == self.total:
            self.phase.beat(step, reason, current_unit=unit)

    def pause_if_asked(self) -> None:
        """Leave the phase, its progress saved, when somebody asked for a pause."""
        self.phase.pause_if_asked(lambda reason: self.save("paused", reason))

    def save(self, status: str, reason: str, *, durable: bool = True) -> Path:
        """Replace the progress file whole.

        durable: also against a power cut, which may otherwise cost the last units; a killed process costs none either way.
        """
        document = {
            "phase": self.file.phase,
            "run_id": self.phase.run_id,
            "config_hash": self.phase.config_hash,
            "status": status,
            "reason": reason,
            "updated_utc": self.phase.now(),
            "elapsed_wall_sec": self.phase.elapsed(),
            "resumed_from": self.resumed_from,
            "total_units": self.total,
            **self._kept(),
        }
        path = self.folder / self.file.path
        write_json(path, document, durable=durable)
        return path

    # --- what the results say

    def metrics(self, metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
        """The four keys of a metrics file."""
        return {"run_id": self.phase.run_id, "config_hash": self.phase.config_hash, "metrics": metrics, "settings": settings}

    def named(self, checkpoint: Path | None, identity: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """A checkpoint as a metrics file names it: where it lies in the run and its identity (step and SHA-256)."""
        return None if checkpoint is None else {"file": self.phase.relative(checkpoint), **(identity or {})}

    def write_log(self, name: str, lines: Iterable[dict[str, Any]]) -> None:
        """Write the log `name` whole, so that a session that died here leaves no line twice."""
        write_bytes(self.folder / name, b"".join(map(encode_line, lines)))

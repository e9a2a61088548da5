"""What `watch` knows of a run and how it says it: reading without trust, then rows of text. (specs/medic.md, 8.9)

Whatever stands in the files, nothing here raises for it: a value of another type than expected counts as not known. Needs
neither torch nor pydantic; rich only for a terminal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.clock import parse_stamp
from modelwright.heartbeat import read_snapshot
from modelwright.identity import ProcessIdentity, liveness

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

PHASES = ("train", "eval", "stability", "sweep")
ENDED = ("completed", "paused", "failed")
STALE = "stale"
STALE_S, STALE_POLLS = 120.0, 10.0
"""A heartbeat of a run that goes on is stale after the longer of 120 s and ten polls. [C32]"""
UNKNOWN = "n/a"
EPOCH = datetime.fromtimestamp(0, UTC)
_SHORT_NAMES = {"latest_repair_checkpoint": "repair", "latest_train_state": "state", "pause_request": "pause by file", "steps/s": "speed"}
_COLOURS = {"running": "cyan", "resumed": "cyan", "completed": "green", "paused": "yellow", "failed": "red", STALE: "magenta"}

Row = tuple[str, str]


@dataclass(frozen=True)
class Sight:
    """What was seen of a run at one moment.

    beat: the newest heartbeat. others: the newest of the other phases, oldest first. inner: in a sweep, the heartbeat of
    the phase at hand. status: as the heartbeat says, or `stale`. dead: its process is known to have ended without a last
    word. age: seconds since the heartbeat. problems: one sentence per damaged file.
    """

    folder: Path
    beat: Mapping[str, Any]
    others: tuple[Mapping[str, Any], ...]
    inner: Mapping[str, Any] | None
    status: str
    dead: bool
    age: float
    problems: tuple[str, ...]

    @property
    def key(self) -> tuple[Any, ...]:
        """What a follower prints anew for."""
        return (self.status, self.dead, *_key(self.beat), *(_key(self.inner) if self.inner else ()))


def look(folder: Path, now: datetime, poll_s: float) -> tuple[Sight | None, tuple[str, ...]]:
    """The newest heartbeat below `folder/logs`, or None; and what was damaged.

    The snapshot of a phase counts before its timeline. Newest `timestamp_utc` wins, then the larger step; a time that
    cannot be read counts as the epoch.
    """
    found: list[Mapping[str, Any]] = []
    problems: list[str] = []
    for phase in PHASES:
        beat, problem = read_snapshot(folder / "logs" / f"{phase}_heartbeat.json")
        problems += [problem] if problem else []
        if beat is not None:
            found.append({**beat, "phase": phase})
    if not found:
        return None, tuple(problems)
    *others, newest = sorted(found, key=lambda beat: (_moment(beat), _number(beat.get("step")) or 0.0))
    age, said = (now - _moment(newest)).total_seconds(), _text(newest.get("status"))
    goes_on = said not in ENDED
    stale = goes_on and age > max(STALE_S, STALE_POLLS * poll_s)
    inner = _inner(folder, newest) if goes_on else None
    dead = goes_on and _writer_is_dead(newest)
    return Sight(folder, newest, tuple(others), inner, STALE if stale else said, dead, age, tuple(problems)), tuple(problems)


# ---------------------------------------------------------------------- rows


def rows(sight: Sight) -> list[list[Row]]:
    """The view as lines of names and values; what is not known reads n/a."""
    beat = sight.beat
    request = sight.folder / "control" / "pause.request"
    lines: list[list[Row]] = [
        [
            ("run", _text(beat.get("run_id"))),
            ("phase", _text(beat.get("phase"))),
            ("status", sight.status),
            ("updated", _text(beat.get("timestamp_utc"))),
        ],
        progress(beat),
        [
            ("steps/s", _figure(beat.get("steps_per_sec"), "{:.3f}")),
            ("tokens/s", _figure(beat.get("tokens_per_sec"), "{:.1f}")),
            ("gpu_mem_gb", _figure(beat.get("gpu_mem_gb"), "{:.2f}")),
            ("loss", _figure(beat.get("loss_total"), "{:.5f}")),
        ],
        [("reason", _text(beat.get("reason")))],
        [("latest_repair_checkpoint", _text(beat.get("latest_repair_checkpoint")))],
        [("latest_train_state", _text(beat.get("latest_train_state")))],
        [("resumed_from", _text(beat.get("resumed_from")))],
        [("pause_request", _clean(str(request)) + (" (asked for)" if request.exists() else ""))],
        [("current_unit", unit(beat.get("current_unit")))],
    ]
    if sight.inner is not None:
        lines.append([("in_run", _text(sight.inner.get("run_id"))), ("phase", _text(sight.inner.get("phase"))), *progress(sight.inner)])
    lines += [[(f"earlier {_text(other.get('phase'))}", _short(other))] for other in reversed(sight.others)]
    if beat.get("error"):
        lines.append([("error", _text(beat.get("error")))])
    lines += [[("note", sentence)] for sentence in _notes(sight)]
    return lines + [[("problem", _clean(sentence))] for sentence in sight.problems]


def progress(beat: Mapping[str, Any]) -> list[Row]:
    """`step=a/b (p%)`, what remains, and times."""
    step, total = (_whole(beat.get(name)) for name in ("step", "total_steps"))
    share = _figure(beat.get("progress"), "{:.1%}")
    return [
        ("step", f"{step}/{total} ({share})"),
        ("remaining", _whole(beat.get("steps_remaining"))),
        ("eta", duration(beat.get("eta_sec"))),
        ("elapsed", duration(beat.get("elapsed_wall_sec"))),
    ]


def duration(seconds: Any) -> str:
    """`1h02m03s`, `2m03s`, `3s`; n/a for what is no number."""
    value = _number(seconds)
    if value is None:
        return UNKNOWN
    whole = max(0, round(value))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m{rest:02d}s"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def unit(value: Any) -> str:
    """A unit of an evaluation by its key, another one by its fields."""
    if not isinstance(value, Mapping):
        return _text(value)
    if "unit_key" in value:
        return _text(value["unit_key"])
    known = [f"{_clean(str(name))} {_text(inner)}" for name, inner in value.items() if inner is not None]
    return ", ".join(known) or UNKNOWN


def plain(sight: Sight) -> str:
    """The view as `name=value` lines, for pipes and files."""
    return "\n".join(" ".join(f"{name.replace(' ', '_')}={value}" for name, value in line) for line in rows(sight))


def screen(sight: Sight) -> RenderableType:
    """The view as a panel with a progress bar, for a terminal."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head, (step, *times), *rest = rows(sight)
    colour = _COLOURS.get(sight.status, "white")
    values = dict(head)
    title = Text.assemble((values["run"], "bold"), f"  {values['phase']}  ", (sight.status, f"bold {colour}"))
    share = _number(sight.beat.get("progress")) or 0.0
    bar = Table.grid(padding=(0, 1))
    bar.add_row(ProgressBar(total=1.0, completed=min(1.0, max(0.0, share)), width=40, complete_style=colour), Text(step[1]))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for line in ([("updated", values["updated"])], times, *rest):
        name = line[0][0]
        table.add_row(Text(_SHORT_NAMES.get(name, name.replace("_", " "))), _joined(line))
    return Panel(Group(bar, Text(""), table), title=title, title_align="left", border_style=colour, expand=False)


def _joined(line: list[Row]) -> Text:
    from rich.text import Text

    text = Text(f"{line[0][1]} steps/s" if line[0][0] == "steps/s" else line[0][1])
    for name, value in line[1:]:
        text.append(f"   {name} ", "dim").append(value)
    return text


# ---------------------------------------------------------------------- steps


def _notes(sight: Sight) -> list[str]:
    """What the heartbeat itself cannot say."""
    said = _text(sight.beat.get("status"))
    notes = []
    if sight.status == STALE:
        notes.append(f"The heartbeat says {said} and is {duration(sight.age)} old.")
    if sight.dead:
        notes.append("Its process has ended without a last word; start the same command again to go on.")
    return notes


def _inner(folder: Path, beat: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """In a sweep, the heartbeat of the run and phase that it works on."""
    at = beat.get("current_unit")
    if beat["phase"] != "sweep" or not isinstance(at, Mapping):
        return None
    run, phase = at.get("run"), at.get("phase")
    if not isinstance(run, str) or phase not in PHASES or Path(run).name != run:
        return None
    inner, _ = read_snapshot(folder / run / "logs" / f"{phase}_heartbeat.json")
    return None if inner is None else {**inner, "phase": phase}


def _writer_is_dead(beat: Mapping[str, Any]) -> bool:
    """Whether the process that the heartbeat names is known to be gone; False where nobody can tell."""
    writer = beat.get("writer")
    if not isinstance(writer, dict):
        return False
    try:
        return liveness(ProcessIdentity.from_dict(writer)) == "dead"
    except ValueError:
        return False


def _key(beat: Mapping[str, Any]) -> tuple[str, ...]:
    names = ("phase", "timestamp_utc", "status", "step", "reason", "latest_repair_checkpoint", "latest_train_state")
    return tuple(str(beat.get(name)) for name in names)


def _short(beat: Mapping[str, Any]) -> str:
    return f"{_text(beat.get('status'))} at {_whole(beat.get('step'))}/{_whole(beat.get('total_steps'))}"


def _moment(beat: Mapping[str, Any]) -> datetime:
    try:
        return parse_stamp(str(beat.get("timestamp_utc")))
    except (ValueError, OverflowError):
        return EPOCH


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _whole(value: Any) -> str:
    number = _number(value)
    return UNKNOWN if number is None else str(int(number))


def _figure(value: Any, pattern: str) -> str:
    number = _number(value)
    return UNKNOWN if number is None else pattern.format(number)


def _text(value: Any) -> str:
    return UNKNOWN if value is None or value == "" else _clean(str(value))


def _clean(text: str) -> str:
    """The text on one line, with what could steer a terminal taken out."""
    return "".join(character if character.isprintable() else " " for character in text).strip()

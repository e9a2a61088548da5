"""What an idle daemon costs: processor time of it and of all that it starts, wakeups, memory.

    python -m benchmarks.guild_daemon.run [--minutes 3] [--waiting 1000] [--history 2000] [--only new trained …] [--output FILE]

Every case is a real daemon in a house of its own; all of them are watched at the same time, so that a busy machine treats them alike.
new: a campaign is active, nothing was ever trained. trained: one file was trained and evaluated, and the database remembers --history
more. waiting: --waiting files, while paused. often: a round every second instead of every 60. floor: a Python that only sleeps.

The watch begins when every daemon has made its first reports and has had no child for five seconds; in the trained house, whose reports
are fresh, that is five minutes after its start. `percent` is all processor time of the daemon and of every process that it started, ended
ones included, by the kernel's count (steps of 10 ms), as a share of one core. `daemon` is its own. What comes less often than the watch
lasts may not fall into it: a runner for reports every five minutes, one for retention every half hour. Both ran before the watch, so
`with_regular` is the daemon's own share and what these two took then, spread over their intervals; the greater of it and `percent` is held
against the target. What the daemon itself does every ten or thirty minutes (looking for incidents, sweeping, a backup when one is due) is
in the figures of --minutes 31 or more alone.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import table, write_result
from benchmarks.guild_daemon.cases import CASES, Case, Sizes
from benchmarks.guild_daemon.tree import TICKS_PER_S, Tree, Wakeups, memory_of, read_processes, wakeups_of

from guild.places import Places
from guild.side_jobs.starting import REPORTS_EVERY_S, RETENTION_EVERY_S

TARGETS = {"idle_percent": 1.0}
LOOK_S = 0.5
QUIET_S = 5.0
PATIENCE_S = 900.0
REGULAR = {"report": REPORTS_EVERY_S, "retention": RETENTION_EVERY_S}
"""Children that come again, and after how many seconds."""


@dataclass(frozen=True)
class Mark:
    """A moment of the watch. own, total: ticks of the daemon, and of it and its children."""

    at: float
    own: int
    total: int
    wakeups: Wakeups


@dataclass
class Watched:
    """A case whose process runs. quiet_since: when a child was last seen, or its start. at_start: what its children took before the
    watch."""

    case: Case
    places: Places | None
    process: subprocess.Popen[bytes]
    tree: Tree
    quiet_since: float
    at_start: dict[str, tuple[int, int]] = field(default_factory=dict)
    marks: list[Mark] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether it has not made its first round, which starts every regular child, or had a child a moment ago."""
        began = self.case.house is None or set(REGULAR) <= set(self.tree.labels.values())
        return not began or time.monotonic() - self.quiet_since < QUIET_S

    def close(self) -> None:
        """Ask it to leave, as a user would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(150)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def start(case: Case, places: Places | None, root: Path) -> Watched:
    """Start the daemon of a house."""
    root.mkdir(exist_ok=True)
    with open(root / "daemon.txt", "ab") as log:
        process = subprocess.Popen(case.command(places), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return Watched(case, places, process, Tree.of(process.pid), time.monotonic())


def look(watched: Sequence[Watched]) -> None:
    """One look at every process; notes which daemons have children. Raises RuntimeError for one that is gone."""
    processes = read_processes()
    for one in watched:
        try:
            one.tree.look(processes)
        except ProcessLookupError as error:
            raise RuntimeError(f"{one.case.name}: the process ended with {one.process.poll()}") from error
        if one.tree.living():
            one.quiet_since = time.monotonic()


def settle(watched: Sequence[Watched]) -> None:
    """Wait until each has made its first round and none has had a child for a while. Raises RuntimeError."""
    deadline = time.monotonic() + PATIENCE_S
    while busy := [one.case.name for one in watched if one.busy]:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{', '.join(busy)}: not idle after {PATIENCE_S:g} s")
        time.sleep(LOOK_S / 2)
        look(watched)


def mark(watched: Sequence[Watched]) -> None:
    """Note where everything stands."""
    look(watched)
    for one in watched:
        wakeups = wakeups_of(one.process.pid)
        one.marks.append(Mark(time.monotonic(), one.tree.own_ticks(), one.tree.ticks(), wakeups))


def watch(watched: Sequence[Watched], minutes: float) -> None:
    """Marks at the beginning and after every minute, or once when it is less than one."""
    for one in watched:
        one.at_start = one.tree.children()
    mark(watched)
    begin = time.monotonic()
    ends = [60.0 * number for number in range(1, int(minutes) + 1)] or [60.0 * minutes]
    for end in ends:
        while (left := begin + end - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left))
            look(watched)
        mark(watched)


def row(one: Watched) -> dict[str, Any]:
    """The figures of one case."""
    first, last = one.marks[0], one.marks[-1]
    seconds = last.at - first.at
    own, total = _percent(last.own - first.own, seconds), _percent(last.total - first.total, seconds)
    slices = [_percent(after.total - before.total, after.at - before.at) for before, after in zip(one.marks, one.marks[1:], strict=False)]
    written = None if first.wakeups.written is None or last.wakeups.written is None else last.wakeups.written - first.wakeups.written
    regular = {label: one.at_start[label][1] / one.at_start[label][0] / TICKS_PER_S for label in REGULAR if label in one.at_start}
    after, before = one.tree.children(), one.at_start
    started = {label: after[label][0] - before.get(label, (0, 0))[0] for label in after}
    return {
        "case": one.case.name,
        "judged": one.case.judged,
        "seconds": round(seconds, 1),
        "percent": round(total, 3),
        "daemon": round(own, 3),
        "worst_minute": round(max(slices), 3),
        "with_regular": round(own + sum(100 * cost / REGULAR[label] for label, cost in regular.items()), 3),
        "wakeups_per_s": round((last.wakeups.wakeups - first.wakeups.wakeups) / seconds, 2),
        "written_kb_per_min": None if written is None else round(written / 1000 / (seconds / 60), 1),
        "threads": last.wakeups.threads,
        **memory_of(one.process.pid),
        "start_cpu_s": round(first.total / TICKS_PER_S, 2),
        "start_cpu_s_of_daemon": round(first.own / TICKS_PER_S, 2),
        "children_at_start": {label: {"count": n, "cpu_s": ticks / TICKS_PER_S} for label, (n, ticks) in before.items()},
        "children_while_watched": {label: count for label, count in started.items() if count},
    }


def _percent(ticks: int, seconds: float) -> float:
    return 100 * ticks / TICKS_PER_S / seconds


def measure(names: Sequence[str], minutes: float, sizes: Sizes, root: Path) -> list[dict[str, Any]]:
    """One row for each case, all watched at once."""
    houses: dict[str, Places | None] = {}
    for name in names:
        make = CASES[name].house
        houses[name] = None if make is None else make(root / name, sizes)
        print(f"made: {CASES[name].name}", file=sys.stderr)
    watched: list[Watched] = []
    try:
        for name, places in houses.items():  # at once, so that no child is missed
            watched.append(start(CASES[name], places, root / name))
        settle(watched)
        for one in watched:
            if one.places is not None:
                one.case.settled(one.places, sizes)
        settle(watched)
        print(f"settled; {minutes:g} minutes", file=sys.stderr)
        watch(watched, minutes)
        return [row(one) for one in watched]
    finally:
        for one in watched:
            one.close()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.0, help="how long they are watched")
    parser.add_argument("--waiting", type=int, default=1000, help="files that wait while paused")
    parser.add_argument("--history", type=int, default=2000, help="files that the trained house remembers")
    parser.add_argument("--only", nargs="+", choices=list(CASES), default=list(CASES), help="these cases alone")
    parser.add_argument("--output", default=str(Path(__file__).with_name("result.json")))
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(given.only, given.minutes, Sizes(given.waiting, given.history), Path(folder))
    figures = {"idle_percent": max((max(one["percent"], one["with_regular"]) for one in rows if one["judged"]), default=None)}
    met = {name: figures[name] is not None and figures[name] <= limit for name, limit in TARGETS.items()}
    settings = {name: getattr(given, name) for name in ("minutes", "waiting", "history", "only")}
    write_result(given.output, benchmark="guild_daemon", settings=settings, results=rows, figures=figures, targets=TARGETS, targets_met=met)
    columns = ["case", "percent", "daemon", "worst_minute", "with_regular", "wakeups_per_s", "written_kb_per_min", "rss_mb", "pss_mb"]
    print(table(rows, [*columns, "start_cpu_s", "children_while_watched"]))
    for name, limit in TARGETS.items():
        print(f"{name}: {figures[name]}, at most {limit:g} of one core: {'met' if met[name] else 'NOT met'}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

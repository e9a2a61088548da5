"""What a process and all that it started have cost so far, from Linux's /proc: processor time, wakeups, bytes written, memory.

No time is lost when a child ends: an ended child that nobody has waited for still shows its time, one that was waited for is in the
figure that the kernel keeps for its parent, and of one whose parent went before it the last look counts, if there was one while the
parent lived.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
Key = tuple[int, int]
"""A process: its number and its start in ticks since boot, since numbers are used again."""


@dataclass(frozen=True)
class Process:
    """One look at one process. ticks: of processor time, its own. reaped: of its children that ended and were waited for. ended: a
    zombie."""

    key: Key
    parent: int
    ticks: int
    reaped: int
    ended: bool


def read_processes() -> dict[int, Process]:
    """Every process that can be seen from here, by its number."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (process := read_process(int(name))) is not None:
            found[process.key[0]] = process
    return found


def read_process(pid: int) -> Process | None:
    """A process by its number; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text[text.rfind(")") + 2 :].split()
    user, system, children_user, children_system = (int(value) for value in fields[11:15])
    return Process((pid, int(fields[19])), int(fields[1]), user + system, children_user + children_system, fields[0] in "ZXx")


def words_of(pid: int) -> list[str]:
    """The command line of a process; empty for one that ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def label_of(words: list[str]) -> str:
    """What a process of the guild is, by its command line: `report` for the runner of reports, else its module or its program."""
    if "--kind" in words:
        return words[words.index("--kind") + 1]
    return words[words.index("-m") + 1] if "-m" in words else (words or ["?"])[0].rpartition("/")[2]


@dataclass
class Tree:
    """A process and all that it started, looked at again and again; every figure is of the last look. last: the newest look at each child
    ever seen; labels: their names; there: those that were still to be seen."""

    root: Key
    last: dict[Key, Process] = field(default_factory=dict)
    labels: dict[Key, str] = field(default_factory=dict)
    there: set[Key] = field(default_factory=set)
    own: Process | None = None

    @classmethod
    def of(cls, pid: int) -> Tree:
        """The tree below a living process. Raises ProcessLookupError."""
        process = read_process(pid)
        if process is None:
            raise ProcessLookupError(pid)
        return cls(process.key, own=process)

    def look(self, processes: Mapping[int, Process]) -> None:
        """Take note of everything below the root, and of what was below it once. Raises ProcessLookupError when the root is gone."""
        root = processes.get(self.root[0])
        if root is None or root.key != self.root or root.ended:
            raise ProcessLookupError(self.root[0])
        self.own, self.there = root, {process.key for process in processes.values()}
        for process in processes.values():
            if process.key in self.last or (process.key != self.root and self._is_below(process, processes)):
                self.last[process.key] = process
                words = words_of(process.key[0])  # again at every look: a child just forked still has its parent's
                if words or process.key not in self.labels:
                    self.labels[process.key] = label_of(words)

    def _is_below(self, process: Process, processes: Mapping[int, Process]) -> bool:
        seen: set[int] = set()
        while process.parent and process.parent not in seen:
            if process.parent == self.root[0]:
                return True
            seen.add(process.parent)
            above = processes.get(process.parent)
            if above is None:
                return False
            process = above
        return False

    def living(self) -> list[str]:
        """Labels of children that run."""
        return [self.labels[key] for key, process in self.last.items() if key in self.there and not process.ended]

    def own_ticks(self) -> int:
        """Processor time of the root alone."""
        return self.own.ticks if self.own is not None else 0

    def ticks(self) -> int:
        """Processor time of the root and of all that it ever started."""
        total = self.own_ticks() + (self.own.reaped if self.own is not None else 0)
        numbers = {self.root[0], *(key[0] for key in self.last)}
        for key, process in self.last.items():
            if key in self.there or process.parent not in numbers:  # else the time is in the figure of whoever waited for it
                total += process.ticks + process.reaped
        return total

    def children(self) -> dict[str, tuple[int, int]]:
        """Label → how many such children were seen, and their ticks at the last look, those of their own children included."""
        found: dict[str, tuple[int, int]] = {}
        for key, process in self.last.items():
            count, ticks = found.get(self.labels[key], (0, 0))
            found[self.labels[key]] = (count + 1, ticks + process.ticks + process.reaped)
        return found


@dataclass(frozen=True)
class Wakeups:
    """Counts of a process since its start. wakeups: how often it slept and was woken (voluntary context switches of all its threads).
    written: bytes that it caused to be written to disk, None where the system does not say."""

    wakeups: int
    threads: int
    written: int | None


def wakeups_of(pid: int) -> Wakeups:
    """Raises ProcessLookupError."""
    count = threads = 0
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            status = (task / "status").read_text(encoding="utf-8")
            count += int(next(line.split()[1] for line in status.splitlines() if line.startswith("voluntary_ctxt_switches")))
            threads += 1
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    try:
        counted = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines())
        written = int(counted["write_bytes"])
    except (OSError, KeyError):
        written = None
    return Wakeups(count, threads, written)


def memory_of(pid: int) -> dict[str, float | None]:
    """MB of a process: resident, its share of them (shared pages divided by their users), its own alone; None where it may not be read."""
    import psutil

    process = psutil.Process(pid)
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return {"rss_mb": round(process.memory_info().rss / 1e6, 1), "pss_mb": None, "uss_mb": None}
    return {name + "_mb": round(getattr(full, name) / 1e6, 1) for name in ("rss", "pss", "uss")}

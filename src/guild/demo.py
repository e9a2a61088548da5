"""`guild demo`: the whole loop on a small model, in minutes on two processors.

A skill makes problems, the daemon queues them, the trainer learns them, every checkpoint is evaluated on problems that were never trained,
and three good evaluations on three checkpoints earn the next level. Nothing is staged: these are the daemon, the trainer and the
evaluator of every day, with shorter intervals and the smallest hero.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from guild.command import process
from guild.places import Places
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import ModelwrightError, UsageError

if TYPE_CHECKING:
    from guild.records.events import GuildEvent
    from modelwright.database import Database

DEFAULT_FOLDER = "runs/guild-demo"
LIMIT_S = 300.0
SKILL, START_LEVEL = "bin", 6
OPERATIONS = ("multiply_by_2", "divide_by_2")
ROWS = 2000
OVERRIDES: dict[str, Any] = {"learning_rate": 3e-3, "max_length": 512, "warmup_steps": 20, "preview_every": 25, "micro_eval_every": 0}
SKILL_OPTIONS: dict[str, Any] = {
    "forms": ["brief"], "operations": list(OPERATIONS), "tasks": [], "auxiliary_share": 0, "symbol_share": 0, "hint_share": 0,
    "chains": False,
}  # fmt: skip
MARK = "demo.json"
_EXAMPLES = f"""\
examples:
  guild demo
  guild demo --base-dir /tmp/house --minutes 3

The tiny hero (model profile) starts at level {START_LEVEL} of binary arithmetic, in its brief form with two operations, and learns until it
earns a level. The house stays, so that you can look around: guild queue status, guild eval --status, guild campaign info, …

exit codes:
  0    a level was earned
  1    no level was earned in the time, or something failed (it is said)
  2    wrong arguments, or the folder holds something else
  130  interrupted; the house stays
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild demo`."""
    parser = argparse.ArgumentParser(
        prog="guild demo",
        description="The whole loop on a tiny model: problems, queue, training, evaluation, the next level.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="DIR", default=DEFAULT_FOLDER, help=f"the house of the demo (default: {DEFAULT_FOLDER})")
    parser.add_argument("--minutes", type=float, default=LIMIT_S / 60, metavar="M", help="give up after so long (default: 5)")
    parser.add_argument("--levels", type=int, default=1, metavar="N", help="go on until so many levels are earned (default: 1)")
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Make the house, run the daemon, tell the story; returns the exit code."""
    given = build_parser().parse_args(argv)
    if given.minutes <= 0 or given.levels < 1:
        raise UsageError("--minutes and --levels: allowed: more than 0.")
    places = Places.of(given.base_dir)
    campaign = build_house(places, clock)
    story = Story(clock, given.levels)
    for line in opening(places, campaign):
        print(line, flush=True)
    daemon = _start_daemon(places)
    try:
        _follow(places, daemon, story, given.minutes * 60, clock)
    finally:
        _stop(daemon)
    for line in ending(places, story):
        print(line, flush=True)
    return 0 if story.levels >= given.levels else 1


def build_house(places: Places, clock: Clock) -> str:
    """A house for the demo, or the one of an earlier demo with a new campaign; returns the campaign's key. Raises UsageError when the
    folder holds something else."""
    from guild.campaigns.activation import activate
    from guild.campaigns.store import create_campaign
    from guild.curriculum.progress import set_mastered
    from guild.hosts.addresses import LOOPBACK
    from guild.init import initialise
    from guild.records.checkpoint_record import CampaignId
    from modelwright.files import make_folder, read_yaml, write_json, write_yaml

    mark = places.base / MARK
    if places.base.is_dir() and any(places.base.iterdir()) and not mark.is_file():
        raise UsageError(f"--base-dir: found {places.base}, which is no house of a demo; allowed: a new or empty folder.")
    make_folder(places.base)
    write_json(mark, {"schema_version": 1, "what": "a house made by `guild demo`"})
    initialise(places)
    path = places.skills / f"{SKILL}.yaml"
    skill = read_yaml(path)
    write_yaml(path, {**skill, "options": SKILL_OPTIONS, "api": {**skill["api"], "url": "local"}})
    schedule = read_yaml(places.schedule)
    write_yaml(places.schedule, {**schedule, "active": "bin_only"})
    generate = {
        "enabled": True, "count": ROWS, "priority": "normal", "threshold": 0, "cooldown_sec": 0, "min_queue_depth": 1, "host": LOOPBACK,
        "port": 8090,
    }  # fmt: skip
    write_json(places.config_file, {"schema_version": 1, "model_name": "tiny", "poll_interval": 1, "auto_generate": generate})
    folder = create_campaign(places, "tiny", "Demo", skills=[SKILL], config_overrides=OVERRIDES, clock=clock)
    activate(places, *folder.key, clock=clock)
    set_mastered(places, SKILL, START_LEVEL - 1, CampaignId(*folder.key), clock=clock)
    return "/".join(folder.key)


def opening(places: Places, campaign: str) -> Iterator[str]:
    """What is about to happen."""
    from guild.skills.binary.skill import BinarySkill

    skill = BinarySkill(**SKILL_OPTIONS)
    problems = skill.space(START_LEVEL)
    sample = max(skill.generate(START_LEVEL, 20, 1), key=lambda one: len(one.user_prompt))
    yield f"House:    {places.base}"
    yield f"Hero:     TINY, The Apprentice (model profile: modelwright/tiny-0.4m, 0.4 million parameters), campaign {campaign}"
    yield f"Skill:    binary arithmetic (bin), level {START_LEVEL}: {problems} problems to train, others held out for evaluation"
    yield f"          asked  {sample.user_prompt}"
    yield f"          wanted {sample.assistant_response}"
    yield "Rule:     a level is earned when the last 3 evaluations, on 3 different checkpoints, average 80 % or more."
    yield ""


@dataclass
class Story:
    """Events as lines for people: story words with the plain word beside. levels: earned so far."""

    clock: Clock
    wanted: int
    levels: int = 0
    failed: str = ""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    _began: float = field(default=0.0)

    def __post_init__(self) -> None:
        self._began = self.clock.monotonic()

    def line(self, event: GuildEvent) -> str | None:
        """One event as a line, None for what the story leaves out."""
        tell = _TOLD.get(event.type)
        text = tell(self, event) if tell is not None else None
        return None if text is None else f"{self.clock.monotonic() - self._began:5.0f} s  {text}"

    @property
    def over(self) -> bool:
        return self.levels >= self.wanted


def _generated(story: Story, event: GuildEvent) -> str:
    return f"Quest posted (training file queued): {event.data['rows']} rows of level {event.data['level']}, {event.data['outcome'].lower()}"


def _started(story: Story, event: GuildEvent) -> str:
    return f"Battle (training) begins: {event.data['file']}, {event.data['steps']} steps"


def _completed(story: Story, event: GuildEvent) -> str:
    loss, rate = event.data.get("loss"), event.data.get("tokens_per_second")
    speed = f", {rate:,.0f} tokens/s" if rate else ""
    return f"Battle won (file trained): loss {loss:.3f}, step {event.data['global_step']}{speed}"


def _evaluated(story: Story, event: GuildEvent) -> str | None:
    from guild.records.intervals import wilson

    data = event.data
    if data.get("name") != SKILL:
        return None
    story.evaluations.append(dict(data))
    likely = wilson(data["correct"], data["total"])
    between = f"95 % interval {100 * likely.low:.0f} to {100 * likely.high:.0f} %"
    return f"Trial (evaluation) of step {data['step']} at level {data['level']}: {data['correct']} of {data['total']} right ({between})"


def _levelled(story: Story, event: GuildEvent) -> str:
    story.levels += 1
    return f"LEVEL UP: {event.message}"


def _failed(story: Story, event: GuildEvent) -> str:
    story.failed = event.message
    return f"Trouble: {event.message}"


_TOLD: dict[str, Callable[[Story, GuildEvent], str | None]] = {
    "data.generated": _generated,
    "training.started": _started,
    "training.completed": _completed,
    "training.failed": _failed,
    "data.rejected": _failed,
    "daemon.trainer_ended": _failed,
    "daemon.evaluator_ended": _failed,
    "training.evaluated": _evaluated,
    "hero.level_up": _levelled,
}


def _start_daemon(places: Places) -> subprocess.Popen[bytes]:
    log = open(places.base / "demo-daemon.log", "ab")  # noqa: SIM115 - the child keeps it
    argv = [sys.executable, "-m", "guild.training_daemon", "--base-dir", str(places.base), "--poll", "1", "--min-free-gb", "0.5"]
    try:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    finally:
        log.close()


def _follow(places: Places, daemon: subprocess.Popen[bytes], story: Story, limit_s: float, clock: Clock) -> None:
    """Tell events as they come, until the levels are earned, the time is over or the daemon is gone."""
    from guild.records.database import open_guild

    with open_guild(places) as db:
        at = _tell(db, 0, story)
        deadline = clock.monotonic() + limit_s
        while not story.over and clock.monotonic() < deadline:
            if daemon.poll() is not None:
                raise ModelwrightError(f"The daemon ended with {daemon.returncode}. See {places.base / 'demo-daemon.log'}.")
            clock.sleep(0.3)
            at = _tell(db, at, story)


def _tell(db: Database, at: int, story: Story) -> int:
    from guild.records.events import read_after

    while True:
        page = read_after(db, at)
        for event in page.events:
            line = story.line(event)
            if line is not None:
                print(line, flush=True)
        at = page.last
        if not page.more:
            return at


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        print("         The daemon is asked to stop; the trainer saves first.", flush=True)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(120)
        except subprocess.TimeoutExpired:
            daemon.kill()


def ending(places: Places, story: Story) -> Iterator[str]:
    """What came of it."""
    from guild.records.database import open_guild
    from guild.records.jobs import counts

    with open_guild(places, readonly=True) as db:
        done = counts(db).states["completed"]
    yield ""
    if story.over:
        levels = f"{story.levels} level{'s' if story.levels > 1 else ''}"
        yield f"{levels} earned, from {done} files trained here and {len(story.evaluations)} evaluations."
    else:
        yield f"No level was earned in the time: {done} files trained, {len(story.evaluations)} evaluations. {story.failed}".rstrip()
    yield f"Look around:  guild campaign active --base-dir {places.base}"
    yield f"              guild eval --status --base-dir {places.base}"
    yield f"              guild queue status --base-dir {places.base}"
    yield f"Go on:        guild daemon --base-dir {places.base} --poll 1"


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())

"""`guild curriculum`, also `python -m guild.curriculum_manager`: what each skill has mastered, and how. (specs/guild.md 2.4, 6.3)"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import add_common, answered, say
from guild.places import Places

if TYPE_CHECKING:
    from guild.records.checkpoint_record import CampaignId

_EXAMPLES = """\
examples:
  guild curriculum status
  guild curriculum record bin --step 12000 --correct 17 --total 20
  guild curriculum check bin
  guild curriculum set-level bin 4 --reason "mastered elsewhere"
  guild curriculum gen-params --json

exit codes:
  0  shown or done; check: the skill is ready to advance
  1  refused; check: it is not ready; record: the evaluation does not count
  2  wrong arguments or settings
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = (
    (),
    *((verb,) for verb in ("status", "record", "check", "progress", "set-level", "reset", "gen-params")),
)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild curriculum`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild curriculum",
        description="The curriculum: the highest mastered level of each skill; it trains at the next one. A level is mastered when three "
        "evaluations on different checkpoints have a mean of at least 0.80 (a skill's file may ask for more).",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    _common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, example: str, codes: str, description: str = "") -> argparse.ArgumentParser:
        epilog = f"example: guild curriculum {example}\nexit codes: {codes}, 2 wrong arguments or settings"
        added: argparse.ArgumentParser = verbs.add_parser(
            name, help=help, description=description or help, epilog=epilog, formatter_class=raw
        )
        _common(added, nested=True)
        return added

    status = verb("status", "levels and evidence of every skill, or of one", "status --json", "0 shown, 1 it cannot be read")
    status.add_argument("skill", nargs="?", metavar="SKILL", help="one skill alone")
    recording = verb(
        "record",
        "record an evaluation made elsewhere",
        "record bin --step 12000 --correct 17 --total 20",
        "0 it counts, 1 it does not, and why",
        "Record an evaluation in the evaluation ledger and count it: at the training level, once per checkpoint, with at least 20 answers.",
    )
    recording.add_argument("skill", metavar="SKILL")
    recording.add_argument("--step", type=int, required=True, metavar="N", help="step of the checkpoint that was evaluated")
    recording.add_argument("--correct", type=int, required=True, metavar="N", help="right answers")
    recording.add_argument("--total", type=int, required=True, metavar="N", help="answers")
    recording.add_argument("--level", type=int, metavar="L", help="level (default: the training level)")
    verb("check", "whether a skill may advance now", "check bin", "0 ready, 1 not ready, and why").add_argument("skill", metavar="SKILL")
    advancing = verb(
        "progress",
        "advance a skill by one level when its evidence suffices",
        "progress bin",
        "0 advanced, 1 refused",
        "Advance a skill by one level when its evidence suffices. Recording does it by itself; this is for a threshold that was lowered.",
    )
    advancing.add_argument("skill", metavar="SKILL")
    setting = verb("set-level", "say what is mastered", "set-level bin 4 --reason 'mastered elsewhere'", "0 done, 1 refused")
    setting.add_argument("skill", metavar="SKILL")
    setting.add_argument("level", type=int, metavar="MASTERED", help="highest mastered level; 0: none")
    setting.add_argument("--reason", default="", metavar="TEXT", help="why, for the history")
    resetting = verb(
        "reset", "back to no level mastered; the history stays", "reset bin --yes", "0 done, 1 refused (say --yes, or an unknown skill)"
    )
    resetting.add_argument("skill", metavar="SKILL")
    resetting.add_argument("--yes", action="store_true", help="needed, since the mastered levels are given up")
    verb("gen-params", "what the next generation would ask for", "gen-params --json", "0 shown, 1 no skill is reachable")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild curriculum ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _common(parser: argparse.ArgumentParser, *, nested: bool) -> None:
    add_common(parser, nested=nested)
    default: Any = argparse.SUPPRESS if nested else None
    parser.add_argument("--campaign", nargs=2, default=default, metavar=("HERO", "CAMPAIGN"), help="another campaign than the active one")


def _campaign(places: Places, arguments: argparse.Namespace) -> CampaignId:
    from guild.campaigns.store import find_campaign
    from guild.curriculum.choosing import active
    from guild.records.checkpoint_record import CampaignId

    return CampaignId(*find_campaign(places, *arguments.campaign).key) if arguments.campaign else active(places)


def _skill_document(places: Places, arguments: argparse.Namespace) -> dict[str, Any]:
    from guild.curriculum.reports import skill_document
    from guild.curriculum.state import read_state

    return skill_document(places, arguments.skill, read_state(places, _campaign(places, arguments)))


def _status(places: Places, arguments: argparse.Namespace) -> int:
    from guild.curriculum.reports import skill_document
    from guild.curriculum.settings import known_skills
    from guild.curriculum.state import read_state

    campaign = _campaign(places, arguments)
    state = read_state(places, campaign)
    names = (arguments.skill,) if arguments.skill else known_skills(places)
    found = {fields["skill"]: fields for fields in (skill_document(places, name, state) for name in names)}
    lines = [f"Campaign: {campaign.key}"]
    for skill, fields in found.items():
        lines.append(f"{skill}: mastered {fields['mastered']}, trains at level {fields['training_level']}/{fields['max_level']}")
        lines.append(f"  {_evidence(fields)}")
    say(arguments, {"campaign": campaign.key, "active_skill": state.active_skill, "skills": found}, lines)
    return 0


def _evidence(fields: dict[str, Any]) -> str:
    if fields["mean_accuracy"] is None:
        return fields["missing"] or "no evaluation yet"
    low, high = fields["interval_low"], fields["interval_high"]
    return f"mean accuracy {fields['mean_accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}). {fields['missing']}".rstrip()


def _record(places: Places, arguments: argparse.Namespace) -> int:
    from guild.curriculum.progress import register_evaluation, training_level
    from guild.records.database import open_guild
    from guild.records.evaluation_records import new_evaluation
    from guild.records.evaluations import record_evaluation
    from modelwright.clock import SYSTEM_CLOCK, stamp
    from modelwright.errors import ConfigError, Fault

    campaign = _campaign(places, arguments)
    level = arguments.level if arguments.level is not None else training_level(places, arguments.skill, campaign)
    checks = (
        ("--total", arguments.total, arguments.total >= 1, "at least 1"),
        ("--correct", arguments.correct, 0 <= arguments.correct <= arguments.total, "0 to --total"),
        ("--step", arguments.step, arguments.step >= 0, "at least 0"),
        ("--level", level, level >= 1, "at least 1"),
    )
    faults = [Fault(flag, str(value), allowed) for flag, value, good, allowed in checks if not good]
    if faults:
        raise ConfigError(faults)
    evaluation = new_evaluation(
        campaign, arguments.step, arguments.skill, level,
        correct=arguments.correct, total=arguments.total, timestamp=stamp(SYSTEM_CLOCK.now()), recorded_by="operator",
    )  # fmt: skip
    with open_guild(places) as db:
        record_evaluation(db, places, evaluation)
        done = register_evaluation(db, places, evaluation)
    went = f"Level {done.mastered} is mastered; " if done.advanced else ""
    counts = "It counts." if done.counted else f"It is recorded and does not count. {done.reason}"
    say(arguments, vars(done), [f"{went}{done.skill} trains at level {done.training_level}. {counts}"])
    return 0 if done.counted else 1


def _check(places: Places, arguments: argparse.Namespace) -> int:
    fields = _skill_document(places, arguments)
    word = "ready to advance" if fields["ready"] else f"not ready. {fields['missing']}"
    say(arguments, fields, [f"{fields['skill']} at level {fields['training_level']}: {word}"])
    return 0 if fields["ready"] else 1


def _progress(places: Places, arguments: argparse.Namespace) -> int:
    from guild.curriculum.progress import advance_now
    from guild.records.database import open_guild

    with open_guild(places) as db:
        done = advance_now(db, places, arguments.skill, _campaign(places, arguments))
    say(arguments, vars(done), [f"Level {done.mastered} is mastered; {done.skill} trains at level {done.training_level}."])
    return 0


def _set_level(places: Places, arguments: argparse.Namespace) -> int:
    from guild.curriculum.progress import set_mastered

    done = set_mastered(places, arguments.skill, arguments.level, _campaign(places, arguments), reason=arguments.reason)
    say(arguments, vars(done), [f"{done.skill}: mastered {done.mastered}; it trains at level {done.training_level}."])
    return 0


def _reset(places: Places, arguments: argparse.Namespace) -> int:
    from guild.curriculum.progress import set_mastered

    if not arguments.yes:
        print(f"reset: found no --yes; it gives up the mastered levels of {arguments.skill}. Say --yes to do it.", file=sys.stderr)
        return 1
    done = set_mastered(places, arguments.skill, 0, _campaign(places, arguments), reason="reset")
    say(arguments, vars(done), [f"{done.skill}: no level is mastered; it trains at level {done.training_level}."])
    return 0


def _gen_params(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.config_file import installation_config
    from guild.curriculum.choosing import choose, look
    from guild.curriculum.schedule import read_settings
    from guild.curriculum.totals import Totals, default_seed

    totals, settings = Totals.read(places), installation_config(places).auto_generate
    plans = look(places, totals)
    choice = choose(places, plans)
    number = totals.next_number(choice.skill.id, choice.level)
    data = {
        "preset": plans.preset,
        "skill": choice.skill.id,
        "level": choice.level,
        "count": settings.count or read_settings(places).batch_size,
        "priority": settings.priority or "normal",
        "number": number,
        "seed": default_seed(choice.skill.id, choice.level, number),
        "address": choice.info.address,
    }
    say(arguments, data, [f"{key}: {value}" for key, value in data.items()])
    return 0


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {
    "status": _status,
    "record": _record,
    "check": _check,
    "progress": _progress,
    "set-level": _set_level,
    "reset": _reset,
    "gen-params": _gen_params,
}


if __name__ == "__main__":
    raise SystemExit(run())

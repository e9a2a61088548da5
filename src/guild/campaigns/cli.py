"""`python -m guild.campaigns.cli`, also `guild campaign`: list, choose, start and archive campaigns. (specs/guild.md 3.4)"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import add_common, answered, say
from guild.places import Places
from modelwright.errors import ModelwrightError

if TYPE_CHECKING:
    from guild.campaigns.campaign import CampaignFolder

_EXAMPLES = """\
examples:
  guild campaign heroes
  guild campaign new --hero titan-qwen3-4b --name "First 4B run"
  guild campaign list
  guild campaign switch dio-qwen3-0.6b campaign-001
  guild campaign info titan-qwen3-4b campaign-001 --json

exit codes:
  0  done
  1  refused or failed: no active campaign, an unknown hero or campaign, a damaged document
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), ("new",), ("switch",), ("archive",))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild campaign`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild campaign",
        description="Campaigns: each is one training run of one hero (model profile), with checkpoints, status and settings of its own.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=more.pop("description", help), **more)
        add_common(added, nested=True)
        return added

    listing = verb("list", "every campaign by hero; the active one is marked", epilog="example: guild campaign list tiny")
    listing.add_argument("hero", nargs="?", metavar="HERO", help="one hero's campaigns alone")
    verb("active", "the active campaign", epilog="exit codes: 0 shown, 1 none is active")
    new = verb(
        "new",
        "start a campaign and activate it",
        formatter_class=raw,
        epilog='example: guild campaign new --hero tiny --name "Try" --skills bin\nexit codes: 0 made, 1 refused, 2 wrong arguments',
    )
    new.add_argument("--hero", required=True, metavar="H", help="model profile, see `guild campaign heroes`")
    new.add_argument("--name", required=True, metavar="N", help="a name for people")
    new.add_argument("--checkpoint", metavar="C", help="the folder of a checkpoint to start from; its name gives the step")
    new.add_argument("--skills", nargs="+", default=(), metavar="S", help="skills to train, by id or alias")
    new.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    new.add_argument("--no-activate", action="store_true", help="leave the active campaign as it is")
    switching = verb(
        "switch",
        "make another campaign the active one",
        description="Make another campaign the active one. Running training is paused first (at most 60 seconds) and goes on afterwards.",
        epilog="example: guild campaign switch tiny campaign-002",
    )
    one = verb("info", "everything about a campaign", epilog="example: guild campaign info tiny campaign-001")
    line = verb("lineage", "the chain of ancestors, root first", epilog="example: guild campaign lineage tiny campaign-003")
    archive = verb(
        "archive",
        "move a campaign to the archive",
        description="Move a campaign to campaigns/archive. The active campaign is refused; ids are never used again.",
        epilog="example: guild campaign archive tiny campaign-001",
    )
    for parser_of_one in (switching, one, line, archive):
        parser_of_one.add_argument("hero", metavar="HERO")
        parser_of_one.add_argument("campaign", metavar="CAMPAIGN")
    verb("heroes", "the model profiles", epilog="example: guild campaign heroes --json")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild campaign ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _list(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.heroes import read_heroes
    from guild.campaigns.pointer import active_key
    from guild.campaigns.store import list_campaigns
    from guild.errors import UnknownHeroError

    found, heroes, active = list_campaigns(places, arguments.hero), read_heroes(places), active_key(places)
    if arguments.hero is not None and arguments.hero not in heroes.heroes and not found.campaigns and not found.faults:
        raise UnknownHeroError(arguments.hero, heroes.heroes)
    wanted = heroes.heroes if arguments.hero is None else {id: hero for id, hero in heroes.heroes.items() if id == arguments.hero}
    selected = None if active is None else active.key
    say(arguments, show.list_json(found.campaigns, wanted, selected), show.list_lines(found.campaigns, wanted, selected))
    return _faults({**found.faults, **heroes.faults})


def _active(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.pointer import require_active

    return _shown(places, arguments, require_active(places), full=False)


def _info(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.store import find_campaign

    return _shown(places, arguments, find_campaign(places, arguments.hero, arguments.campaign), full=True)


def _shown(places: Places, arguments: argparse.Namespace, folder: CampaignFolder, *, full: bool) -> int:
    from guild.campaigns import show
    from guild.campaigns.heroes import get_hero

    hero = get_hero(places, folder.campaign.hero_id)
    data = show.info_json(folder, hero)
    say(arguments, data, show.info_lines(data, full=full))
    return 0


def _new(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.activation import activate
    from guild.campaigns.checkpoints import find_checkpoint
    from guild.campaigns.store import create_campaign

    checkpoint = None if arguments.checkpoint is None else find_checkpoint(places, arguments.checkpoint)
    made = create_campaign(
        places, arguments.hero, arguments.name, description=arguments.description, checkpoint=checkpoint, skills=arguments.skills
    )
    activated = not arguments.no_activate
    if activated:
        try:
            made = activate(places, *made.key).folder
        except ModelwrightError:
            print(f"Made {'/'.join(made.key)}, but it is not active:", file=sys.stderr)
            raise
    word = "Made and activated" if activated else "Made"
    line = f"{word} {made.campaign.hero_id}/{made.campaign.id}: {made.campaign.name} (step {made.campaign.current_step:,}) at {made.path}"
    say(arguments, {**show.campaign_json(made), "activated": activated}, [line])
    return 0


def _switch(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.activation import activate

    done = activate(places, arguments.hero, arguments.campaign)
    campaign = done.folder.campaign
    lines = [f"Active campaign: {campaign.name} ({campaign.id})", f"Hero: {campaign.hero_id}", f"Step: {campaign.current_step:,}"]
    lines += ["Training was paused for it and goes on."] if done.paused else []
    say(arguments, {**show.campaign_json(done.folder), "training_paused": done.paused, "changed": done.changed}, lines)
    return 0


def _lineage(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.lineage import lineage
    from guild.campaigns.store import find_campaign

    chain = lineage(places, find_campaign(places, arguments.hero, arguments.campaign))
    say(arguments, show.lineage_json(chain), show.lineage_lines(chain))
    return 0


def _archive(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.store import archive_campaign

    done = archive_campaign(places, arguments.hero, arguments.campaign)
    say(arguments, show.campaign_json(done), [f"Archived {'/'.join(done.key)} at {done.path}"])
    return 0


def _heroes(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns import show
    from guild.campaigns.heroes import read_heroes

    found = read_heroes(places)
    lines = show.hero_lines(found.heroes) or [f"No heroes in {places.heroes}. Write the shipped ones by `guild init`."]
    say(arguments, show.heroes_json(found.heroes), lines)
    return _faults(found.faults)


def _faults(faults: dict[Any, ModelwrightError]) -> int:
    """Name what could not be read, after the healthy rest was shown."""
    for path, error in faults.items():
        for line in str(error).splitlines():
            print(f"{path}: {line}", file=sys.stderr)
    return 1 if faults else 0


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {
    "list": _list,
    "active": _active,
    "new": _new,
    "switch": _switch,
    "info": _info,
    "lineage": _lineage,
    "archive": _archive,
    "heroes": _heroes,
}


if __name__ == "__main__":
    raise SystemExit(run())

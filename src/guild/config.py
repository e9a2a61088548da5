"""`guild config`, also `python -m guild.config`: the configuration that reaches training, `config.json`, and the campaign's lock.

(specs/guild.md 2.1.5, G3, G4)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import add_common, answered, say
from guild.places import Places

if TYPE_CHECKING:
    from guild.campaigns.campaign import CampaignFolder
    from guild.campaigns.effective_config import Effective

_EXAMPLES = """\
examples:
  guild config show
  guild config show --set learning_rate=1e-5 --set optimizer=muon --json
  guild config set learning_rate=1e-5 profile=none
  guild config set --global poll_interval=30
  guild config lock --validate-only

exit codes:
  0  done, or the lock agrees
  1  refused: a lock, running training, no active campaign
  2  wrong arguments, or values that are not allowed (every one is named)
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), ("show",), ("set",), ("lock",))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild config`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild config",
        description="The configuration that reaches training, the settings of the installation (config.json), and a campaign's lock.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    show = verbs.add_parser(
        "show",
        help="the effective configuration and where each value comes from",
        epilog="layers, the later win: default, config.json, hero, campaign, machine, command line\nexample: guild config show",
        formatter_class=raw,
    )
    show.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets", help="above every layer; may be repeated")
    change = verbs.add_parser(
        "set",
        help="change a campaign's overrides, or config.json",
        description="Change the overrides of a campaign (the active one), or with --global config.json. Refused while training runs.",
        epilog="example: guild config set learning_rate=1e-5\n`null` takes an override away",
        formatter_class=raw,
    )
    change.add_argument("changes", nargs="+", metavar="KEY=VALUE")
    change.add_argument("--global", action="store_true", dest="installation", help="config.json instead of the campaign")
    change.add_argument("--unlock", action="store_true", help="change model_name, base_model or max_length although there are checkpoints")
    change.add_argument("--reason", default="", metavar="TEXT", help="why, for the log; needed with --unlock")
    lock = verbs.add_parser(
        "lock",
        help="the lock over base model, architecture, context length, vocabulary and version",
        epilog="example: guild config lock --validate-only\nexit codes: 0 agrees or done, 1 differs, no lock, or refused",
        formatter_class=raw,
    )
    action = lock.add_mutually_exclusive_group(required=True)
    action.add_argument("--validate-only", action="store_const", const="validate", dest="action", help="compare, change nothing")
    action.add_argument("--create-lock", action="store_const", const="create", dest="action", help="lock what is effective now")
    action.add_argument("--remove-lock", action="store_const", const="remove", dest="action", help="take the lock away; needs --reason")
    lock.add_argument("--reason", default="", metavar="TEXT", help="why, for the log")
    for verb in (show, change, lock):
        add_common(verb, nested=True)
        verb.add_argument("--campaign", nargs=2, metavar=("HERO", "CAMPAIGN"), help="another campaign than the active one")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild config ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _campaign(places: Places, arguments: argparse.Namespace) -> CampaignFolder:
    from guild.campaigns.pointer import require_active
    from guild.campaigns.store import find_campaign

    return find_campaign(places, *arguments.campaign) if arguments.campaign else require_active(places)


def _show(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.effective_config import build_effective, config_digest

    effective = build_effective(places, _campaign(places, arguments), sets=arguments.sets)
    data = {"digest": config_digest(effective), "config": effective.as_dict(), "origins": effective.origins}
    say(arguments, data, _table(effective))
    return 0


def _table(effective: Effective) -> list[str]:
    values = {path: _at(effective.as_dict(), path) for path in effective.origins}
    width = max(map(len, values))
    shown = {path: json.dumps(value, ensure_ascii=False) for path, value in values.items()}
    room = min(60, max(map(len, shown.values())))
    return [f"{path:<{width}}  {text:<{room}}  {effective.origins[path]}" for path, text in shown.items()]


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values[part]
    return values


def _set(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.config_file import edit_config_file
    from guild.campaigns.overrides import set_overrides
    from modelwright.config import override_layer

    changes = override_layer(arguments.changes).values
    if arguments.installation:
        changed = edit_config_file(places, changes, unlock=arguments.unlock, reason=arguments.reason)
        line = f"Changed in {places.config_file}: {', '.join(changed)}" if changed else "Nothing changed: those values stand there already."
        say(arguments, {"file": str(places.config_file), "changed": changed}, [line])
        return 0
    folder = set_overrides(places, _campaign(places, arguments), changes)
    overrides = folder.campaign.config_overrides
    text = json.dumps(overrides, ensure_ascii=False, sort_keys=True)
    say(arguments, {"campaign": list(folder.key), "config_overrides": overrides}, [f"Overrides of {'/'.join(folder.key)}: {text}"])
    return 0


def _lock(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.config_lock import check_lock, create_lock, remove_lock
    from guild.campaigns.effective_config import build_effective

    folder = _campaign(places, arguments)
    name = "/".join(folder.key)
    if arguments.action == "remove":
        remove_lock(places, folder, arguments.reason)
        say(arguments, {"campaign": list(folder.key), "locked": None}, [f"Removed the lock of {name}."])
        return 0
    config = build_effective(places, folder).value
    if arguments.action == "create":
        create_lock(places, folder, config)
    elif not check_lock(folder, config):
        print(f"Campaign {name} has no lock that binds yet; its first training sets one.", file=sys.stderr)
        return 1
    word = "Locked" if arguments.action == "create" else "The lock agrees"
    lines = [f"{word}: {name}", *(f"  {field} {value}" for field, value in config.locked.items())]
    say(arguments, {"campaign": list(folder.key), "locked": config.locked}, lines)
    return 0


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {"show": _show, "set": _set, "lock": _lock}


if __name__ == "__main__":
    raise SystemExit(run())

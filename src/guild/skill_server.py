"""`python -m guild.skill_server bin`: serve the problems of one skill over HTTP, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guild.command import process
from guild.hosts.addresses import LOOPBACK
from guild.places import Places
from modelwright.errors import ConfigError, Fault, LoadError, UsageError

if TYPE_CHECKING:
    from guild.skills.contract import Skill

_EXAMPLES = """\
examples:
  python -m guild.skill_server bin
  python -m guild.skill_server bin --port 8095 --config configs/skills/bin.yaml
  python -m guild.skill_server bin --option forms=[brief] --option operations=[increment,decrement] \\
      --option auxiliary_share=0 --option tasks=[] --option symbol_share=0 --option chains=false
  curl -X POST http://127.0.0.1:8090/generate -d '{"level": 3, "count": 5, "seed": 1}'

exit codes:
  0  ended by SIGTERM or Ctrl-C
  1  unknown skill, a class that cannot be loaded, a missing package, a port in use
  2  wrong arguments, options or skill file
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m guild.skill_server`."""
    parser = argparse.ArgumentParser(
        prog="python -m guild.skill_server",
        description="Serve the problems of one skill over HTTP: /health, /info, /levels, /eval and /generate. It listens on this machine "
        "only unless --host says otherwise, reads no secret and changes nothing.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("skill", metavar="SKILL", help="id or alias: bin, sy, or one that you added")
    parser.add_argument(
        "--port", type=int, metavar="P", help="0 for a free one (default: that of this host in config/hosts.json, else the skill file's)"
    )
    parser.add_argument("--host", default=LOOPBACK, metavar="H", help=f"address to listen on (default: {LOOPBACK})")
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="a further name that requests may call us by")
    parser.add_argument(
        "--config", type=Path, metavar="F", help="skill file (default: configs/skills/SKILL.yaml of the base directory, if there)"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="an option of the skill, above the file's")
    parser.add_argument("--base-dir", metavar="D", help="the guild's base directory (default: TRAINING_BASE_DIR)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal; returns 0 then. Raises ModelwrightError for whatever keeps it from serving."""
    arguments = build_parser().parse_args(argv)
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise UsageError(f"--port: found {arguments.port}; allowed: a port from 0 to 65535.")
    from guild.skills.names import canonical

    places = Places.of(arguments.base_dir)
    skill, port = chosen_skill(arguments.skill, places, arguments.config, arguments.option)
    chosen = arguments.port if arguments.port is not None else registered_port(places, canonical(arguments.skill))
    return serve(skill, arguments.host, port if chosen is None else chosen, arguments.allow_host)


def registered_port(places: Places, skill: str) -> int | None:
    """The port that the hosts registry gives this machine's server of a skill, where clients look for it; None when it lists none, or when
    there is no registry. Raises ConfigError and DamagedFileError for one that cannot be used. (specs/guild.md 1.3, 2.1.10)"""
    from guild.hosts.addresses import skill_service
    from guild.hosts.registry import load_registry

    if not places.hosts.is_file():
        return None
    service = load_registry(places).get_local_host().services.get(skill_service(skill))
    return None if service is None else service.port


def chosen_skill(name: str, places: Places, config: Path | None, overrides: Sequence[str]) -> tuple[Skill, int]:
    """The skill with the options of its file and the command line, and the port of its file or of the table. Raises ModelwrightError."""
    from guild.skills.names import canonical
    from guild.skills.registry import DEFAULT_PORTS, load_skill, make_skill, read_skill_file
    from modelwright.config import override_layer

    skill, folder = canonical(name), places.skills
    path = config if config is not None else folder / f"{skill}.yaml"
    document: dict[str, Any] = read_skill_file(path) if config is not None or path.is_file() else {}
    if document and canonical(str(document["id"])) != skill:
        raise ConfigError([Fault(f"{path} id", repr(document["id"]), f"{skill}, the skill to serve")])
    options = {**(document.get("options") or {}), **override_layer(overrides).values}
    made = make_skill(document["class"], options, skill) if "class" in document else load_skill(skill, folder=folder, options=options)
    port = (document.get("api") or {}).get("port", DEFAULT_PORTS.get(skill, 0))
    return made, port


def serve(skill: Skill, host: str, port: int, allowed_hosts: Sequence[str] = ()) -> int:
    """Listen, say where on standard output, and answer until SIGTERM or SIGINT. Raises ModelwrightError when the port is taken."""
    try:
        from guild.skills.listening import bind, run_until_signal
        from guild.skills.server import make_app
    except ModuleNotFoundError as error:
        raise LoadError(f"A skill server needs the package {error.name}; install it by `pip install 'modelwright[skills]'`.") from error

    held = bind(host, port)
    with held:
        number = held.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        app = make_app(skill, (host, number), allowed_hosts)
        return run_until_signal(app, held, lambda: print(f"serving {skill.id} at http://{shown}:{number}", flush=True))


def run() -> int:
    """The process: errors as sentences."""
    code = process(main)
    if code == 0 and any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        # a batch that nobody waits for any more is still being made; it changes nothing, so it need not be finished
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    raise SystemExit(run())

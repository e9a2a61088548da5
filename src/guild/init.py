"""`guild init`, also `python -m guild.init`: what a base directory needs, written for this machine. (specs/guild.md 4.3, 4.4, 4.11)

Nothing that is there is touched; what is missing is added, and both are said.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guild.command import answered, process, say
from guild.places import PRIORITIES, VARIABLE, Places

_EXAMPLES = """\
examples:
  guild init
  guild init --base-dir /data/guild --role trainer --host-id forge --address forge.lan
  guild init --json

exit codes:
  0  everything is there now
  1  something could not be written, or what is there is damaged
  2  wrong arguments
"""
ROLES = ("hybrid", "trainer", "inference")
NEEDED_SERVICES = ("training", "ledger", "vault")
"""Services that components look up on every installation."""


@dataclass
class Report:
    """What was done. made, kept: paths below the base directory. notices: sentences about what a person should look at."""

    base: Path
    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def note(self, path: Path, made: bool) -> None:
        (self.made if made else self.kept).append(str(path.relative_to(self.base)))


def initialise(
    places: Places, *, role: str = "hybrid", host_id: str = "local", address: str | None = None, devices: Mapping[str, str] | None = None
) -> Report:
    """Make folders and settings that are missing below the base directory.

    role: of this machine (`hybrid` trains and serves). address: by which other machines reach it (default: loopback). devices: torch
    device by role, looked up when not given. Raises StorageError.
    """
    from guild.templates import FOLDER
    from modelwright.files import make_folder

    report = Report(places.base)
    for folder in _folders(places):
        report_made = not folder.is_dir()
        make_folder(folder)
        if report_made:
            report.note(folder, made=True)
    if not places.hosts.exists():
        found, notice = (dict(devices), "") if devices is not None else find_devices()
        report.notices += [notice] if notice else []
        _write(report, places.hosts, _text(_hosts(places, role, host_id, address, found)))
    else:
        report.note(places.hosts, made=False)
        report.notices += _registry_notices(places)
    _write(report, places.storage, _text(_storage(places)))
    _write(report, places.schedule, (FOLDER / "schedule.yaml").read_text(encoding="utf-8"))
    for kind, target in (("heroes", places.heroes), ("skills", places.skills)):
        for source in sorted((FOLDER / kind).glob("*.yaml")):
            _write(report, target / source.name, source.read_text(encoding="utf-8"))
    return report


def find_devices() -> tuple[dict[str, str], str]:
    """Torch device by role, and a sentence when something could not be found out.

    No GPU: both roles on the processor. One GPU: both share it, so evaluations run between files. Two or more: one each.
    """
    from modelwright.hardware import inventory

    found = inventory()
    if found.gpu_count is None:
        why = found.unknown.get("gpu_count", "unknown")
        return {
            "trainer": "cpu",
            "inference": "cpu",
        }, f"The GPUs could not be read ({why}), so both devices are cpu; correct config/hosts.json."
    if found.gpu_count == 0:
        return {"trainer": "cpu", "inference": "cpu"}, ""
    return {"trainer": "cuda:0", "inference": "cuda:1" if found.gpu_count > 1 else "cuda:0"}, ""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild init`."""
    parser = argparse.ArgumentParser(
        prog="guild init",
        description="Write hosts registry, storage, schedule, heroes and skills for this machine, and the folders. Nothing is overwritten.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base-dir", metavar="D", help=f"the guild's folder (default: {VARIABLE}, else its home)")
    parser.add_argument("--role", choices=ROLES, default="hybrid", help="what this machine does (default: hybrid, both)")
    parser.add_argument("--host-id", default="local", metavar="ID", help="its id in the registry (default: local)")
    parser.add_argument("--address", metavar="A", help="name or address by which other machines reach it (default: this machine alone)")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild init ARGV`; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    return answered(lambda: _write_settings(arguments))


def run() -> int:
    """The console form."""
    return process(main)


def _write_settings(arguments: argparse.Namespace) -> int:
    places = Places.of(arguments.base_dir)
    report = initialise(places, role=arguments.role, host_id=arguments.host_id, address=arguments.address)
    content = {"base_dir": str(report.base), "made": report.made, "kept": report.kept, "notices": report.notices}
    say(arguments, content, _lines(report))
    return 0


def _lines(report: Report) -> Iterable[str]:
    yield f"The guild lives in {report.base}"
    for path in report.made:
        yield f"  made  {path}"
    for path in report.kept:
        yield f"  kept  {path}"
    yield from report.notices
    yield "Everything was there already." if not report.made else 'Next: guild campaign new --hero tiny --name "First try"'


def _folders(places: Places) -> tuple[Path, ...]:
    return (
        places.base, places.inbox, *(places.level(priority) for priority in PRIORITIES), places.processing, places.failed,
        places.recently_completed, places.control, places.status, places.baselines, places.logs, places.models, places.snapshots,
        places.campaigns, places.archive, places.data_manager, places.rejected, places.reports, places.sparring_data,
        places.validation_data, places.hosts.parent, places.heroes, places.skills,
    )  # fmt: skip


def _write(report: Report, path: Path, text: str) -> None:
    """Write a file that is not there. The link makes it appear whole, and only when nothing of that name has come in between."""
    import os

    from modelwright.errors import storage_error
    from modelwright.files import write_text

    if path.exists():
        report.note(path, made=False)
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    write_text(draft, text)
    try:
        os.link(draft, path)
    except FileExistsError:
        report.note(path, made=False)
        return
    except OSError as error:
        raise storage_error(error, path, "write") from error
    finally:
        draft.unlink()
    report.note(path, made=True)


def _hosts(places: Places, role: str, host_id: str, address: str | None, devices: Mapping[str, str]) -> dict[str, Any]:
    import socket

    content = _template("hosts.json")
    host = content["hosts"].pop("local")
    host |= {"name": socket.gethostname(), "role": role, "base_dir": str(places.base), "models_dir": str(places.models)}
    host |= {"checkpoints_dir": str(places.campaigns), "devices": dict(devices), "host": address or host["host"]}
    host["capabilities"] = sorted({"training", "inference"} if role == "hybrid" else {{"trainer": "training"}.get(role, role)})
    host["services"] = {name: service for name, service in host["services"].items() if name in _services(role, host["services"])}
    content["hosts"] = {host_id: host}
    trains, serves = role in ("hybrid", "trainer"), role in ("hybrid", "inference")
    return {**content, "local_host": host_id, "default_trainer": host_id if trains else "", "default_inference": host_id if serves else ""}


def _services(role: str, all: Iterable[str]) -> set[str]:
    """What runs where. (specs/guild.md 8.1) A branch officer is for hosts other than the trainer."""
    serving = {"inference", "scheduler", "warden"}
    if role == "inference":
        return {*serving, "branch"}
    return set(all) - {"branch"} if role == "hybrid" else set(all) - {"branch", "inference", "scheduler"}


def _storage(places: Places) -> dict[str, Any]:
    content = _template("storage.json")
    content["nas"]["base_path"] = str(places.base / "storage")
    return content


def _registry_notices(places: Places) -> list[str]:
    """Sentences about a registry that was there before; a damaged one is an error."""
    from guild.hosts.registry import load_registry

    registry = load_registry(places)
    missing = [service for service in NEEDED_SERVICES if service not in registry.services]
    notices = [f"config/hosts.json lists no service {name}; add it, since it is looked up there." for name in missing]
    for role in ("trainer", "inference"):
        id = registry.document.default_trainer if role == "trainer" else registry.document.default_inference
        if id and role not in registry.get_host(id).devices:
            notices.append(f"config/hosts.json names no device for the {role}: set hosts.{id}.devices.{role} to cpu or cuda:0.")
    return notices


def _template(name: str) -> dict[str, Any]:
    from guild.templates import FOLDER
    from modelwright.files import read_json

    content: dict[str, Any] = read_json(FOLDER / name)
    return content


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    raise SystemExit(run())

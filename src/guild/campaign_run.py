"""`guild campaign-run`, also `python -m guild.campaign_run`: heroes' other quests: runs of the other rooms for a campaign.

A context stretch, a medic training or evaluation, a sweep, an autotune: queued as a job with the campaign's newest checkpoint as its
model; the daemon starts it, and its result joins the campaign's history. (issue "Build" 8; specs/guild.md 8.5)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from guild.command import add_common, answered, say
from guild.places import Places

if TYPE_CHECKING:
    from guild.records.jobs import Job

_EXAMPLES = """\
examples:
  guild campaign-run stretch --target-context 4096 --contract contract.yaml
  guild campaign-run medic --config configs/medic/tiny.yaml
  guild campaign-run autotune -- --target-context 2000 --engine transformers
  guild campaign-run rebase --base-model modelwright/tiny-1.5m --checkpoint models/checkpoint-0 --name "Bigger"
  guild campaign-run list
  guild campaign-run pause 12

Words behind -- are passed on to the room's own command (python -m scaler_wizard.cli, cachemedicpp.train, macprovider.cli autotune).

exit codes:
  0  queued, asked, or shown
  1  refused: no active campaign, an unknown job, a full queue
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((), ("stretch",), ("rebase",))


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild campaign-run`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="guild campaign-run",
        description="Queue a run of another room for a campaign (the active one); its result joins the campaign's history.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    add_common(parser, nested=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, help: str, **more: Any) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = verbs.add_parser(name, help=help, description=more.pop("description", help), **more)
        add_common(added, nested=True)
        return added

    stretch = verb(
        "stretch",
        "stretch the context of the campaign's model; a child campaign goes on from it",
        formatter_class=raw,
        epilog="example: guild campaign-run stretch --target-context 4096 --contract contract.yaml -- --steps-per-rung 200",
    )
    stretch.add_argument("--target-context", type=int, metavar="TOKENS", help="context to reach")
    stretch.add_argument("--contract", metavar="FILE", help="the human contract that the wizard asks for")
    stretch.add_argument("--config", metavar="FILE", help="a job document of the wizard's; flags override it")
    stretch.add_argument("--no-child", action="store_true", help="keep the stretched model as a run alone")
    stretch.add_argument("--child-name", metavar="N", help="name of the child campaign")
    stretch.add_argument("--child-max-length", type=int, metavar="TOKENS", help="training length of the child (default: as the parent's)")
    medic = verb("medic", "train a repair operator for the cache", epilog="example: guild campaign-run medic --config medic.yaml")
    medic.add_argument("--config", required=True, metavar="YAML", help="run configuration; its model.name becomes the campaign's model")
    medic_eval = verb("medic-eval", "evaluate a repair operator", epilog="example: guild campaign-run medic-eval --train 12")
    medic_eval.add_argument("--train", type=int, metavar="JOB", help="the job that trained it")
    medic_eval.add_argument("--config", metavar="YAML", help="with --run, instead of --train")
    medic_eval.add_argument("--run", metavar="DIR", help="the run directory of its training")
    sweep = verb("sweep", "train and evaluate every run of a sweep", epilog="example: guild campaign-run sweep --config sweep.yaml")
    sweep.add_argument("--config", required=True, metavar="YAML", help="sweep file")
    example = "example: guild campaign-run autotune -- --target-context 2000"
    autotune = verb("autotune", "find the best settings to serve with", epilog=example)
    for one in (stretch, medic, medic_eval, sweep, autotune):
        one.add_argument("--campaign", nargs=2, metavar=("HERO", "CAMPAIGN"), help="another campaign than the active one")
        one.add_argument("--model", metavar="DIR", help="another model than the campaign's newest checkpoint")
        one.add_argument("--priority", choices=("high", "normal", "low"), default="normal")
        one.add_argument("--reason", default="", metavar="TEXT", help="why, for the job's record")
    rebase = verb("rebase", "open a child campaign on a new base model", epilog="exit codes: 0 opened, 1 refused, 2 wrong arguments")
    rebase.add_argument("--base-model", required=True, metavar="MODEL", help="hub id, folder or modelwright/tiny-*")
    rebase.add_argument("--checkpoint", required=True, metavar="C", help="the folder it starts from, named checkpoint-<step>")
    rebase.add_argument("--hero", metavar="H", help="another hero than the parent's")
    rebase.add_argument("--name", required=True, metavar="N", help="a name for people")
    rebase.add_argument("--campaign", nargs=2, metavar=("HERO", "CAMPAIGN"), help="another parent than the active campaign")
    verb("list", "runs of other rooms that wait, run, or ended", epilog="example: guild campaign-run list --json")
    for name, what in (("pause", "save and rest, keeping its place"), ("resume", "go on after a pause"), ("cancel", "end it for good")):
        verb(name, f"ask a run to {what}", epilog=f"example: guild campaign-run {name} 12").add_argument("job", type=int, metavar="JOB")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run `guild campaign-run ARGV`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    arguments = build_parser().parse_args(words[:cut])
    arguments.rest = words[cut + 1 :]
    return answered(lambda: _VERBS[arguments.verb](Places.of(arguments.base_dir), arguments))


def run() -> int:
    """The console form."""
    from modelwright.cli import console

    return console(main)


def _queue(places: Places, arguments: argparse.Namespace) -> int:
    from guild.records.database import open_guild
    from guild.records.jobs import submit
    from guild.side_jobs.asked import Asked, new_run

    known = {name: getattr(arguments, name, None) for name in Asked.__dataclass_fields__ if name != "words"}
    asked = Asked(**{name: value for name, value in known.items() if value is not None}, words=tuple(arguments.rest))
    with open_guild(places) as db:
        done = submit(db, new_run(db, places, arguments.verb, asked))
    lines = [f"Job {done.job.id} ({done.job.kind}) is queued for {done.job.campaign}."]
    lines += [f"Model: {done.job.payload['model']}"] if done.job.payload.get("model") else []
    lines += [done.warning] if done.warning else []
    say(arguments, {"job": done.job.as_dict(), "warning": done.warning}, lines)
    return 0


def _rebase(places: Places, arguments: argparse.Namespace) -> int:
    from guild.campaigns.lineage import open_child
    from guild.side_jobs.asked import campaign_meant

    parent = campaign_meant(places, arguments.campaign)
    child = open_child(
        places, parent, arguments.name, arguments.checkpoint, base_model=arguments.base_model, hero_id=arguments.hero
    )  # fmt: skip
    key = "/".join(child.key)
    line = f"Campaign {key} is opened; choose it by `guild campaign switch {' '.join(child.key)}`."
    say(arguments, {"campaign": key, "path": str(child.path)}, [line])
    return 0


def _list(places: Places, arguments: argparse.Namespace) -> int:
    from guild.records.database import open_guild
    from guild.records.jobs import list_jobs
    from guild.side_jobs.rooms import ROOMS

    with open_guild(places) as db:
        listed = list_jobs(db, kinds=tuple(ROOMS), order="newest", limit=200)
    lines = [_line(job) for job in listed.jobs] or ["No run of another room was asked for."]
    say(arguments, {"jobs": [job.as_dict() for job in listed.jobs], "damaged": list(listed.damaged)}, [*lines, *listed.damaged])
    return 0


def _line(job: Job) -> str:
    end = f"  {str(job.error).splitlines()[0]}" if job.error and job.state != "completed" else ""
    return f"{job.id:>6}  {job.kind:<12} {job.state:<10} step {job.position:<8} {job.campaign or '-'}  {job.run or '-'}{end}"


def _ask(places: Places, arguments: argparse.Namespace) -> int:
    from guild.records import jobs
    from guild.records.database import open_guild
    from guild.side_jobs.asked import ask_run

    with open_guild(places) as db:
        job = jobs.get(db, arguments.job)
        sentence = ask_run(db, places, job, arguments.verb)
    say(arguments, {"job": job.id, "asked": arguments.verb, "message": sentence}, [sentence])
    return 0


_VERBS: dict[str, Callable[[Places, argparse.Namespace], int]] = {
    "stretch": _queue,
    "medic": _queue,
    "medic-eval": _queue,
    "sweep": _queue,
    "autotune": _queue,
    "rebase": _rebase,
    "list": _list,
    "pause": _ask,
    "resume": _ask,
    "cancel": _ask,
}

if __name__ == "__main__":
    raise SystemExit(run())

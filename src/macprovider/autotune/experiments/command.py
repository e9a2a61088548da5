"""`macprovider-cli autotune experiment NAME`: test the method itself on this machine. (specs/autotune.md, 14)"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from macprovider.autotune import parse_rules as rules
from macprovider.autotune.arguments import WrongArguments, build_parser, parse
from macprovider.autotune.engine import with_engine
from macprovider.autotune.experiments.runs import EXPERIMENTS, Plan, body
from macprovider.autotune.options import Inputs, Options
from macprovider.autotune.outcome import SetupError
from macprovider.autotune.parse_rules import Faults
from macprovider.autotune.run import execute
from macprovider.autotune.session import World

LEAST_PAIRS, LEAST_IDLE_S = 10, 60
MANY_REPLICATES = 10
LEAST_REPLICATES = 3
NOISE = ("tie-epsilon", "replicates")
"""Experiments about the noise of one cell: they want many replicates of it."""
UNUSED = ("apply", "compare", "show_pareto", "resume", "prune", "quality_gate")
"""Switches that mean something for tuning alone."""
REPAIRED = ("order-bias",)
"""Experiments that measure every cell of a tuning, those with an operator too; the others ask about one cell, or about the cache alone."""


def main(argv: Sequence[str]) -> int:
    """Run one experiment; exit statuses as those of `autotune`."""
    from macprovider.autotune.records import stored

    words = list(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(contents())
        return 0
    try:
        options, plan = parse_experiment(words)
    except WrongArguments as error:
        return stored.refused(error)
    if options.dry_run:
        print(f"experiment {plan.name}: {EXPERIMENTS[plan.name][0]}; models: {', '.join(plan.models)}")
        return stored.dry_run(options)
    try:
        return execute(options, World(), body(plan), plan.name)
    except SetupError as error:
        return stored.unusable(error)


def contents() -> str:
    """The table of experiments."""
    width = max(map(len, EXPERIMENTS))
    return "\n".join(
        [
            "usage: macprovider-cli autotune experiment NAME [--model ID] [--pairs N] [--pair-idle S] [flags of autotune]",
            "",
            "Each experiment measures ordinary trials under a run of its own, says what it found, and changes no default.",
            "",
            *(f"  {name:<{width}}  {what}" for name, (what, _) in EXPERIMENTS.items()),
            "",
            "  --model ID       the model to measure (needed by order-bias; else the candidate list)",
            f"  --pairs N        order-bias: forward and reverse runs (default and least {LEAST_PAIRS})",
            f"  --pair-idle S    order-bias: seconds of rest between pairs (default and least {LEAST_IDLE_S})",
            "",
            f"--stage2-replicates is {MANY_REPLICATES} for {' and '.join(NOISE)} unless given.",
            "All other flags: macprovider-cli autotune --help",
            "",
            "example:",
            "  macprovider-cli autotune experiment tie-epsilon --model modelwright/tiny-0.4m --target-context 256 --max-tokens 16",
        ]
    )


def parse_experiment(words: Sequence[str]) -> tuple[Options, Plan]:
    """Options and plan of a command line. Raises WrongArguments with every fault."""
    name, flags = words[0], list(words[1:])
    faults = Faults()
    if name not in EXPERIMENTS:
        faults.add("experiment", repr(name), ", ".join(EXPERIMENTS))
    if name in NOISE and not any(word.split("=")[0] == "--stage2-replicates" for word in flags):
        flags += ["--stage2-replicates", str(MANY_REPLICATES)]
    parser = build_parser(f"macprovider-cli autotune experiment {name}")
    for flag, what in (("--model", "the model to measure"), ("--pairs", "pairs of runs"), ("--pair-idle", "seconds between pairs")):
        parser.add_argument(flag, help=what)
    try:
        options, given = parse(flags, parser)
    except WrongArguments as error:
        raise WrongArguments([*faults, *error.faults], error.inputs, error.db_path, error.switches) from error
    pairs = rules.whole(faults, "--pairs", given.pairs or str(LEAST_PAIRS), LEAST_PAIRS)
    idle = rules.whole(faults, "--pair-idle", given.pair_idle or str(LEAST_IDLE_S), LEAST_IDLE_S)
    models = rules.models(faults, "--model", given.model) if given.model is not None else options.candidate_models
    if name == "order-bias" and given.model is None:
        faults.add("--model", "nothing", "the id of the model whose cells are compared")
    elif models is not None and given.model is not None and len(models) != 1:
        faults.add("--model", repr(given.model), "one model")
    if name in NOISE and options.stage2_replicates < LEAST_REPLICATES:
        faults.add("--stage2-replicates", str(options.stage2_replicates), f"a whole number of at least {LEAST_REPLICATES} for {name}")
    for flag in ("report_only", "check_stale"):
        if getattr(options, flag):
            faults.add("arguments", f"--{flag.replace('_', '-')}", "flags of a run that measures", "Leave the word experiment out")
    if faults:
        inputs = Inputs.of({field: getattr(options, field) for field in Inputs.__dataclass_fields__})
        switches = {name: bool(getattr(options, name)) for name in ("json", "dry_run", "report_only", "check_stale")}
        raise WrongArguments(faults, inputs, options.db_path, switches)
    assert models is not None and pairs is not None and idle is not None
    for flag in UNUSED:
        if getattr(options, flag):
            print(f"warning: --{flag.replace('_', '-')} has no meaning for an experiment and is not used.", file=sys.stderr)
    off: dict[str, Any] = dict.fromkeys(UNUSED, False)
    if options.repair is not None and name not in REPAIRED:
        print(f"warning: --repair has a meaning for {' and '.join(REPAIRED)} alone among the experiments and is not used.", file=sys.stderr)
        off["repair"] = None
    options = replace(options, candidate_models=models, **off)
    if options.engine_reason:  # other candidates, and without what is not used
        options = with_engine(options)
    return options, Plan(name, models, pairs, float(idle))

"""`python -m guild.run_transfer_baseline`, also `guild baseline`: transfer benchmarks over the inference API. (specs/guild.md 3.7)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from guild.command import process
from guild.places import VARIABLE, Places
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import UsageError

if TYPE_CHECKING:
    from guild.evaluation.answerers import Answerer
    from guild.evaluation.transfer import Plan

MODES = ("both", "primitives", "benchmarks", "skills", "all")
SAMPLES = 30
_EXAMPLES = """\
examples:
  guild baseline --tag base_0.6b --model Qwen3-0.6B
  guild baseline                                        tag trained_<step> of the one model that is served
  guild baseline --api-url "$INFERENCE_URL" --mode primitives --samples 10

The key comes from INFERENCE_READ_KEY or INFERENCE_ADMIN_KEY. Every kind of problem is saved when it is measured; after an interruption the
same command goes on. A request that fails or comes back empty is no result, never a wrong answer.

exit codes:
  0  the baseline is complete
  1  the API does not answer (nothing is written), a refusal, or it was interrupted (what was measured is saved)
  2  wrong arguments
"""


def add_common(parser: argparse.ArgumentParser) -> None:
    """The flags that both baseline commands have."""
    parser.add_argument("--tag", metavar="T", help="name of the baseline: base_… or trained_… (default: trained_<step> of the model)")
    parser.add_argument(
        "--mode",
        choices=MODES,
        help="which problems: skills are those of binary arithmetic and syllable puzzles, both the others (default: both)",
    )
    parser.add_argument("--primitives-only", action="store_true", help="the same as --mode primitives")
    parser.add_argument("--babi-only", action="store_true", help="the same as --mode benchmarks")
    parser.add_argument("--samples", type=int, default=SAMPLES, metavar="N", help=f"problems of each kind (default: {SAMPLES})")
    parser.add_argument("--profile", default="none", metavar="P", help="data profile whose system prompt is used (default: none)")
    parser.add_argument("--base-dir", metavar="DIR", help=f"the guild's house (default: ${VARIABLE}, else ~/.modelwright/guild)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild baseline`."""
    parser = argparse.ArgumentParser(
        prog="guild baseline",
        description="Measure a served model on 40 kinds of primitive problems and 20 kinds of short stories.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common(parser)
    parser.add_argument("--api-url", metavar="U", help="address of an OpenAI-compatible server (default: inference of config/hosts.json)")
    parser.add_argument("--model", metavar="M", help="which of the served models (default: the only one)")
    parser.add_argument("--parallel", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Measure; returns the exit code."""
    given = build_parser().parse_args(argv)
    check_common(given)
    if given.parallel < 1:
        raise UsageError(f"--parallel: found {given.parallel}; allowed: 1 or more.")
    from guild.evaluation.api import ApiAnswerer, api_key, choose_model
    from guild.evaluation.baselines import check_tag
    from guild.evaluation.transfer import Plan, baseline_prompt, chosen_mode, model_tag

    places, key = Places.of(given.base_dir), api_key()
    mode = chosen_mode(given.mode, given.primitives_only, given.babi_only)
    url = given.api_url or _registered(places)
    model = choose_model(url, key, given.model)
    plan = Plan(check_tag(given.tag or model_tag(model.step, model.id)), mode, given.samples)
    answerer = ApiAnswerer(url, model.id, baseline_prompt(given.profile, clock), key, given.parallel)
    return measure_and_tell(places, plan, answerer, clock)


def check_common(given: argparse.Namespace) -> None:
    """Refuse what the parser cannot. Raises UsageError, UnknownProfileError."""
    if given.samples < 1:
        raise UsageError(f"--samples: found {given.samples}; allowed: 1 or more.")
    from guild.training.profiles import get_profile

    get_profile(given.profile)


def measure_and_tell(places: Places, plan: Plan, answerer: Answerer, clock: Clock) -> int:
    """Run the plan until it is done or a signal comes, and say what came of it."""
    from guild.evaluation.transfer import run_baseline
    from modelwright.control import signals_as_requests

    with signals_as_requests() as signals:
        try:
            path = run_baseline(places, plan, answerer, stop=lambda: bool(signals), say=lambda line: print(line, flush=True), clock=clock)
        finally:
            answerer.close()
    print(f"The baseline {plan.tag} is complete: {path}")
    return 0


def _registered(places: Places) -> str:
    from guild.hosts.registry import load_registry

    return load_registry(places).get_service_url("inference")


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())

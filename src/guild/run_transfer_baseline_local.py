"""`python -m guild.run_transfer_baseline_local`, also `guild baseline-local`: transfer benchmarks in this process. (specs/guild.md 3.7)"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from guild.command import process
from guild.places import Places
from guild.run_transfer_baseline import add_common, check_common, measure_and_tell
from modelwright.clock import SYSTEM_CLOCK, Clock
from modelwright.errors import UsageError

_EXAMPLES = """\
examples:
  guild baseline-local --model-path modelwright/tiny-0.4m --tag base_tiny --samples 5
  guild baseline-local --model-path campaigns/tiny/campaign-001/checkpoints/checkpoint-400-20260101-0900
  guild baseline-local --model-path Qwen/Qwen3-0.6B --tag base_0.6b --device cuda:0 --max-memory 20

Every kind of problem is saved when it is measured; after an interruption the same command goes on.

exit codes:
  0  the baseline is complete
  1  a refusal, or it was interrupted (what was measured is saved)
  2  wrong arguments
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild baseline-local`."""
    parser = argparse.ArgumentParser(
        prog="guild baseline-local",
        description="Measure a model on 40 kinds of primitive problems and 20 kinds of short stories, without a server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_common(parser)
    parser.add_argument("--model-path", required=True, metavar="P", help="a folder, a hub id or modelwright/tiny-*")
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu or cuda[:n] (default: cpu)")
    parser.add_argument("--max-memory", type=float, metavar="GB", help="what weights and answers may take on the device")
    parser.add_argument("--batch", type=int, default=16, metavar="N", help="questions at a time (default: 16)")
    return parser


def main(argv: Sequence[str] | None = None, *, clock: Clock = SYSTEM_CLOCK) -> int:
    """Measure; returns the exit code."""
    given = build_parser().parse_args(argv)
    check_common(given)
    if given.batch < 1:
        raise UsageError(f"--batch: found {given.batch}; allowed: 1 or more.")
    if given.max_memory is not None and given.max_memory <= 0:
        raise UsageError(f"--max-memory: found {given.max_memory:g}; allowed: more than 0 GB.")
    if not (given.device in ("cpu", "cuda") or (given.device.startswith("cuda:") and given.device[5:].isdecimal())):
        raise UsageError(f"--device: found {given.device!r}; allowed: cpu, cuda or cuda:N.")
    from guild.evaluation.baselines import check_tag
    from guild.evaluation.local import LocalAnswerer
    from guild.evaluation.transfer import Plan, baseline_prompt, chosen_mode, local_step, model_tag

    mode = chosen_mode(given.mode, given.primitives_only, given.babi_only)
    tag = check_tag(given.tag or model_tag(local_step(given.model_path), given.model_path))
    memory = None if given.max_memory is None else round(given.max_memory * 1e9)
    prompt = baseline_prompt(given.profile, clock, given.model_path)
    answerer = LocalAnswerer(given.model_path, prompt, given.profile, given.device, given.batch, memory, clock)
    answerer.load()
    return measure_and_tell(Places.of(given.base_dir), Plan(tag, mode, given.samples), answerer, clock)


def run() -> int:
    """The process: errors as sentences."""
    return process(main)


if __name__ == "__main__":
    raise SystemExit(run())

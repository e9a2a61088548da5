"""`guild train-4b`, also `python -m guild.train_4b_full`: the low-memory recipe on one file, without a campaign. (guild.md 2.2.3, 3.8)

Whole weights in bfloat16, paged 8-bit AdamW, fused kernels, recomputed activations: the settings are the hero's, so any hero can be
trained this way. Normally a campaign does this, with queue and ledger.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from guild.command import answered
from guild.places import VARIABLE, Places
from modelwright.clock import SYSTEM_CLOCK
from modelwright.errors import LoadError

if TYPE_CHECKING:
    from guild.training.interface import Answer, Begun, Halt, Measured, Progress, SavedCheckpoint, TrainerConfig
    from guild.training.preview import Preview

DEFAULT_HERO = "titan-qwen3-4b"
_EXAMPLES = """\
examples:
  guild train-4b --data rows.jsonl --output outputs/qwen3-4b-8bit --max-steps 100
  guild train-4b --hero tiny --data rows.jsonl --output outputs/tiny --device cpu

exit codes:
  0  trained and saved
  1  failed: out of memory, a missing package, a file that cannot be trained
  2  wrong arguments
"""
HELP_PAGES: tuple[tuple[str, ...], ...] = ((),)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `guild train-4b`."""
    parser = argparse.ArgumentParser(
        prog="guild train-4b",
        description="Train one file with a hero's settings, by default those for a model of 4 billion parameters on a GPU of 24 GB.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="F", help="chat rows, one JSON object per line")
    parser.add_argument("--output", type=Path, required=True, metavar="D", help="folder for checkpoints")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop, saved, after so many optimizer steps (default: the whole file)")
    parser.add_argument("--hero", default=DEFAULT_HERO, metavar="ID", help=f"whose settings (default: {DEFAULT_HERO})")
    parser.add_argument("--device", metavar="D", help="cpu or cuda[:n] (default: a GPU if there is one)")
    parser.add_argument(
        "--base-dir", metavar="DIR", help=f"the guild's house with its heroes (default: ${VARIABLE}, else ~/.modelwright/guild)"
    )
    return parser


class Printer:
    """Hooks that print a line for a step and stop after `most` of them."""

    def __init__(self, most: int | None) -> None:
        self.most, self.steps = most, 0

    def begun(self, begun: Begun) -> None:
        print(f"{begun.total} steps in the file, from step {begun.start_step}.", flush=True)

    def halt(self) -> Halt | None:
        return "stop" if self.most is not None and self.steps >= self.most else None

    def paused(self, saved: SavedCheckpoint) -> Answer:
        return "stop"

    def disk_full(self, error: Exception) -> bool:
        return False

    def progress(self, progress: Progress) -> None:
        self.steps += 1
        rate = progress.tokens / progress.seconds if progress.seconds else 0.0
        print(
            f"step {progress.done}/{progress.total}  loss {progress.loss:.4f}  {rate:,.0f} tokens/s  {progress.seconds:.1f} s", flush=True
        )

    def measured(self, measured: Measured) -> None:
        if measured.val_loss is not None:
            print(f"step {measured.step}: validation loss {measured.val_loss:.4f}", flush=True)

    def previewed(self, preview: Preview) -> None:
        pass

    def saved(self, saved: SavedCheckpoint) -> None:
        print(f"saved {saved.path}", flush=True)


def recipe(places: Places, hero_id: str, data: Path, output: Path, device: str) -> TrainerConfig:
    """What the engine is told: the hero's settings and nothing of a campaign. Raises UnknownHeroError, ConfigError."""
    from guild.campaigns.config_schema import EffectiveConfig
    from guild.campaigns.heroes import get_hero
    from guild.campaigns.layers import hero_layer
    from guild.trainer.settings import hyperparams_of, monitoring_of
    from guild.training.interface import Data, Environment, ModelSource, Output, TrainerConfig
    from modelwright.config import Layer, resolve
    from modelwright.files import make_folder

    hero = get_hero(places, hero_id)
    own = {"hero_id": hero.id, "campaign_id": "recipe", "campaign_name": "recipe", "output_dir": str(output), "device": device}
    value = resolve(EffectiveConfig, [Layer("hero", hero_layer(places, hero)), Layer("recipe", own)]).value
    return TrainerConfig(
        data=Data(data.absolute()),
        model=ModelSource(value.model_path, rope_scaling=value.rope_scaling, context_length=value.context_length, device=device),
        output=Output(make_folder(output.absolute()), output / "training_status.json", make_folder(output.absolute() / "run")),
        environment=Environment(hero.id, "recipe", data.name, SYSTEM_CLOCK.now().date().isoformat()),
        hyperparams=replace(hyperparams_of(value), save_steps=0),
        monitoring=replace(monitoring_of(value), preview_every=0, micro_eval_every=0),
        profile=value.profile,
        locked=value.locked,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    given = build_parser().parse_args(argv)
    config = recipe(Places.of(given.base_dir), given.hero, given.data, given.output, given.device or _device())
    from guild.training.engine import TrainerEngine
    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    result = TrainerEngine(Printer(given.max_steps)).run_job(config)
    done = result.success or (result.outcome == "stopped" and not result.error_type)
    if not done:
        print(f"{result.error_type}: {result.error_message}", file=sys.stderr)
        return 1
    print(f"{result.done_steps} of {result.total_steps} steps, step {result.global_step} saved in {result.last_checkpoint_path}.")
    return 0


def _device() -> str:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise LoadError("Training needs PyTorch, which is not installed: pip install 'modelwright[training]'") from error
    return "cuda" if torch.cuda.is_available() else "cpu"


def run() -> int:
    """The process: errors as sentences."""
    return answered(main)


if __name__ == "__main__":
    raise SystemExit(run())

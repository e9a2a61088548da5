"""`guild train-4b`, also `python -m guild.train_4b_full`: the low-memory recipe on one file, without a campaign. (guild.md 2.2.3, 3.8)

Whole weights in bfloat16, paged 8-bit AdamW, fused kernels, recomputed activations: the settings are the hero's, so any hero can be
trained this way. Normally a campaign does this, with queue and ledger.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from guild.command import answered
from guild.places import VARIABLE, Places
from modelwright.clock import SYSTEM_CLOCK
from modelwright.errors import ConfigError, Fault, LoadError

if TYPE_CHECKING:
    from guild.campaigns.effective_config import Effective
    from guild.campaigns.heroes import Hero
    from guild.training.interface import Answer, Begun, Busy, Halt, Measured, Progress, SavedCheckpoint, TrainerConfig
    from guild.training.preview import Preview

DEFAULT_HERO = "titan-qwen3-4b"
CAMPAIGN = "recipe"
_EXAMPLES = """\
Rows are chats: {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}. The base model is a folder
of the house (models/<name>), a hub id in the Hugging Face cache, or is fetched. A checkpoint holds weights, optimizer and tokenizer,
about 19 GB with 4 billion parameters; one that --output holds already is gone on from.

examples:
  guild train-4b --data rows.jsonl --output outputs/qwen3-4b-8bit --dry-run
  guild train-4b --data rows.jsonl --output outputs/qwen3-4b-8bit --max-steps 100
  guild train-4b --hero tiny --data rows.jsonl --output outputs/tiny --device cpu

exit codes:
  0  trained and saved; with --dry-run: it could begin
  1  failed or refused: out of memory, a missing package or model, a file that cannot be trained
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
    parser.add_argument(
        "--max-steps", type=_steps, metavar="N", help="stop, saved, after so many optimizer steps (default: the whole file)"
    )
    parser.add_argument("--hero", default=DEFAULT_HERO, metavar="ID", help=f"whose settings (default: {DEFAULT_HERO})")
    parser.add_argument("--device", metavar="D", help="cpu or cuda[:n] (default: a GPU if there is one)")
    parser.add_argument(
        "--base-dir", metavar="DIR", help=f"the guild's house with its heroes (default: ${VARIABLE}, else ~/.modelwright/guild)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be trained and what stands against it; load and write nothing"
    )
    return parser


class Printer:
    """Hooks that print a line for a step and stop after `most` of them."""

    def __init__(self, most: int | None) -> None:
        self.most, self.steps = most, 0

    def during(self, work: Busy) -> AbstractContextManager[None]:
        return nullcontext()

    def begun(self, begun: Begun) -> None:
        rows, packing = begun.reports["preparation"], begun.reports["packing"]
        print(f"{rows['training_rows']} rows in {packing['windows']} windows, {rows['validation_rows']} held out.")
        print(f"{begun.total - begun.done} of the file's {begun.total} steps to go, from step {begun.start_step}.", flush=True)

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


@dataclass(frozen=True)
class Recipe:
    """What would be trained. effective: the hero's settings, every one, and nothing of a campaign. checkpoint, prompt_date: of the newest
    checkpoint in `output`, which is gone on from; None and today at the beginning. faults: what stands against it."""

    hero: Hero
    effective: Effective
    data: Path
    output: Path
    checkpoint: Path | None
    prompt_date: str
    faults: tuple[Fault, ...]

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        from guild.campaigns.heroes import vram_estimate_gb

        value = self.effective.value
        kernels = value.liger_kernel.model_dump()
        fused = [name.removeprefix("fused_").replace("_", " ") for name, used in kernels.items() if used and name != "enabled"]
        yield f"{self.hero.name} ({self.hero.id}): all weights of {value.base_model} in {value.precision}, on {value.device}."
        yield f"  a step: {value.batch_size} x {value.gradient_accumulation} windows of at most {value.max_length} tokens" + (
            ", rows packed" if value.packing else ", one row each"
        )
        rates = value.optimizer_settings.muon
        rate = f"rates {rates.hidden_lr:g} and {rates.aux_lr:g}" if value.optimizer == "muon" else f"rate {value.learning_rate:g}"
        yield f"  {value.optimizer}, {rate}, {value.lr_scheduler}, {value.warmup_steps} steps of warm-up"
        yield f"  activations {'recomputed' if value.gradient_checkpointing else 'kept'}; fused kernels: " + (
            ", ".join(fused) if value.liger_kernel.enabled else "none"
        )
        if value.device != "cpu":
            yield f"  about {vram_estimate_gb(self.hero):.1f} GiB of GPU memory, as the hero's file estimates"
        begin = "from the base model" if self.checkpoint is None else f"going on from {self.checkpoint.name}"
        yield f"  data {self.data}; checkpoints in {self.output}, {begin}"

    def config(self) -> TrainerConfig:
        """What the engine is told; makes the output folder and writes the settings into its run. Raises StorageError."""
        from guild.campaigns.effective_config import write_effective
        from guild.trainer.settings import hyperparams_of, monitoring_of
        from guild.training.interface import Data, Environment, ModelSource, Output, TrainerConfig
        from modelwright.files import make_folder

        value, output = self.effective.value, make_folder(self.output)
        run = make_folder(output / "run")
        write_effective(run, self.effective)
        return TrainerConfig(
            data=Data(self.data, validation_split=value.validation_split, max_val=value.max_val),
            model=ModelSource(
                value.model_path,
                self.checkpoint,
                rope_scaling=value.rope_scaling,
                context_length=value.context_length,
                device=value.device,
            ),
            output=Output(output, output / "training_status.json", run),
            environment=Environment(self.hero.id, CAMPAIGN, self.data.name, self.prompt_date),
            hyperparams=replace(hyperparams_of(value), save_steps=0),
            monitoring=replace(monitoring_of(value), preview_every=0, micro_eval_every=0),
            profile=value.profile,
            locked=value.locked,
        )


def recipe(places: Places, hero_id: str, data: Path, output: Path, device: str) -> Recipe:
    """The plan for a file; reads no weights and writes nothing. Raises UnknownHeroError, ConfigError for a hero's wrong settings."""
    from guild.campaigns.config_schema import EffectiveConfig
    from guild.campaigns.effective_config import model_faults, untrainable_faults
    from guild.campaigns.heroes import get_hero
    from guild.campaigns.layers import hero_layer
    from guild.records.checkpoint_marks import latest_resumable
    from modelwright.checkpoints import CheckpointStore
    from modelwright.config import Layer, resolve

    hero = get_hero(places, hero_id)
    data, output = data.absolute(), output.absolute()
    own = {"hero_id": hero.id, "campaign_id": CAMPAIGN, "campaign_name": CAMPAIGN, "output_dir": str(output), "device": device}
    effective = resolve(EffectiveConfig, [Layer("hero", hero_layer(places, hero)), Layer(CAMPAIGN, own)])
    faults = [] if data.is_file() else [Fault("--data", f"no file {data}", "a file of chat rows", "Give its path")]
    newest = latest_resumable(output).path
    told = {} if newest is None else CheckpointStore(output, writer=False).get(newest.name).metadata
    if newest is not None and told.get("hero_id") != hero.id:
        found = f"{newest.name} of the hero {told.get('hero_id')}"
        faults.append(Fault("--output", found, f"an empty folder, or checkpoints of {hero.id}", "Name another folder"))
    if newest is None:
        faults += model_faults(effective)
    faults += untrainable_faults(effective.value)
    today = SYSTEM_CLOCK.now().date().isoformat()
    return Recipe(hero, effective, data, output, newest, str(told.get("prompt_date", today)), tuple(faults))


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code."""
    given = build_parser().parse_args(argv)
    plan = recipe(Places.of(given.base_dir), given.hero, given.data, given.output, given.device or _device())
    print("\n".join(plan.lines()), flush=True)
    if plan.faults:
        print(ConfigError(plan.faults), file=sys.stderr)
        return 1
    if given.dry_run:
        return 0
    from guild.training.engine import TrainerEngine
    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    result = TrainerEngine(Printer(given.max_steps)).run_job(plan.config())
    done = result.success or (result.outcome == "stopped" and not result.error_type)
    if not done:
        print(f"{result.error_type}: {result.error_message}", file=sys.stderr)
        return 1
    print(f"{result.done_steps} of {result.total_steps} steps, step {result.global_step} saved in {result.last_checkpoint_path}.")
    return 0


def _steps(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: 1 or more steps")
    return number


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

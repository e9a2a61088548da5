"""The low-memory recipe as `guild train-4b` runs it: its plan, its settings, the engine; five steps, then one more from its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.guild_training.figures import rates
from benchmarks.guild_training.memory_watch import MemoryWatch
from benchmarks.guild_training.optimizer_runs import Watch
from benchmarks.guild_training.subjects import RECIPE_STEPS, Subjects

from guild.training.interface import Halt

if TYPE_CHECKING:
    from guild.train_4b_full import Recipe

RESUMED_STEPS = 1
SETTINGS = (
    "precision", "optimizer", "batch_size", "gradient_accumulation", "max_length", "learning_rate", "warmup_steps", "lr_scheduler",
    "gradient_checkpointing", "packing",
)  # fmt: skip


class FewSteps(Watch):
    """Stops after so many steps."""

    def __init__(self, most: int) -> None:
        super().__init__(None)
        self.most = most

    def halt(self) -> Halt | None:
        return "stop" if len(self.steps) >= self.most else None


def recipe_run(subjects: Subjects, hero: str, device: str) -> dict[str, Any]:
    """Train by a hero's recipe. What stands against it is `message`, as the command says it."""
    from guild.campaigns.heroes import vram_estimate_gb
    from guild.training.engine import TrainerEngine
    from guild.training.quiet import quiet_libraries
    from modelwright.errors import ConfigError

    quiet_libraries()
    plan = _plan(subjects, hero, device)
    value = plan.effective.value
    settings = {name: getattr(value, name) for name in SETTINGS} | {"liger_kernel": value.liger_kernel.enabled}
    row: dict[str, Any] = {"hero": hero, "settings": settings, "hero_estimate_gib": round(vram_estimate_gb(plan.hero), 2)}
    if plan.faults:
        return row | {"outcome": "refused", "message": str(ConfigError(plan.faults))}
    memory, watch = MemoryWatch(device), FewSteps(RECIPE_STEPS)
    result = TrainerEngine(watch).run_job(plan.config())
    if result.outcome == "failed" or result.error_type:
        return row | {"outcome": "failed", "error_type": result.error_type, "message": result.error_message, "peak": memory.read()}
    begun = watch.begins
    assert begun is not None
    packing = begun.reports["packing"]
    return row | {
        "outcome": "trained",
        "before_bytes": memory.before,
        "peak": memory.read(),
        "state": watch.state,
        "steps": len(watch.steps),
        "global_step": result.global_step,
        "losses": watch.losses,
        "loss_first": watch.losses[0],
        "loss_last": watch.losses[-1],
        "mean_window": packing["tokens"] / packing["windows"],
        **rates([watch.timing]),
    }


def recipe_resumed(subjects: Subjects, hero: str, device: str) -> dict[str, Any]:
    """Go on from the checkpoint of `recipe_run`, as the same command would; in a process of its own, for pages are never given back."""
    from guild.training.engine import TrainerEngine
    from guild.training.quiet import quiet_libraries

    quiet_libraries()
    memory, watch = MemoryWatch(device), FewSteps(RESUMED_STEPS)
    result = TrainerEngine(watch).run_job(_plan(subjects, hero, device).config())
    begun = watch.begins
    return {
        "resume": {
            "began_at": None if begun is None else begun.start_step,
            "last_step": result.global_step,
            "losses": watch.losses,
            "note": "" if begun is None else begun.reports["optimizer"]["note"],
            "message": result.error_message,
        },
        "resumed_state": watch.state,
        "resumed_peak": memory.read(),
    }


def _plan(subjects: Subjects, hero: str, device: str) -> Recipe:
    from guild.train_4b_full import recipe

    return recipe(subjects.house, hero, subjects.recipe_rows, Path(subjects.root) / "runs" / hero, device)

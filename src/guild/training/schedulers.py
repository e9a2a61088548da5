"""A campaign's schedule as a torch scheduler whose state is the step alone. (specs/guild.md 2.2.2)"""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from guild.training.schedules import Schedule


class CampaignScheduler(LambdaLR):
    """Follows `schedule` for every group of an optimizer; the groups' rates when it is made are the full ones."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: Schedule, step: int = 0) -> None:
        self.schedule = schedule
        super().__init__(optimizer, schedule.factor)
        if step:
            self._place(step)

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the step of a checkpoint. The rates stay those of this configuration, whatever the optimizer's state said."""
        self._place(int(state_dict["last_epoch"]))

    def _place(self, step: int) -> None:
        self.last_epoch = step
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["initial_lr"], group["lr"] = base, base * self.schedule.factor(step)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def build_scheduler(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int = 0) -> CampaignScheduler:
    """A scheduler that stands at `step`, a number of optimizer steps of the campaign. Make it from a fresh optimizer, before a checkpoint
    is loaded into it: the optimizer's state carries the old configuration's rates, the scheduler's puts the new ones back."""
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return CampaignScheduler(optimizer, schedule, step)

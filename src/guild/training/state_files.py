"""What a checkpoint holds beside weights and tokenizer, so that training goes on bit for bit: optimizer, schedule, random states.

Every file is read back with `weights_only=True`: tensors and plain containers, no code.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch

from guild.training.optimizers.factory import load_optimizer_state
from modelwright.errors import DamagedFileError, MissingFileError

OPTIMIZER_FILE = "optimizer.pt"
SCHEDULER_FILE = "scheduler.pt"
RNG_FILE = "rng_state.pt"


def random_states() -> dict[str, Any]:
    """The states of Python's and torch's random numbers, CPU and every GPU, as plain containers and tensors."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """The reverse of `random_states`; the states of GPUs that are not there are passed over."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
            torch.cuda.set_rng_state(state, device)


def write_state(folder: Path, optimizer: torch.optim.Optimizer, scheduler: Any, states: dict[str, Any]) -> None:
    """Write the three files into a checkpoint that is being made."""
    torch.save(optimizer.state_dict(), folder / OPTIMIZER_FILE)
    torch.save(scheduler.state_dict(), folder / SCHEDULER_FILE)
    torch.save(states, folder / RNG_FILE)


def has_state(folder: Path) -> bool:
    """Whether training can go on from this checkpoint with its optimizer; older ones keep their weights alone."""
    return (folder / OPTIMIZER_FILE).is_file() and (folder / SCHEDULER_FILE).is_file()


def read_state(folder: Path, optimizer: torch.optim.Optimizer, scheduler: Any) -> dict[str, Any]:
    """Load optimizer and schedule in place and return the random states. Raises MissingFileError, DamagedFileError."""
    load_optimizer_state(optimizer, _load(folder / OPTIMIZER_FILE))
    scheduler.load_state_dict(_load(folder / SCHEDULER_FILE))
    return dict(_load(folder / RNG_FILE)) if (folder / RNG_FILE).is_file() else random_states()


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing; the checkpoint cannot be trained on.", path) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise DamagedFileError(
            path, str(error).splitlines()[0], "tensors saved by the trainer", "Go on from an older checkpoint"
        ) from error

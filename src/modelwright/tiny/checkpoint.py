"""The checkpoint of a tiny model's training: one safetensors file, replaced whole, with weights and optimizer state.

No random state is in it, because every step draws its batch from the seed and the step number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.errors import DamagedFileError, LoadError, MissingFileError
from modelwright.files import read_bytes, write_bytes

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

CHECKPOINT_NAME = "checkpoint.safetensors"


def save_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], identity: str, step: int) -> None:
    """One safetensors file holds weights and optimizer state; `identity` and `step` stand in its metadata."""
    from safetensors.torch import save

    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{number}.{index}.{key}": value for key, value in state.items()})
    metadata = {"identity": identity, "step": str(step)}
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def load_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], identity: str) -> int:
    """Load what `_save_checkpoint` wrote into `model` and `optimizers`; returns the number of steps done."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.exists():
        raise MissingFileError(f"There is no checkpoint at {path} to resume from; leave out --resume to start anew.", path)
    data = read_bytes(path)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise DamagedFileError(path, str(error), "a whole safetensors file", "Delete it and start anew") from error
    metadata = header["__metadata__"]
    if metadata["identity"] != identity:
        raise LoadError(f"The checkpoint {path} belongs to another recipe, seed or data; train into another folder or leave out --resume.")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"optimizer.{number}."):
                _, _, index, key = name.split(".", 3)
                state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(metadata["step"])

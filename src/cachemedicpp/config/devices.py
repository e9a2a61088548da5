"""Which device and number format a run really uses. Pure functions; torch is only asked in `runtime_device`."""

from __future__ import annotations

import re

from cachemedicpp.config.sections import DEVICE_PATTERN
from modelwright.errors import ConfigError, Fault

HALF_TYPES = ("float16", "bfloat16")


def check_device(name: str, cuda_available: bool, cuda_count: int) -> None:
    """Raise ConfigError naming the key `device` unless this machine has the device.

    cuda_available, cuda_count: what `torch.cuda.is_available()` and `torch.cuda.device_count()` say.
    """
    if not re.fullmatch(DEVICE_PATTERN, name):
        raise ConfigError([Fault("device", repr(name), "cpu, cuda or cuda:<i>", "name the device")])
    if name == "cpu":
        return
    if not cuda_available or cuda_count < 1:
        raise ConfigError(
            [Fault("device", f"{name!r}, and this machine has no CUDA device", "cpu", "set device: cpu, or run where a GPU is")]
        )
    index = int(name.partition(":")[2] or 0)
    if index >= cuda_count:
        allowed = "cpu, cuda, " + ", ".join(f"cuda:{number}" for number in range(cuda_count))
        raise ConfigError([Fault("device", f"{name!r}, and this machine has {cuda_count} CUDA device(s)", allowed, "name one of them")])


def runtime_dtype(dtype: str, device: str) -> str:
    """The number format that runs: half types become float32 on the CPU, where they are slow and partly missing."""
    return "float32" if device == "cpu" and dtype in HALF_TYPES else dtype


def runtime_device(name: str) -> str:
    """`name`, after asking torch whether this machine has it. Raises ConfigError as `check_device` does."""
    if name != "cpu":
        import torch

        check_device(name, torch.cuda.is_available(), torch.cuda.device_count())
    else:
        check_device(name, False, 0)
    return name

"""The value of `--repair`: a CacheMedic operator that can be measured beside quantised caches, or every reason why it cannot.

Whether its tensors fit a model is for `serve` to say. The one part of autotune that needs torch, and only when the flag is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from macprovider.autotune.parse_rules import Faults
from macprovider.engines.base import EngineName
from macprovider.engines.choice import REPAIRING
from modelwright.errors import ConfigError, DamagedFileError, ModelwrightError

FLAG = "--repair"
CHECKPOINT = "a repair_step_<N>.pt of CacheMedic, or the folder of a run that holds one"


def repair_checkpoint(faults: Faults, path: Path, kv_bits_axis: Sequence[int | None] | None, engine: EngineName | None) -> Path | None:
    """The file of the operator: of a run's folder the newest, named once, so that every cell gets the same. None with a fault for each
    reason against it. kv_bits_axis, engine: None where they could not be read, and say nothing then.
    """
    before = len(faults)
    if engine is not None and engine not in REPAIRING:
        allowed = f"--engine {' or '.join(REPAIRING)}"
        faults.add(FLAG, f"the engine {engine}, which carries no repair operator", allowed, "Name it, or leave --repair out")
    quantised = [] if kv_bits_axis is None else [kv_bits for kv_bits in kv_bits_axis if kv_bits is not None]
    if kv_bits_axis is not None and not quantised:
        faults.add(FLAG, "a --kv-bits-axis without 4 and 8", "an axis with one of them: a repair is measured beside a quantised cache")
    file = _file(faults, path)
    if file is not None:
        _check(faults, file, quantised)
    return file if len(faults) == before else None


def _file(faults: Faults, path: Path) -> Path | None:
    from macprovider.engines.embedded.repair import checkpoint_file

    if not str(path).isprintable():
        faults.add(FLAG, repr(str(path)), "a path of printable characters: it is stored, and printed as a command")
        return None
    if not path.exists():
        faults.add(FLAG, f"{path}, which does not exist", CHECKPOINT)
        return None
    try:
        return checkpoint_file(path)
    except ModelwrightError:
        faults.add(FLAG, f"{path}, which has no checkpoints/repair_step_<N>.pt", CHECKPOINT)
        return None


def _check(faults: Faults, file: Path, quantised: Sequence[int]) -> None:
    from macprovider.engines.embedded.repair import operator_spec, refusal

    try:
        spec = operator_spec(file)
    except DamagedFileError as error:
        faults.add(FLAG, f"{file}, which is no repair checkpoint ({error.where})", CHECKPOINT)
    except ConfigError as error:
        faults.extend(error.faults)
    except ModelwrightError as error:
        faults.add(FLAG, f"{file}, which cannot be read ({str(error).rstrip('.')})", CHECKPOINT)
    except (TypeError, ValueError, AttributeError) as error:  # a repair_config of other shapes than ours
        faults.add(FLAG, f"{file}, whose repair_config is none ({error})", CHECKPOINT)
    else:
        refused = refusal(spec, 4 if quantised else None)
        if refused is not None:
            faults.add(FLAG, f"{file}, which {refused[0]}", "an operator that is served beside a quantised cache", refused[1].capitalize())

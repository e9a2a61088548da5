"""A CacheMedic operator in a served model: its checkpoint, what is refused, and the block it runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from macprovider.engines.base import EngineError, KvBits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.operator import RepairOperator
    from cachemedicpp.repair.spec import OperatorSpec


def checkpoint_file(checkpoint: Path) -> Path:
    """The file that `checkpoint` stands for: a `repair_step_<N>.pt` itself, or the newest of a run's folder. Raises EngineError for a
    folder without one.
    """
    from cachemedicpp.training.state import FOLDER, latest_repair

    path = checkpoint.expanduser()
    if not path.is_dir():
        return path
    found = latest_repair(path.parent if path.name == FOLDER else path)
    if found is None:
        raise EngineError(
            f"repair: {checkpoint} holds no checkpoints/repair_step_<N>.pt; give the folder of a trained run, or one of its files."
        )
    return found


def operator_spec(file: Path) -> OperatorSpec:
    """What the operator in a checkpoint is. Raises DamagedFileError, StorageError, ConfigError; TypeError, ValueError or AttributeError
    for settings of other shapes than ours.
    """
    from cachemedicpp.repair.spec import OperatorSpec
    from cachemedicpp.training.state import read_document

    return OperatorSpec.from_mapping(read_document(file, "repair")["repair_config"])


def refusal(spec: OperatorSpec, kv_bits: KvBits | None) -> tuple[str, str] | None:
    """(what keeps an operator from being served beside a cache of `kv_bits`, what to do); None when nothing does. Pure, without torch."""
    if spec.renormalise:
        return "renormalises tokens, which only the reference form can do", "train one without renormalise"
    if spec.gate_rows == "last":
        return "has gate_rows last, with which an answer would depend on how its prompt is cut", "train one with gate_rows per_query"
    if spec.family == "D" and kv_bits is not None:
        why = "is of family D, whose gate looks at every cached token and needs an unquantised cache"
        return why, "use family A, B or C, or leave kv_bits out"
    return None


def load_operator(checkpoint: Path, model: PreTrainedModel, kv_bits: KvBits | None) -> tuple[RepairOperator, Path]:
    """The operator for `model`, and the file it was read from.

    checkpoint: a `repair_step_<N>.pt`, or the folder of a run, whose newest is taken. Raises EngineError for an operator that is
    not served, and what `load_repair` raises.
    """
    from cachemedicpp.repair.operator import layout_of
    from cachemedicpp.training.state import load_repair

    path = checkpoint_file(checkpoint)
    operator, _ = load_repair(path, layout_of(model), model.device)
    if refused := refusal(operator.spec, kv_bits):
        raise EngineError(f"repair: {path.name} {refused[0]}; {refused[1]}.")
    return operator, path


def repaired(model: PreTrainedModel, operator: RepairOperator | None) -> AbstractContextManager[None]:
    """The block in which every forward pass of `model` is repaired; without an operator it changes nothing."""
    if operator is None:
        return nullcontext()
    from cachemedicpp.repair.attention import protecting

    return protecting(model, operator)

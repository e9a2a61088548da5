"""A CacheMedic operator in a served model: its checkpoint, what is refused, and the block it runs in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from macprovider.engines.base import EngineError, KvBits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cachemedicpp.repair.operator import RepairOperator


def load_operator(checkpoint: Path, model: PreTrainedModel, kv_bits: KvBits | None) -> RepairOperator:
    """The operator for `model`.

    checkpoint: a `repair_step_<N>.pt`, or the folder of a run, whose newest is taken. Raises EngineError for an operator that is
    not served, and what `load_repair` raises.
    """
    from cachemedicpp.repair.operator import layout_of
    from cachemedicpp.training.state import FOLDER, latest_repair, load_repair

    path = checkpoint.expanduser()
    if path.is_dir():
        found = latest_repair(path.parent if path.name == FOLDER else path)
        if found is None:
            raise EngineError(
                f"repair: {checkpoint} holds no checkpoints/repair_step_<N>.pt; give the folder of a trained run, or one of its files."
            )
        path = found
    operator, _ = load_repair(path, layout_of(model), model.device)
    spec = operator.spec
    if spec.renormalise:
        raise EngineError(f"repair: {path.name} renormalises tokens, which only the reference form can do; train one without renormalise.")
    if spec.gate_rows == "last":
        raise EngineError(
            f"repair: {path.name} has gate_rows last, with which an answer would depend on how its prompt is cut; "
            "train one with gate_rows per_query."
        )
    if spec.family == "D" and kv_bits is not None:
        raise EngineError(
            f"repair: {path.name} is of family D, whose gate looks at every cached token and needs an unquantised cache; "
            "leave kv_bits out, or use family A, B or C."
        )
    return operator


def repaired(model: PreTrainedModel, operator: RepairOperator | None) -> AbstractContextManager[None]:
    """The block in which every forward pass of `model` is repaired; without an operator it changes nothing."""
    if operator is None:
        return nullcontext()
    from cachemedicpp.repair.attention import protecting

    return protecting(model, operator)

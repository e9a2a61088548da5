"""What an evaluation measures with: the checkpoint, the operator in it, and the corruption of the run. (specs/medic.md, 8.5; [C27])"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cachemedicpp.config.settings import mixture_of
from cachemedicpp.evaluation.defences import Setup
from cachemedicpp.faults.events import TARGETED
from cachemedicpp.faults.injection import donor_cache
from cachemedicpp.repair.heuristics import HeuristicSettings
from cachemedicpp.repair.operator import RepairOperator, layout_of
from cachemedicpp.repair.spec import OperatorSpec
from cachemedicpp.training.distillation import OVERWRITE, operator_of, recipe_of
from cachemedicpp.training.state import latest_repair, load_repair
from modelwright.errors import ConfigError, Fault, MissingFileError
from modelwright.files import sha256_file

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from cachemedicpp.config.sections import RunConfig


def evaluated_checkpoint(folder: Path, allow_untrained: bool) -> Path | None:
    """The newest repair file of the run in `folder`; None with `allow_untrained` where there is none, else MissingFileError."""
    path = latest_repair(folder)
    if path is None and not allow_untrained:
        missing = folder / "checkpoints"
        raise MissingFileError(
            f"There is no repair_step_<N>.pt in {missing}; train this run first, or give --allow_untrained to evaluate an untrained "
            "operator, which changes nothing.",
            missing,
        )
    return path


def checkpoint_identity(path: Path) -> dict[str, Any]:
    """`step` and `sha256` of a repair file: when one of them changes, results no longer belong to it."""
    return {"step": int(path.stem.rpartition("_")[2]), "sha256": sha256_file(path)}


def evaluated_operator(config: RunConfig, model: PreTrainedModel, path: Path | None) -> RepairOperator:
    """The trained operator, or one at its start for None. Raises ConfigError when the file holds another than the run's."""
    if path is None:
        return operator_of(config, model).eval()
    operator, _ = load_repair(path, layout_of(model), model.device)
    held, asked = operator.spec.as_mapping(), OperatorSpec.from_mapping(config.repair.model_dump()).as_mapping()
    todo = "evaluate with the configuration it was trained with, or train again"
    different = [name for name in held if held[name] != asked[name]]
    if different:
        raise ConfigError([Fault(f"repair.{name}", repr(asked[name]), f"{held[name]!r}, as in {path.name}", todo) for name in different])
    return operator


def evaluation_setup(config: RunConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, types: Sequence[str]) -> Setup:
    """The setup of a run configuration; makes the donor cache where one of `types` copies it."""
    params = config.corruption.params
    copies = OVERWRITE in types or (TARGETED in types and params.targeted_base_type == OVERWRITE)
    donor = donor_cache(model, tokenizer, params.donor_prompt, config.repair.protect_layers) if copies else None
    return Setup(
        recipe_of(config, mixture_of(config), donor).corruption,
        HeuristicSettings(**config.baseline.model_dump()),
        config.eval.heuristic_mask,
        form=served_form(config),
        inline=config.corruption.inject == "inline",
        batch=config.eval.batch_size,
    )


def served_form(config: RunConfig) -> Literal["collapsed", "extended"] | None:
    """The form in which the repair is measured: as configured, None (the operator's own) for the reference form, which never serves."""
    form = config.repair.form
    return None if form == "materialised" else form

"""LoRA on every linear layer, with embeddings and norms beside it when the stretch is large.

Hu et al. 2021 (arXiv 2106.09685) for the adapter; Chen et al. 2023 (LongLoRA, arXiv 2309.12307) for training embeddings
and norms when a context window grows. The injection itself is peft's.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelwright.errors import LoadError
from scaler_wizard.strategies.base import StrategyPlan, Support, TrainableShare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.nn import Module, Parameter
    from transformers import PreTrainedModel

    from scaler_wizard.adaptive_scaling import HardwareProfile, ScalingTargets

ADAPTER_NAME = "default"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
logger = logging.getLogger(__name__)


class LoraStrategy:
    """Low-rank adapters in every linear layer except the output head."""

    name = "lora"
    quantised = False

    def supports(self, config: Mapping[str, Any], hardware: HardwareProfile) -> Support:
        if config.get("quantization_config") and not self.quantised:
            return Support(
                False,
                "the base model is stored quantised: adapt it with --strategy qlora, or give a full-precision model",
            )
        return Support(True)

    def plan(self, targets: ScalingTargets, hardware: HardwareProfile, template: Mapping[str, Any]) -> StrategyPlan:
        from scaler_wizard.adaptive_scaling import suggest_lora_config

        suggestion = suggest_lora_config(targets, hardware)
        return StrategyPlan(
            strategy=self.name,
            rank=suggestion.rank,
            alpha=suggestion.alpha,
            dropout=suggestion.dropout,
            train_embeddings=targets.context_multiplier >= 4,
            quantised=self.quantised,
        )

    def prepare(self, model: PreTrainedModel, plan: StrategyPlan) -> PreTrainedModel:
        """Inject adapters. On a tied model, trained embeddings keep the tie, so the output head trains with them."""
        from peft import LoraConfig, get_peft_model

        tied = is_tied(model)
        also_trained = trained_whole(model) if plan.train_embeddings else []
        if plan.train_head and not tied:
            also_trained = sorted({*also_trained, head_name(model)})
        config = LoraConfig(
            r=plan.rank,
            lora_alpha=plan.alpha,
            lora_dropout=plan.dropout,
            target_modules="all-linear",
            modules_to_save=also_trained or None,
            ensure_weight_tying=bool(tied and also_trained),
            use_rslora=plan.use_rslora,
            use_dora=plan.use_dora,
            rank_pattern=dict(plan.rank_pattern),
            task_type="CAUSAL_LM",
        )
        with quiet_peft():
            adapted = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.dtype.itemsize < 4:
                parameter.data = parameter.data.float()  # AdamW on 16-bit weights loses steps as small as 2e-5
        return adapted

    def trainable_parameters(self, model: PreTrainedModel) -> Iterable[Parameter]:
        return [parameter for parameter in model.parameters() if parameter.requires_grad]

    def save(self, model: PreTrainedModel, path: Path) -> None:
        with quiet_peft():
            model.save_pretrained(str(path), safe_serialization=True, save_embedding_layers=False)
        (path / "README.md").unlink(missing_ok=True)  # peft's empty model card says nothing about this run

    def load(self, model: PreTrainedModel, path: Path) -> PreTrainedModel:
        """Read the adapter in `path`.

        Raises LoadError when a file is absent or its tensors do not fit the model.
        """
        from peft import PeftModel, set_peft_model_state_dict
        from safetensors.torch import load_file

        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (path / name).is_file():
                raise LoadError(f"{path} holds no {name}: it is not an adapter directory. Give a phase or adapters/ of a run.")
        with quiet_peft():
            if not isinstance(model, PeftModel):
                return PeftModel.from_pretrained(model, str(path), adapter_name=ADAPTER_NAME, is_trainable=True)
            result = set_peft_model_state_dict(model, load_file(str(path / WEIGHTS_FILE)), adapter_name=ADAPTER_NAME)
        if result.unexpected_keys:
            raise LoadError(
                f"{path / WEIGHTS_FILE} holds {len(result.unexpected_keys)} tensors that this model has no place for "
                f"(first: {result.unexpected_keys[0]}). It was written for another model or another rank."
            )
        return model

    def unload(self, model: PreTrainedModel) -> PreTrainedModel:
        """The base model with its original weights; peft alone would leave the trained embeddings and norms in it."""
        import torch

        with quiet_peft(), torch.no_grad():
            for module in model.modules():
                if hasattr(module, "modules_to_save") and hasattr(module, "original_module"):
                    module.modules_to_save[ADAPTER_NAME].load_state_dict(module.original_module.state_dict())
            return model.unload()


def is_tied(model: Any) -> bool:
    """True when the output head and the input embedding are one tensor."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def trained_whole(model: Any) -> list[str]:
    """Last name parts of the input embedding and of every norm of `model`, as peft's `modules_to_save` wants them."""
    embedding = model.get_input_embeddings()
    found = {
        name.rpartition(".")[2] for name, module in model.named_modules() if module is embedding or "norm" in type(module).__name__.lower()
    }
    return sorted(found)


def head_name(model: Any) -> str:
    """Last name part of the output head. Raises LoadError for a model without one."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if module is head and head is not None:
            return str(name.rpartition(".")[2])
    raise LoadError(f"The model {type(model).__name__} has no output head of its own, so its vocabulary cannot grow.")


def trainable_share(model: Module) -> TrainableShare:
    """Count trained and all parameters of `model`.

    `parameters()` yields a tied tensor once. Copies that peft keeps beside a wholly trained module (its original
    weight) are not part of the model that results, so they are left out of the total.
    """
    trainable = total = 0
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return TrainableShare(trainable, total)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Send warnings of peft to the log instead of the terminal while its functions run."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        logger.debug("peft: %s", warning.message)

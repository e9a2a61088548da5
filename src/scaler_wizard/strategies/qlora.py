"""QLoRA: LoRA over base weights held in 4 bits (Dettmers et al. 2023, arXiv 2305.14314).

Only used when it is named: it needs bitsandbytes and a CUDA device, and says so when either is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from scaler_wizard.strategies.base import StrategyPlan, Support
from scaler_wizard.strategies.lora import LoraStrategy

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedModel

    from scaler_wizard.adaptive_scaling import HardwareProfile


class QloraStrategy(LoraStrategy):
    """LoRA on a 4-bit NF4 base with double quantisation and bf16 compute."""

    name = "qlora"
    quantised = True

    def supports(self, config: Mapping[str, Any], hardware: HardwareProfile) -> Support:
        missing = []
        if find_spec("bitsandbytes") is None:
            missing.append("the package bitsandbytes is not installed")
        if hardware.gpu_count == 0:
            missing.append("no CUDA device is visible")
        if missing:
            return Support(False, f"qlora cannot run here: {' and '.join(missing)}. Use --strategy lora.")
        return Support(True)

    def quantisation(self) -> BitsAndBytesConfig:
        """What to hand to `from_pretrained(quantization_config=…)`."""
        import torch
        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )

    def prepare(self, model: PreTrainedModel, plan: StrategyPlan) -> PreTrainedModel:
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return super().prepare(model, plan)
